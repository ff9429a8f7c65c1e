"""The figure of a plan: bars that say what the report says, in files that other programs read."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from attrs import evolve
from PIL import Image
from torch import nn

from speedup import FileWriteError, MissingPackageError, Plan, ReportFormatError, plan_figure, plan_speedup
from speedup.ir.report import Layer, Report
from speedup.rendering.figure import write_figure
from tests.support.reports import linear, reported, residual

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def plan() -> Plan:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    mask = torch.tensor([1.0] * 5 + [0.0] * 3)
    return plan_speedup(model, torch.randn(2, 4), {"0.weight": mask[:, None], "0.bias": mask})


def telling(plan: Plan, report: Report) -> Plan:
    return evolve(plan, report=report)


def names(plan: Plan) -> list[str]:
    return [label.get_text() for label in plan_figure(plan).axes[0].get_yticklabels()]


def widths(bars: Iterable[Any]) -> list[float]:
    return [bar.get_width() for bar in bars]


def test_bars_are_what_layers_were_and_become(plan: Plan) -> None:
    for axes, kind in zip(plan_figure(plan).axes, ("parameters", "macs"), strict=True):
        lengths = widths(axes.patches)
        before = [getattr(layer, f"{kind}_before") for layer in plan.layers]
        after = [getattr(layer, f"{kind}_after") for layer in plan.layers]
        assert lengths == before + after


def test_shares_stand_beside_the_bars_of_layers_that_change(plan: Plan) -> None:
    shares = [text.get_text() for text in plan_figure(plan).axes[0].texts]
    changed = [layer for layer in plan.layers if layer.parameters_after != layer.parameters_before]
    assert shares == [f"{layer.parameters_after / layer.parameters_before:.0%}" for layer in changed]
    assert 0 < len(shares) < len(plan.layers)


def test_first_layer_is_on_top(plan: Plan) -> None:
    axes = plan_figure(plan).axes[0]
    low, high = axes.get_ylim()
    assert names(plan) == ["0", "2", "4"]
    assert low > high


@pytest.mark.parametrize("layers", [1002, 61])
def test_a_deep_model_has_no_more_bars_than_are_legible(plan: Plan, layers: int) -> None:
    report = reported(residual(334).layers[:layers])
    figure = plan_figure(telling(plan, report))
    bars = figure.axes[0].patches
    assert len(bars) <= 2 * 60
    assert sum(widths(bars)) == sum(report.parameters)


def test_layers_of_repeated_blocks_share_a_bar_with_their_sum(plan: Plan) -> None:
    layers = [linear(f"blocks.{n}.{name}", 64, 32) for n in range(6) for name in ("up", "down")]
    odd = telling(plan, reported([linear("stem"), *layers]))
    assert names(odd) == ["stem", "blocks.0…5.up (6 alike)", "blocks.0…5.down (6 alike)"]
    lengths = widths(plan_figure(odd).axes[0].patches)
    assert lengths[1] == 6 * layers[0].parameters_before and lengths[4] == 6 * layers[0].parameters_after


def test_what_has_no_counts_has_no_bar(plan: Plan) -> None:
    layers = [
        linear("one"),
        Layer("sum", "Sum", "Sum", "Sum", 0, 0, 0, 0, ("forward rewritten",)),
        linear("two"),
    ]
    assert names(telling(plan, reported(layers))) == ["one", "two"]


def test_colours_have_a_legend_and_the_title_tells_megabytes(plan: Plan) -> None:
    figure = plan_figure(plan)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["before", "after", "stays as it is"]
    assert plan.report.size is not None
    assert figure.get_suptitle().startswith("Sequential\n") and figure.get_suptitle().endswith(" MB on disk")


def test_names_are_no_formulas(plan: Plan, tmp_path: Path) -> None:
    odd = telling(plan, reported([linear("cost_$x$"), linear("$\\frac{")]))
    assert names(odd) == ["cost_$x$", "$\\frac{"]
    odd.write_report(tmp_path / "odd.svg", title="$\\frac{")
    assert "cost_$x$" in (tmp_path / "odd.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("report", [reported([]), reported([linear("", 1, 1)])])
def test_models_of_no_or_one_layer_are_drawn(plan: Plan, report: Report, tmp_path: Path) -> None:
    telling(plan, report).write_report(tmp_path / "small.png")
    assert (tmp_path / "small.png").stat().st_size > 1000


def test_png_is_an_image_of_the_asked_resolution(plan: Plan, tmp_path: Path) -> None:
    sizes = []
    for dots in (50, 100):
        write_figure(plan.report, tmp_path / "plan.png", "", dots_per_inch=dots)
        with Image.open(tmp_path / "plan.png") as image:
            image.verify()
            sizes.append(image.size)
    assert sizes[0][0] * 2 == sizes[1][0] == 1100


def test_svg_is_xml_that_keeps_its_text(plan: Plan, tmp_path: Path) -> None:
    plan.write_report(tmp_path / "plan.SVG")
    root = ElementTree.parse(tmp_path / "plan.SVG").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = " ".join(root.itertext())
    assert "Sequential" in words
    assert "Parameters: " in words


def test_pdf_is_one(plan: Plan, tmp_path: Path) -> None:
    plan.write_report(str(tmp_path / "plan.pdf"))
    assert (tmp_path / "plan.pdf").read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_equal_plans_give_equal_files(plan: Plan, kind: str, tmp_path: Path) -> None:
    one, two = tmp_path / f"1.{kind}", tmp_path / f"2.{kind}"
    for path in (one, two):
        plan.write_report(path)
    assert one.read_bytes() == two.read_bytes()


def test_another_suffix_is_refused_before_anything_is_written(plan: Plan, tmp_path: Path) -> None:
    for name in ("plan.jpeg2000", "plan"):
        with pytest.raises(ReportFormatError, match=rf"{name}'.*\.html, \.svg, \.pdf or \.png"):
            plan.write_report(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["html", "svg"])
def test_a_folder_that_is_not_there_is_an_error_that_names_the_file(
    plan: Plan, kind: str, tmp_path: Path
) -> None:
    with pytest.raises(FileWriteError, match=f"missing/plan.{kind}"):
        plan.write_report(tmp_path / "missing" / f"plan.{kind}")


def test_without_matplotlib_the_error_says_what_to_install(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'torch-speedup\[figures\]'"):
        plan.write_report(tmp_path / "plan.png")
    assert list(tmp_path.iterdir()) == []


def test_no_window_or_global_state_of_matplotlib_is_used(plan: Plan) -> None:
    before = "matplotlib.pyplot" in sys.modules
    plan_figure(plan)
    assert ("matplotlib.pyplot" in sys.modules) == before
