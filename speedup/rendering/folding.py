"""The tree of modules as rows: folded by depth, with repeated modules that change alike as one."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from math import ceil

from attrs import frozen

from speedup.ir.report import Layer, Report
from speedup.rendering.alike import common_text
from speedup.rendering.tree import Branch, Counts, Leaf, tree_of

# Of fewer, a row each is read as fast.
_FEWEST = 3
_NUMBER = re.compile(r"\d+")


@frozen
class Folded:
    """A row of the tree: a layer, or a module with what is in it. Counts are (before, after).

    Of `alike` modules that change in the same way everything is told of each; `rest` are layers that stay as
    they are, counted together.
    """

    label: str
    depth: int
    text: str
    parameters: Counts
    macs: Counts
    alike: int = 1


@frozen
class _Entry:
    """What stands for one or several children of a branch that are alike."""

    label: str
    of: Branch | Leaf
    alike: int = 1


def folded_rows(report: Report, depth: int | None = None, most: int = 16) -> tuple[Folded, ...]:
    """The tree of `report`, `depth` levels of it; None: as many as make no more than `most` rows.

    Modules in which nothing changes are not opened.
    """
    root = tree_of(report, ranges=False)
    levels = (depth,) if depth is not None else range(_depth(root), 0, -1)
    for level in levels:
        rows = tuple(_rows(root, 0, level, most))
        if depth is not None or len(rows) <= most:
            return rows
    return tuple(_rows(root, 0, 1, most))


def _rows(branch: Branch, depth: int, levels: int, most: int) -> Iterator[Folded]:
    for entry in _entries(branch, most):
        label = entry.label if entry.alike == 1 else f"{entry.label} ({entry.alike} alike)"
        row = partial(Folded, label, depth, alike=entry.alike)
        match entry.of:
            case Leaf(of=Layer() as layer):
                yield row(
                    text=_sizes(layer),
                    parameters=(layer.parameters_before, layer.parameters_after),
                    macs=(layer.macs_before, layer.macs_after),
                )
            case Branch() as inner:
                text = f"{inner.layers:,} layers, {inner.changed:,} change"
                yield row(text=text, parameters=inner.parameters, macs=inner.macs)
                if levels > 1 and inner.changed:
                    yield from _rows(inner, depth + 1, levels - 1, most)


def _entries(branch: Branch, most: int) -> Sequence[_Entry]:
    """The children of a branch: alike ones as one, what stays as it is as one, ranges of them if too many."""
    children = [child for child in branch.children if _is_told(child)]
    staying = [child for child in children if not _changes(child)]
    rest: list[_Entry] = []
    if len(staying) >= _FEWEST:
        children = [child for child in children if _changes(child)]
        label = "all layers" if not children else "the others"
        rest.append(_Entry(label, Branch(label, tuple(staying))))
    groups: dict[Hashable, list[Branch | Leaf]] = {}
    for number, child in enumerate(children):
        # A name without a number has nothing to be merged with.
        groups.setdefault(_key(child) if _NUMBER.search(child.label) else number, []).append(child)
    entries: list[_Entry] = []
    for group in groups.values():
        if len(group) < _FEWEST:
            entries += [_Entry(child.label, child) for child in group]
        else:
            entries.append(_Entry(common_text([child.label for child in group]), group[0], len(group)))
    return [*_ranges(entries, most), *rest]


def _ranges(entries: Sequence[_Entry], most: int) -> Sequence[_Entry]:
    if len(entries) <= most:
        return entries
    size = ceil(len(entries) / most)
    parts = (entries[start : start + size] for start in range(0, len(entries), size))
    return [_range(part) for part in parts]


def _range(part: Sequence[_Entry]) -> _Entry:
    label = f"{part[0].label} … {part[-1].label}"
    return _Entry(label, Branch(label, tuple(one.of for one in part for _ in range(one.alike))))


def _depth(branch: Branch) -> int:
    return 1 + max((_depth(child) for child in branch.children if isinstance(child, Branch)), default=0)


def _is_told(child: Branch | Leaf) -> bool:
    """Whether there is anything to count in it."""
    if isinstance(child, Branch):
        return bool(child.layers)
    return isinstance(child.of, Layer) and bool(
        child.of.parameters_before or child.of.parameters_after or child.of.macs_before
    )


def _changes(child: Branch | Leaf) -> bool:
    if isinstance(child, Branch):
        return bool(child.changed)
    return isinstance(child.of, Layer) and child.of.is_changed


def _key(child: Branch | Leaf) -> Hashable:
    """What is equal of modules that change in the same way, whatever numbers are in their names."""
    label = _NUMBER.sub("#", child.label)
    if isinstance(child, Branch):
        return label, child.parameters, child.macs, tuple(map(_key, filter(_is_told, child.children)))
    return (label, *((child.of.before, child.of.after) if isinstance(child.of, Layer) else ()))


def _sizes(layer: Layer) -> str:
    if layer.after == layer.before:
        return layer.before
    return f"{layer.before} -> {layer.after.removeprefix(layer.kind)}"
