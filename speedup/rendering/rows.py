"""The rows that a report's tables consist of, whatever they are drawn with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

from attrs import evolve, frozen

from speedup.ir.report import Layer, Report
from speedup.rendering.alike import Entry, merge_alike
from speedup.rendering.counts import change, megabytes, share_removed, short_count


@frozen
class Row:
    """One layer, several that change alike, or those of a module. Counts are (before, after).

    Of layers that change alike, `alike` says how many; all else is told of each of them.
    """

    path: str
    before: str
    after: str
    parameters: tuple[int, int]
    macs: tuple[int, int]
    notes: str = ""
    alike: int = 1


def layer_rows(report: Report, most: int) -> tuple[Row, ...]:
    """A row per layer that changes, in order; alike ones share one.

    Where there are still more than `most`, the layers of a module share one, of modules as deep as possible.
    """
    changed = [layer for layer in report.layers if layer.is_changed]
    rows = [_row(entry) for entry in merge_alike(map(_entry, changed))]
    if len(rows) <= most:
        return tuple(rows)
    return module_rows(changed, most)


def bar_rows(layers: Sequence[Layer], most: int) -> tuple[Row, ...]:
    """A row per layer with counts in order, alike ones of repeated blocks in one with their sums.

    Where there are still more than `most`, the layers of a module share one, as in `module_rows`.
    """
    drawn = [x for x in layers if x.parameters_before or x.parameters_after or x.macs_before or x.macs_after]
    merged = [_row(entry) for entry in merge_alike(map(_entry, drawn))]
    if len(merged) > most:
        return module_rows(drawn, most)
    return tuple(
        evolve(
            row,
            path=row_label(row.path, row.alike),
            parameters=(row.alike * row.parameters[0], row.alike * row.parameters[1]),
            macs=(row.alike * row.macs[0], row.alike * row.macs[1]),
        )
        for row in merged
    )


def module_rows(layers: Sequence[Layer], most: int) -> tuple[Row, ...]:
    """At most `most` rows for `layers` in order, those of a module in one where there are more.

    Modules are as deep as that allows; where even the outermost are too many, ranges of them share a row.
    """
    deepest = max((layer.path.count(".") for layer in layers), default=0)
    for depth in range(deepest, -1, -1):
        groups: dict[str, list[Layer]] = {}
        for layer in layers:
            groups.setdefault(".".join(layer.path.split(".")[: depth + 1]), []).append(layer)
        if len(groups) <= most:
            return tuple(_row_of(path, group) for path, group in groups.items())
    size = ceil(len(groups) / most)
    items = list(groups.items())
    ranges = (items[start : start + size] for start in range(0, len(items), size))
    return tuple(
        _row_of(f"{part[0][0]} … {part[-1][0]}", [layer for _, group in part for layer in group])
        for part in ranges
    )


def blocked_rows(report: Report) -> tuple[Entry, ...]:
    """What could go but stays: `facts` are (channels, of how many), the text is the reason."""
    return merge_alike(Entry(b.path, (b.count, b.of), (b.reason,)) for b in report.blocked)


def outside_rows(report: Report) -> tuple[Entry, ...]:
    """What is not planned itself: the text is the reason."""
    return merge_alike(Entry(o.path or f"(model) {o.kind}", None, (o.reason,)) for o in report.outside)


def amount(entry: Entry) -> str:
    """How many channels of how many an entry of `blocked_rows` is about."""
    facts: Any = entry.facts
    count, total = facts
    return f"{count:,} of {total:,}"


def totals(report: Report, write: Callable[[int], str]) -> tuple[str, str]:
    """What is removed of the model, and what it was and becomes, in a line each."""
    return (
        f"Removed: {share_removed(*report.parameters)} of the parameters, "
        f"{share_removed(*report.macs)} of the MACs",
        f"Parameters {change(*report.parameters, write)}, MACs {change(*report.macs, write)}",
    )


def sizes_line(report: Report) -> str:
    """What a model was and becomes, in parameters, MACs and, where it is known, megabytes."""
    counts = [
        f"parameters {change(*report.parameters, short_count)}",
        f"MACs {change(*report.macs, short_count)}",
    ]
    if report.size is not None:
        counts.append(f"MB {change(*report.size, megabytes)}")
    return ", ".join(counts)


def row_label(path: str, alike: int) -> str:
    """`path`, and how many modules it stands for."""
    return path if alike == 1 else f"{path} ({alike} alike)"


def _entry(layer: Layer) -> Entry:
    return Entry(layer.path or "(model)", evolve(layer, path="", notes=()), ("; ".join(layer.notes),))


def _row(entry: Entry) -> Row:
    layer: Any = entry.facts
    return Row(
        entry.path,
        layer.before,
        "" if layer.after == layer.before else layer.after.removeprefix(layer.kind),
        (layer.parameters_before, layer.parameters_after),
        (layer.macs_before, layer.macs_after),
        entry.texts[0],
        entry.count,
    )


def _row_of(path: str, layers: Sequence[Layer]) -> Row:
    """The row of a layer, or of several as the module `path`."""
    return _row(_entry(layers[0])) if len(layers) == 1 else _sum_rows(path, layers)


def _sum_rows(path: str, layers: Sequence[Layer]) -> Row:
    return Row(
        path or "(model)",
        f"{len(layers)} layers",
        "",
        (sum(x.parameters_before for x in layers), sum(x.parameters_after for x in layers)),
        (sum(x.macs_before for x in layers), sum(x.macs_after for x in layers)),
    )
