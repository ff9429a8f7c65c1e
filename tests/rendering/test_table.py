"""The table of a plan: what a person finds in it at the width of their terminal."""

from __future__ import annotations

import re

import pytest
from attrs import evolve

from speedup.ir.report import Blocked, Inside, Layer, Outside, Report
from speedup.rendering.table import report_table

LONG = "encoder.layers.encoder_layer_11.self_attention.output_projection"
WIDTHS = (60, 80, 120, 200)


def conv(path: str, before: int = 64, after: int = 48, *notes: str) -> Layer:
    counts = (before * 576, after * 576, before * 1_806_336, after * 1_806_336)
    return Layer(path, "Conv2d", f"Conv2d(64, {before})", f"Conv2d(64, {after})", *counts, notes)


def reported(*layers: Layer, blocked: tuple[Blocked, ...] = ()) -> Report:
    return Report(
        layers,
        blocked,
        (),
        (sum(x.parameters_before for x in layers), sum(x.parameters_after for x in layers)),
        (sum(x.macs_before for x in layers), sum(x.macs_after for x in layers)),
    )


def rows(text: str) -> list[list[str]]:
    """The cells of each line that belongs to a table's body."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]


def column(text: str, number: int) -> str:
    return "".join(row[number] for row in rows(text) if number < len(row))


SOME = reported(
    conv("stem"),
    conv(LONG, 100, 7, f"93 constant channels into bias of {LONG}"),
    conv("head", 10, 10),
    blocked=(Blocked(LONG, 3, 100, f"coupled with add of {LONG}, which needs them"),),
)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, report_table(SOME, width).splitlines())) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_all_lines_of_a_table_are_of_one_length(width: int) -> None:
    for table in re.findall(r"┏.*?┘", report_table(SOME, width), re.DOTALL):
        assert len({len(line) for line in table.splitlines()}) == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_of_a_path_a_size_or_a_note_is_lost(width: int) -> None:
    text = report_table(SOME, width)
    assert LONG in column(text, 0)
    unbroken = "".join(re.sub(r"\s", "", column(text, number)) for number in (1, 2, 3, 4))
    for part in ("Conv2d(64,100)->(64,7)", "93constantchannels", "7%", "3of100", "coupledwithaddof"):
        assert part in unbroken


@pytest.mark.parametrize("width", WIDTHS)
def test_lines_break_between_words_and_after_dots_only(width: int) -> None:
    words = set(LONG.replace(".", ". ").split())
    pieces = {piece for row in rows(report_table(SOME, width)) for piece in row[0].replace(".", ". ").split()}
    assert pieces - {"stem", "head"} == words


def test_counts_are_exact_where_there_is_room_then_short_then_shares() -> None:
    report = reported(conv("a.b.c", 1234, 617))
    assert "710,784 -> 355,392 (50%)" in report_table(report, 120)
    assert "711k -> 355k (50%)" in report_table(report, 88)
    (row, *_) = rows(report_table(report, 60))
    assert row[2:] == ["355k (50%)", "1.11G (50%)"]


def test_last_line_has_the_totals_and_the_one_before_what_is_removed() -> None:
    *_, removed, totals = report_table(reported(conv("one", 40, 10)), 120).splitlines()
    assert removed == "Removed: 75.0% of the parameters, 75.0% of the MACs"
    assert totals.startswith("Parameters 23,040 -> 5,760 (25%), MACs ")


def test_totals_fit_one_line_of_a_narrow_terminal() -> None:
    assert report_table(reported(conv("one", 4000, 1000)), 60).splitlines()[-1] == (
        "Parameters 2.30M -> 576k (25%), MACs 7.23G -> 1.81G (25%)"
    )


def test_a_share_of_all_but_one_is_not_called_all() -> None:
    assert "(<100%)" in report_table(reported(conv("one", 4000, 3999)), 120)


def test_layers_of_repeated_blocks_that_change_alike_share_a_row() -> None:
    layers = [conv(f"blocks.{i}.{name}", 64, 32) for i in range(6) for name in ("up", "down")]
    found = rows(report_table(reported(*layers), 160))
    assert [row[0] for row in found] == ["blocks.0…5.up (6 alike)", "blocks.0…5.down (6 alike)"]
    assert found[0][2].startswith("36,864 -> 18,432")


def test_blocks_of_blocks_are_merged_at_both_numbers() -> None:
    layers = [conv(f"stages.{i}.{j}.conv", 64, 32) for i in range(3) for j in range(4)]
    assert column(report_table(reported(*layers), 160), 0) == "stages.0…2.0…3.conv (12 alike)"


def test_a_block_that_changes_otherwise_has_its_own_row() -> None:
    layers = [conv(f"blocks.{i}", 64, 16 if i == 2 else 32) for i in range(6)]
    paths = [row[0] for row in rows(report_table(reported(*layers), 160))]
    assert paths == ["blocks.0…5 (5 alike)", "blocks.2"]


def test_layers_with_other_names_are_not_merged() -> None:
    layers = [conv(name) for name in ("q", "k", "v")]
    assert [row[0] for row in rows(report_table(reported(*layers), 160))] == ["q", "k", "v"]


def test_two_alike_layers_keep_a_row_each() -> None:
    layers = [conv(f"blocks.{i}") for i in range(2)]
    assert [row[0] for row in rows(report_table(reported(*layers), 160))] == ["blocks.0", "blocks.1"]


def test_numbers_that_differ_in_notes_and_reasons_become_their_range() -> None:
    layers = [conv(f"b.{i}", 64, 32, f"{i + 3} constant channels into bias of b.{i}") for i in range(4)]
    blocked = tuple(Blocked(f"b.{i}", 2, 64, f"coupled with add of b.{i}") for i in range(4))
    text = report_table(reported(*layers, blocked=blocked), 200)
    assert "3…6 constant channels into bias of b.0…3" in text
    assert "coupled with add of b.0…3" in text


def test_a_thousand_layers_that_all_differ_are_told_by_module() -> None:
    layers = [
        conv(f"stages.{i}.blocks.{j}.conv", 2000, 1000 + 10 * i + j) for i in range(100) for j in range(10)
    ]
    found = rows(report_table(reported(*layers), 160))
    assert [row[0] for row in found] == [f"stages.{i}.blocks" for i in range(100)]
    assert found[0][1] == "10 layers"
    assert found[0][2].startswith(f"11,520,000 -> {sum(1000 + j for j in range(10)) * 576:,}")


def test_a_thousand_reasons_that_all_differ_are_cut_and_the_table_says_so() -> None:
    blocked = tuple(Blocked(f"layer{i}", i + 1, 2000, "because") for i in range(1000))
    text = report_table(reported(conv("one"), blocked=blocked), 120)
    assert "and 800 more" in text
    assert len(text.splitlines()) < 250


def test_markup_in_names_is_printed_as_it_stands() -> None:
    layer = conv("blocks[red].:warning:[/red]")
    assert rows(report_table(reported(layer), 160))[0][0] == layer.path


def test_what_is_planned_apart_and_what_is_not_is_told() -> None:
    report = Report(
        (),
        (),
        ("aten.cummax.default",),
        (5, 5),
        (0, 0),
        (Inside("body", "Net", 2),),
        (Outside("", "Top", "no"),),
    )
    text = report_table(report, 80)
    for part in (
        "aten.cummax.default",
        "Planned each on its own: body",
        "(model) Top",
        "Parameters 5, MACs -",
    ):
        assert part in text


def test_width_of_the_terminal_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        assert report_table(SOME) == report_table(SOME, width)


LINES = (
    "x.shape[2] % 2 == 0 (at line 41 of merge.py); other sizes cannot be traced",
    f"x.shape[1] is 5, used by {LONG} (at line 7 of a/rather/long/name/of/a/file.py); no more were tried",
)


@pytest.mark.parametrize("width", WIDTHS)
def test_what_the_plan_relies_on_is_listed_line_by_line(width: int) -> None:
    report = evolve(SOME, assumptions=LINES)
    lines = report_table(report, width).splitlines()
    assert max(map(len, lines)) <= width
    listed = lines[lines.index("The plan relies on:") + 1 : -2]
    assert [line[:4] for line in listed if line.startswith("  - ")] == ["  - "] * 2
    assert all(line.startswith(("  - ", "    ")) for line in listed)
    said = "".join(listed).replace("  - ", "")
    assert re.sub(r"\s", "", said) == re.sub(r"\s", "", "".join(LINES))


def test_a_plan_that_relies_on_nothing_does_not_speak_of_it() -> None:
    assert "relies on" not in report_table(SOME, 120)
    assert report_table(evolve(SOME, assumptions=()), 120) == report_table(SOME, 120)
