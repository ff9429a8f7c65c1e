"""What `print(plan)` shows: one screen, whatever the model, and first what is the case."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn
from torch.nn.utils import prune

from speedup import Plan, make_masks, materialize, plan_speedup
from speedup.ir.report import Asked, Inside, Outside, Report
from speedup.pruners import Norm
from speedup.rendering.folding import folded_rows
from speedup.rendering.overview import overview
from tests.support.reports import linear, reported, residual, small
from tests.support.repository import README
from tests.support.vision import torchvision_models

X = torch.randn(1, 3, 8, 8)


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 36, 10),
    )  # fmt: skip


def scattered(model: nn.Module) -> dict[str, Tensor]:
    """Nine of ten weights are masked, none of a whole row or column."""
    found = {}
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            flat = torch.arange(weight.numel()).reshape(weight.shape[0], -1)
            found[name] = ((flat + torch.arange(weight.shape[0])[:, None]) % 10 == 0).reshape(weight.shape)
    return found


def first_line(plan: Plan) -> str:
    return str(plan).splitlines()[0]


def test_first_line_says_what_goes() -> None:
    model = net()
    plan = plan_speedup(model, X, make_masks(model, X, Norm(), 0.5))
    gone = 1 - plan.parameters_after / plan.parameters_before
    macs = 1 - plan.macs_after / plan.macs_before
    assert first_line(plan) == f"{gone:.1%} of the parameters and {macs:.1%} of the MACs go"


def test_scattered_zeros_are_told_with_their_share_and_what_to_do() -> None:
    plan = plan_speedup(net(), X, scattered(net()))
    first, second, *_ = str(plan).splitlines()
    assert first.startswith("Nothing shrinks: 9")
    assert first.endswith("none of that in whole rows or columns, which alone can go")
    assert second.startswith("Mask whole channels: make_masks(model, x, Norm(), 0.5)")
    assert (
        plan.report.asked is not None and f"{plan.report.asked.zero / plan.report.asked.weights:.1%}" in first
    )


def test_scattered_zeros_of_a_pruned_model_are_told_without_masks() -> None:
    model = net()
    for layer in (model[0], model[2]):
        prune.l1_unstructured(layer, "weight", 0.5)
    assert "none of that in whole rows" in first_line(plan_speedup(model, X))


def test_a_plan_without_masks_says_that_there_are_none() -> None:
    plan = plan_speedup(net(), X)
    assert first_line(plan) == "Nothing shrinks: there are no masks and no weight is zero"
    assert str(plan).splitlines()[1].startswith("Pass masks=; make_masks(model, x, Norm(), 0.5)")


def test_a_small_model_says_that_nothing_is_zero_any_more() -> None:
    model = net()
    again = plan_speedup(materialize(plan_speedup(model, X, make_masks(model, X, Norm(), 0.5))), X)
    assert first_line(again) == "Nothing shrinks: there are no masks and no weight is zero"
    assert "made small before" in " ".join(str(again).split())


def test_masks_of_biases_alone_mask_no_weight() -> None:
    plan = plan_speedup(net(), X, {"0.bias": torch.arange(16) > 3})
    assert first_line(plan) == "Nothing shrinks: no weight is masked and no weight is zero"


def test_masked_outputs_say_what_holds_them_back() -> None:
    plan = plan_speedup(net(), X, {"5.weight": (torch.arange(10) > 4)[:, None]})
    text = " ".join(str(plan).split())
    assert "all of that in whole rows or columns" in first_line(plan)
    assert (
        "Most is held back by outputs of the model, whose shapes stay. What would help: mask other layers"
        in text
    )


def test_a_plan_that_shrinks_tells_of_scattered_zeros_too() -> None:
    masks = scattered(net())
    masks["0.weight"] = masks["0.weight"] & (torch.arange(16) % 2 > 0).reshape(-1, 1, 1, 1)
    lines = str(plan_speedup(net(), X, masks)).splitlines()
    assert lines[0].endswith("of the MACs go")
    assert "of the weights are zero, " in lines[1] and lines[2].startswith("Mask whole channels")


def test_nothing_is_said_of_zeros_where_all_are_in_slices() -> None:
    model = net()
    text = str(plan_speedup(model, X, make_masks(model, X, Norm(), 0.5)))
    assert "of the weights are zero" not in text and "Mask whole channels" not in text


def test_totals_are_asked_gone_and_held_back() -> None:
    report = evolve(
        reported([linear("a", 100, 60)], size=(400_000, 240_000)),
        asked=Asked(1, 57_600, 28_800, 28_800, parameters=5_760, macs=0),
    )
    lines = overview(report, "Net", width=120).splitlines()
    start = next(n for n, line in enumerate(lines) if "before" in line)
    assert lines[start].split() == ["before", "after", "gone", "asked", "for", "held", "back"]
    assert lines[start + 1].split() == [
        "parameters", "57.6k", "34.6k", "23.0k", "(40.0%)", "28.8k", "(50.0%)", "5.76k", "(10.0%)",
    ]  # fmt: skip
    assert lines[start + 3].split() == ["MB", "0.400", "0.240", "0.160", "(40.0%)"]


@cache
def resnet(masked: str) -> Plan:
    torch.manual_seed(0)
    model = torchvision_models().resnet18().eval()
    masks = {}
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            keep = torch.ones(layer.out_channels)
            order = torch.randperm if masked == "at random" else torch.arange
            keep[order(layer.out_channels)[: layer.out_channels // 2]] = 0
            masks[path] = {"weight": keep.reshape(-1, 1, 1, 1)}
    return plan_speedup(model, torch.randn(1, 3, 224, 224), masks)


class Encoder(nn.Module):
    """Twelve layers of a transformer, without an end."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.layers = nn.ModuleList(
            [layer, *(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True) for _ in range(11))]
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@cache
def transformer() -> Plan:
    torch.manual_seed(0)
    model = Encoder().eval()
    masks: dict[str, Any] = {}
    for number in range(12):
        keep = torch.ones(64)
        keep[torch.randperm(64)[:32]] = 0
        masks[f"layers.{number}.linear1"] = {"weight": keep[:, None], "bias": keep}
    return plan_speedup(model, torch.randn(2, 5, 32), masks)


@pytest.mark.parametrize(
    "planned",
    [lambda: resnet("at random"), lambda: resnet("alike"), transformer],
    ids=["random", "alike", "encoder"],
)
def test_a_deep_model_is_told_on_one_screen(planned: Callable[[], Plan]) -> None:
    text = str(planned())
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 120


def test_layers_of_a_transformer_that_change_alike_are_one() -> None:
    lines = str(transformer()).splitlines()
    (block,) = (line for line in lines if "0…11 (12 alike)" in line)
    (inner,) = (line for line in lines if line.strip().startswith("linear1"))
    assert "Linear(32, 64) -> (32, 32)" in inner
    assert lines.index(inner) > lines.index(block)


def test_the_readme_shows_what_is_printed() -> None:
    shown = re.search(
        r"<!-- compared by tests/rendering/test_overview.py -->\n```text\n(.*?)\n```", README, re.DOTALL
    )
    assert shown is not None
    assert shown[1] == str(resnet("at random"))


def labels(text: str) -> list[str]:
    """The modules of the tree, with the spaces in front."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("module"))
    rows = lines[start + 1 : lines.index("", start)]
    return [row[: len(row) - len(row.lstrip())] + row.split()[0] for row in rows]


def test_the_tree_is_as_deep_as_is_asked_for() -> None:
    plan = resnet("at random")
    top = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert labels(plan.overview(1)) == top
    second = labels(plan.overview(2))
    assert [label for label in second if not label.startswith(" ")] == top
    assert second[3:5] == ["  0", "  1"]
    assert any(label == "    conv2" for label in labels(plan.overview(3)))
    assert labels(plan.overview(99)) == labels(plan.overview(3)) or len(labels(plan.overview(99))) > len(
        second
    )


def test_counts_of_the_tree_add_up() -> None:
    plan = resnet("at random")
    for depth in (1, 2, 3):
        rows = folded_rows(plan.report, depth)
        for kind in ("parameters", "macs"):
            outer = [getattr(row, kind) for row in rows if row.depth == 0]
            assert tuple(map(sum, zip(*outer, strict=True))) == getattr(plan.report, kind)


def test_what_stays_as_it_is_is_one_row() -> None:
    layers = [linear(f"body.{name}", 8, 8) for name in ("a", "b", "c", "d")]
    text = overview(reported([linear("stem"), *layers]), "Net", width=120)
    assert labels(text) == ["stem", "body"]
    text = overview(reported([linear("body.stem"), *layers]), "Net", width=120)
    assert labels(text) == ["body", "  stem", "  the"]
    assert "the others" in text and "4 layers, 0 change" in text


def test_a_thousand_modules_that_all_differ_are_told_in_ranges() -> None:
    report = reported([linear(f"layers.{n}.{name}", 2000, 1000 + n) for n in range(500) for name in "ab"])
    rows = labels(overview(report, "Net", width=120))
    assert len(rows) <= 17
    assert len(overview(report, "Net", width=120).splitlines()) <= 40


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("report", [small(), residual(334), reported([]), reported([linear("")])])
def test_no_line_is_wider_than_the_terminal(report: Report, width: int) -> None:
    # A word that is longer than a line has a line of its own, and is cut there.
    assert max(map(len, overview(report, "Net", width=width).splitlines())) <= width


def test_no_more_than_five_reasons_are_listed() -> None:
    report = small()
    report = evolve(
        report,
        blockers=tuple(
            evolve(report.blockers[0], reason=f"reason {'i' * n}", macs=10**6 * (9 - n)) for n in range(8)
        ),
    )
    text = overview(report, "Net", width=120)
    assert "reason iiii" in text and "reason iiiii" not in text
    shares = [float(share) for share in re.findall(r"^  (?:and )?([\d.]+)% of the MACs", text, re.MULTILINE)]
    assert "for 3 more reasons" in text
    assert len(shares) == 6 and shares[-1] < sum(shares[:-1])


def test_a_share_that_is_small_is_not_called_none() -> None:
    report = evolve(small(), blockers=(evolve(small().blockers[0], macs=1, parameters=1),))
    assert "<0.1% of the MACs and <0.1% of the parameters" in overview(report, "Net", width=120)


def test_long_lists_are_cut_and_say_where_the_rest_is() -> None:
    report = evolve(
        small(),
        unknown_operators=tuple(f"my::op{n}" for n in range(9)),
        islands=tuple(Inside(f"part{n}", "Net", 1) for n in range(9)),
        outside=(Outside("", "Top", "no"),),
        assumptions=tuple(f"x.shape[2] == {n}" for n in range(9)),
    )
    text = " ".join(overview(report, "Net", width=120).split())
    assert "my::op3 and 5 more (plan.unknown_operators)" in text
    assert "part3 and 5 more (plan.report.islands); what stays apart is in plan.report.outside (1)" in text
    assert "- x.shape[2] == 2 and 6 more (plan.assumptions)" in text


def test_repr_is_three_lines_that_say_what_it_is() -> None:
    plan = resnet("at random")
    first, second, third = repr(plan).splitlines()
    assert first == "Plan of ResNet with x (1, 3, 224, 224), masks on 20 parameters"
    assert second.strip().startswith(first_line(plan)) and "MB 46.8 -> " in second
    assert "held back" in third and "of the MACs" in third
    assert len(repr(plan)) < 400


def test_a_plan_that_was_read_back_is_told_in_the_same_words() -> None:
    model = net()
    plan = plan_speedup(model, X, make_masks(model, X, Norm(), 0.5))
    again = Plan.from_json(plan.to_json())
    assert (str(again), repr(again), again.table()) == (str(plan), repr(plan), plan.table())
