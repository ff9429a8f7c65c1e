"""Sizes of inputs that go together: where one changes, others may have to, or some op does not run.

Sequences that are added are of one length, or one is as long as two others; maps of several scales are in
proportion; what is flattened has so many elements. Nothing says which sizes go with which. It is found by
running the ops on tensors without data: whatever lets more of them run is on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import ceil, floor

from attrs import frozen

from speedup.ir.graph import Graph, Shape
from speedup.ir.resizing import Unit, count_runs

# Units that are changed at once besides the one that was.
_MOST_COMPANIONS = 3


@frozen
class Fitting:
    """Shapes of the inputs that were tried, and how many ops run at them; `is_whole` says if all do."""

    shapes: tuple[Shape, ...]
    runs: int
    is_whole: bool


def change_extent(shapes: Sequence[Shape], unit: Unit, extent: int) -> tuple[Shape, ...]:
    """The shapes with another extent of all dimensions of `unit`."""
    return tuple(
        tuple(extent if (number, dim) in unit else n for dim, n in enumerate(shape))
        for number, shape in enumerate(shapes)
    )


def fitting_shapes(
    graph: Graph, shapes: Sequence[Shape], wanted: Collection[int], units: Mapping[Unit, int]
) -> Iterator[Fitting]:
    """Tries `shapes` with further extents changed, so that all ops run that the values `wanted` come from.

    Where one more unit lets more ops run, but not all, another is changed too, and so on. Every attempt is
    given, so that the caller may stop where they are too many. A graph whose ops do not run on paper at its
    own sizes has none that is whole.

    Args:
        shapes: of the graph's inputs; some of them are not those of the trace, and some op does not run.
        wanted: the values, by index.
        units: dimensions of the inputs that may change together, with their extents in the trace.
    """
    own = tuple(value.shape for value in graph.inputs)
    moved = changed_places(own, shapes)
    if moved:
        number, dim = min(moved)
        search = _Search(graph, frozenset(wanted), units, moved, own[number][dim], shapes[number][dim])
        yield from search.beside(search.at(tuple(shapes)), moved, ())


_Relation = Callable[[int, int, int], Sequence[int]]
_Told = tuple[tuple[Unit, _Relation], ...]


def _as_much(old: int, new: int, extent: int) -> Sequence[int]:
    """As much more or less, times how often the one goes into the other."""
    if extent >= old:
        return (extent + (new - old) * max(1, round(extent / old)), extent + new - old)
    each = (new - old) / max(1, round(old / max(extent, 1)))
    return (extent + ceil(each), extent + floor(each), extent + new - old)


def _in_proportion(old: int, new: int, extent: int) -> Sequence[int]:
    return floor(extent * new / old), ceil(extent * new / old)


def _to_make_up(old: int, new: int, extent: int) -> Sequence[int]:
    """So that the product stays about the same."""
    exact = extent * old / new
    return (floor(exact), ceil(exact), floor(exact) - 1, ceil(exact) + 1)


def _as_much_less(old: int, new: int, extent: int) -> Sequence[int]:
    return (extent - (new - old),)


_RELATIONS: Sequence[_Relation] = (_as_much, _in_proportion, _to_make_up, _as_much_less)


@frozen(eq=False)
class _Search:
    """For what fits to the units that were `moved`, of which one measures `new` in place of `old`."""

    graph: Graph
    wanted: frozenset[int]
    units: Mapping[Unit, int]
    moved: Unit
    old: int
    new: int

    def at(self, shapes: tuple[Shape, ...]) -> Fitting:
        runs, ops = count_runs(self.graph, shapes, self.wanted)
        return Fitting(shapes, runs, runs == ops)

    def beside(self, start: Fitting, changed: Unit, told: _Told) -> Iterator[Fitting]:
        """What comes of one unit more than those that are `changed` already, and of others then."""
        tried = {start.shapes}
        for relation, unit in self._in_order(changed):
            for other in relation(self.old, self.new, self.units[unit]):
                shapes = change_extent(start.shapes, unit, max(other, 1))
                if shapes in tried:
                    continue
                tried.add(shapes)
                attempt = self.at(shapes)
                yield attempt
                path = (*told, (unit, relation))
                if attempt.is_whole:
                    self._known.update(path)
                elif attempt.runs > start.runs and len(path) < _MOST_COMPANIONS:
                    yield from self.beside(attempt, changed | unit, path)

    @property
    def _known(self) -> dict[Unit, _Relation]:
        """How units went with these in what all ops ran at."""
        known: dict[Unit, dict[Unit, _Relation]] = self.graph.once("sizes that go together", dict)
        return known.setdefault(self.moved, {})

    def _in_order(self, changed: Unit) -> Iterator[tuple[_Relation, Unit]]:
        """The units that are left, with how they may go with what was moved, the likeliest first."""
        left = sorted((unit for unit in self.units if not unit & changed), key=_unlikeliness)
        told = [(relation, unit) for unit in left if (relation := self._known.get(unit)) is not None]
        yield from dict.fromkeys((*told, *((relation, unit) for unit in left for relation in _RELATIONS)))


def _unlikeliness(unit: Unit) -> tuple[bool, bool, int]:
    """Smaller for one dimension of many inputs that is not the first, which mostly is the batch."""
    dims = {dim for _, dim in unit}
    return 0 in dims, len(dims) > 1, -len(unit)


def changed_places(own: Sequence[Shape], shapes: Sequence[Shape]) -> Unit:
    """The places at which shapes of the inputs are not their `own`."""
    return frozenset(
        (number, dim)
        for number, (before, after) in enumerate(zip(own, shapes, strict=True))
        for dim, (old, new) in enumerate(zip(before, after, strict=True))
        if old != new
    )
