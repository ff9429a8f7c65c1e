"""What differs between two plans, as a value that prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from attrs import frozen

from speedup.ir.edits import (
    AddToParameter,
    AdoptAttention,
    CombineColumns,
    Edit,
    MergeColumns,
    NewBias,
    RewriteForward,
    SetAttribute,
    Slice,
    SliceGroups,
)
from speedup.ir.report import Blocked, Layer
from speedup.ir.tensor_text import indices_text
from speedup.parts import PlanParts

T = TypeVar("T")

_LONGEST = 60


@frozen
class PlanDiff:
    """What there is in one of two plans only.

    `layers` pairs what becomes of a module under the first and under the second plan, None where a plan
    does not know it. `parameters` and `macs` are the totals of the small models, first and second.
    `assumptions_gone` and `assumptions_new` are what only the one or the other relies on.
    """

    layers: tuple[tuple[Layer | None, Layer | None], ...]
    edits_gone: tuple[Edit, ...]
    edits_new: tuple[Edit, ...]
    blocked_gone: tuple[Blocked, ...]
    blocked_new: tuple[Blocked, ...]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    assumptions_gone: tuple[str, ...] = ()
    assumptions_new: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything differs."""
        edits, blocked = (self.edits_gone, self.edits_new), (self.blocked_gone, self.blocked_new)
        return any((self.layers, *edits, *blocked, self.assumptions_gone, self.assumptions_new))

    def __str__(self) -> str:
        """A line per difference: `-` for what only the first plan has, `+` for the second, `~` for both."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if not self:
            yield "no differences"
        for one, other in self.layers:
            yield from _layer_lines(one, other)
        for sign, edits in (("-", self.edits_gone), ("+", self.edits_new)):
            yield from (f"{sign} {describe_edit(edit)}" for edit in edits)
        for sign, blocked in (("-", self.blocked_gone), ("+", self.blocked_new)):
            yield from (f"{sign} {b.path}: {b.count} of {b.of} stay: {b.reason}" for b in blocked)
        for sign, assumptions in (("-", self.assumptions_gone), ("+", self.assumptions_new)):
            yield from (f"{sign} relies on: {line}" for line in assumptions)
        for name, (first, second) in (("parameters", self.parameters), ("MACs", self.macs)):
            if first != second:
                yield f"~ {name} in all: {first:,} -> {second:,}"


def plan_diff(first: PlanParts, second: PlanParts) -> PlanDiff:
    """What differs from `first` to `second`: all fields are empty or equal where nothing does."""
    before = {layer.path: layer for layer in first.layers}
    after = {layer.path: layer for layer in second.layers}
    layers = ((before.get(path), after.get(path)) for path in {**before, **after})
    gone, new = _only_in_first(first.edits, second.edits), _only_in_first(second.edits, first.edits)
    return PlanDiff(
        layers=tuple(pair for pair in layers if _result(pair[0]) != _result(pair[1])),
        edits_gone=gone,
        edits_new=new,
        blocked_gone=_only_in_first(first.blocked, second.blocked),
        blocked_new=_only_in_first(second.blocked, first.blocked),
        parameters=(first.parameters_after, second.parameters_after),
        macs=(first.macs_after, second.macs_after),
        assumptions_gone=_only_in_first(first.assumptions, second.assumptions),
        assumptions_new=_only_in_first(second.assumptions, first.assumptions),
    )


def _result(layer: Layer | None) -> tuple[str, int, int] | None:
    return None if layer is None else (layer.after, layer.parameters_after, layer.macs_after)


def _only_in_first(first: tuple[T, ...], second: tuple[T, ...]) -> tuple[T, ...]:
    known = set(second)
    return tuple(one for one in first if one not in known)


def _layer_lines(one: Layer | None, other: Layer | None) -> Iterator[str]:
    if one is None or other is None:
        (known,) = (layer for layer in (one, other) if layer is not None)
        yield f"{'+' if one is None else '-'} {known.path}: {known.before} -> {known.after}"
        return
    counts = (
        (name, first, second)
        for name, first, second in (
            ("parameters", one.parameters_after, other.parameters_after),
            ("MACs", one.macs_after, other.macs_after),
        )
        if first != second
    )
    shapes = [] if one.after == other.after else [f"{one.after} -> {other.after}"]
    yield f"~ {one.path}: " + ", ".join((*shapes, *(f"{n} {a:,} -> {b:,}" for n, a, b in counts)))


def describe_edit(edit: Edit) -> str:
    """An edit in one line, without its numbers."""
    match edit:
        case Slice(name, dim, indices):
            return f"{name}: keep {len(indices)} along dimension {dim}: {_short(indices_text(indices))}"
        case SliceGroups(name, rows, columns):
            shape = f"{len(rows)} rows with {len(columns[0])} columns each"
            return f"{name}: keep {shape}: {_short(indices_text(rows))}"
        case AddToParameter(name, _, why):
            return f"{name}: add {why}"
        case MergeColumns(name, dim, into, columns, _, _, _):
            return f"{name}: add {len(columns)} columns along dimension {dim} to column {into}"
        case CombineColumns(name, dim, into, columns, _, _, _):
            return f"{name}: add {len(columns)} columns along dimension {dim} to {len(into)} columns"
        case NewBias(path, value, why, attribute):
            return f"{path}: new {attribute} of {value.tensor.numel()}, {why}"
        case SetAttribute(path, attribute, before, after):
            return f"{path}: set {attribute} from {before} to {after}"
        case RewriteForward(path, functions, why):
            names = ", ".join(function.name for function in functions)
            return f"{path}: rewrite {names}: {_short('; '.join(why))}"
        case AdoptAttention(path):
            return f"{path}: becomes a speedup.attention.MultiheadAttention"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
