"""The layers of a report as the tree of modules that they are in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import ceil

from attrs import field, frozen

from speedup.ir.report import Junction, Layer, Report

Counts = tuple[int, int]

# Siblings beyond this are put into ranges, some of about twenty each.
_MOST_CHILDREN = 40
_RANGES = 20


@frozen
class Leaf:
    """A layer or a junction; `label` is what its path adds to that of the branch it is in."""

    label: str
    of: Layer | Junction

    @property
    def name(self) -> str:
        """Its name in the links of the report."""
        return _name(self.of)


@frozen
class Branch:
    """A module, or a range of the modules in one, and what is in it. Counts are (before, after)."""

    label: str
    children: tuple[Branch | Leaf, ...]
    layers: int = field(init=False)
    changed: int = field(init=False)
    parameters: Counts = field(init=False)
    macs: Counts = field(init=False)

    def __attrs_post_init__(self) -> None:
        below = [child for child in self.children if isinstance(child, Branch)]
        own = [c.of for c in self.children if isinstance(c, Leaf) and isinstance(c.of, Layer)]
        totals = {
            "layers": len(own) + sum(b.layers for b in below),
            "changed": sum(layer.is_changed for layer in own) + sum(b.changed for b in below),
            "parameters": _add(
                [*((x.parameters_before, x.parameters_after) for x in own), *(b.parameters for b in below)]
            ),
            "macs": _add([*((x.macs_before, x.macs_after) for x in own), *(b.macs for b in below)]),
        }
        for name, total in totals.items():
            object.__setattr__(self, name, total)


def tree_of(report: Report, ranges: bool = True) -> Branch:
    """The layers and junctions of `report` by the modules they are in; a chain of modules is one branch.

    With `ranges`, a module of many others has branches for ranges of them.
    """
    root = _Node("")
    for one in _in_order(report):
        root.at(one.path).entries[_Own(one)] = one
    return Branch("", _children(root, ranges))


def branches_to_open(root: Branch, most: int) -> frozenset[int]:
    """The `id`s of the branches to show open: as many whole levels as show no more than `most` entries."""
    found, level, seen = {id(root)}, [root], len(root.children)
    while level:
        level = [child for branch in level for child in branch.children if isinstance(child, Branch)]
        seen += sum(len(branch.children) for branch in level)
        if seen > most:
            break
        found.update(map(id, level))
    return frozenset(found)


def leaves(branch: Branch) -> Iterator[Leaf]:
    """All leaves in it, in order."""
    for child in branch.children:
        if isinstance(child, Leaf):
            yield child
        else:
            yield from leaves(child)


def _in_order(report: Report) -> Sequence[Layer | Junction]:
    """The layers, each junction behind the last that it reads."""
    places = {layer.path: (number, 0) for number, layer in enumerate(report.layers)}
    read: dict[str, list[str]] = {}
    for source, reader in report.links:
        read.setdefault(reader, []).append(source)
    for number, junction in enumerate(report.junctions, 1):
        last = max((places[name] for name in read.get(junction.name, ()) if name in places), default=(-1, 0))
        places[junction.name] = (last[0], number)
    return sorted((*report.layers, *report.junctions), key=lambda one: places[_name(one)])


def _name(one: Layer | Junction) -> str:
    return one.path if isinstance(one, Layer) else one.name


@frozen
class _Own:
    """Keeps what a module does itself apart from the modules in it, whatever these are called."""

    of: Layer | Junction


@frozen(eq=False)
class _Node:
    """A module while the tree is made: what it does itself and the modules in it, in order."""

    label: str
    entries: dict[str | _Own, _Node | Layer | Junction] = field(factory=dict)

    def at(self, path: str) -> _Node:
        node = self
        for name in path.split(".") if path else ():
            inner = node.entries.setdefault(name, _Node(name))
            assert isinstance(inner, _Node)
            node = inner
        return node


def _children(node: _Node, ranges: bool) -> tuple[Branch | Leaf, ...]:
    found = [_child(entry, ranges) for entry in node.entries.values()]
    return _ranges(found) if ranges else tuple(found)


def _child(entry: _Node | Layer | Junction, ranges: bool) -> Branch | Leaf:
    """What stands for it: a leaf if there is but one thing to a module, one branch for a chain of them."""
    match entry:
        case Layer():
            return Leaf("(itself)" if entry.path else "(model)", entry)
        case Junction():
            return Leaf(entry.operator, entry)
    children = _children(entry, ranges)
    if len(children) > 1:
        return Branch(entry.label, children)
    (only,) = children
    if isinstance(only, Branch):
        return Branch(f"{entry.label}.{only.label}", only.children)
    own = len(entry.entries) == 1 and isinstance(next(iter(entry.entries)), _Own)
    return Leaf(entry.label if own else f"{entry.label}.{only.label}", only.of)


def _ranges(children: Sequence[Branch | Leaf]) -> tuple[Branch | Leaf, ...]:
    if len(children) <= _MOST_CHILDREN:
        return tuple(children)
    size = ceil(len(children) / _RANGES)
    parts = (children[start : start + size] for start in range(0, len(children), size))
    return tuple(Branch(f"{part[0].label} … {part[-1].label}", _ranges(part)) for part in parts)


def _add(counts: Iterable[Counts]) -> Counts:
    pairs = list(counts)
    return sum(before for before, _ in pairs), sum(after for _, after in pairs)
