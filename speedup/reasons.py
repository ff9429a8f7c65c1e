"""Why channels that a mask, a constant or disuse would free stay nevertheless."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from attrs import frozen
from torch import Tensor

from speedup.analysis import Analysis
from speedup.constraints import Dim
from speedup.graph import Op, Value
from speedup.keepsets import Growth
from speedup.lattice import along
from speedup.report import Blocked
from speedup.rules.contraction import describe
from speedup.rules.recurrent import needed_units, unit_dim

_PRODUCTS = ("linear", "conv", "addmm")
_RECURRENT = ("lstm", "gru", "rnn_")


def blocked_channels(analysis: Analysis, outside: str) -> tuple[Blocked, ...]:
    """Per layer with a weight, the result channels or units that nothing needs but that are kept.

    `outside` says who reads the outputs of the graph.
    """
    why = _Growths.of(analysis, outside)
    found: list[Blocked] = []
    for op in analysis.graph.ops:
        if op.name.startswith(_PRODUCTS) and op.owner.path:
            found.extend(_blocked(op, why))
        elif op.name.startswith(_RECURRENT) and op.owner.path:
            found.extend(_blocked_units(op, why))
    return tuple(found)


@frozen(eq=False)
class Need:
    """`indices` (bool vector) that live elements of `dim` need, and no member of its class before it."""

    dim: Dim
    indices: Tensor


@frozen(eq=False)
class _Growths:
    """By class of dimensions: its members, what each needs first, and what made its keep-set grow."""

    analysis: Analysis
    members: Mapping[int, list[Dim]]
    needs: Mapping[int, list[Need]]
    growth: Mapping[int, list[Growth]]
    outside: str

    @classmethod
    def of(cls, analysis: Analysis, outside: str) -> _Growths:
        members: dict[int, list[Dim]] = {}
        for dim in analysis.seeds:
            members.setdefault(analysis.kept.class_of(dim), []).append(dim)
        growth: dict[int, list[Growth]] = {}
        for one in analysis.kept.growth:
            growth.setdefault(analysis.kept.class_of(one.dim), []).append(one)
        needs = {own: _first_needs(dims, analysis) for own, dims in members.items()}
        return cls(analysis, members, needs, growth, outside)

    def needs_of_others(self, dim: Dim) -> Sequence[Need]:
        """Which indices the other members of the class of `dim` need, each by the first that needs it."""
        own = self.analysis.kept.class_of(dim)
        if all(need.dim != dim for need in self.needs.get(own, ())):
            return self.needs.get(own, ())
        return _first_needs([d for d in self.members[own] if d != dim], self.analysis)


def _first_needs(members: Iterable[Dim], analysis: Analysis) -> list[Need]:
    """A class may have members in every layer, but no more of these than it has indices."""
    found: list[Need] = []
    left: Tensor | None = None
    for dim in members:
        seed = analysis.seeds[dim]
        left = torch.ones_like(analysis.kept[dim]) if left is None else left
        indices = left if seed is None else left & seed
        if bool(indices.any()):
            found.append(Need(dim, indices))
            left = left & ~indices
            if not bool(left.any()):
                break
    return found


def _blocked(op: Op, why: _Growths) -> Iterable[Blocked]:
    analysis, shape = why.analysis, describe(op)
    dim = (op.result.index, shape.result_axis)
    extent = op.result.shape[shape.result_axis]
    seed = analysis.seeds.get(dim, torch.zeros(extent, dtype=torch.bool))
    left = analysis.kept[dim] & ~seed if seed is not None else _constant(op.result, dim[1], analysis)
    yield from _explained(op, dim, left, why)


def _blocked_units(op: Op, why: _Growths) -> Iterable[Blocked]:
    for cell, needed in needed_units(why.analysis.sites[op.index]):
        dim = unit_dim(cell)
        yield from _explained(op, dim, why.analysis.kept[dim] & ~needed, why)


def _explained(op: Op, dim: Dim, left: Tensor, why: _Growths) -> Iterable[Blocked]:
    """Each of the indices `left`, which stay for no need of their own, with the first reason that fits."""
    own, analysis = why.analysis.kept.class_of(dim), why.analysis
    for one in why.growth.get(own, ()):
        share = left & one.added
        if bool(share.any()):
            reason = _worded(one.cause.op, one.cause.reason, analysis)
            yield Blocked(op.owner.path, int(share.sum()), left.numel(), reason)
            left = left & ~share
    for need in why.needs_of_others(dim) if bool(left.any()) else ():
        share = left & need.indices
        if bool(share.any()):
            yield Blocked(
                op.owner.path, int(share.sum()), left.numel(), _needed_by(need.dim, analysis, why.outside)
            )
            left = left & ~share
    if bool(left.any()):
        yield Blocked(op.owner.path, int(left.sum()), left.numel(), why.outside)


def _constant(value: Value, dim: int, analysis: Analysis) -> Tensor:
    """Channels that are pinned by the boundary although they are constant."""
    found = analysis.facts[value.index]
    return ~along(~found.known, dim, value.shape[dim])


def _worded(number: int | None, reason: str, analysis: Analysis) -> str:
    if number is None:
        return reason
    owner = analysis.graph.ops[number].owner.path
    return f"{reason} ({owner or 'in the forward'})"


def _needed_by(dim: Dim, analysis: Analysis, outside: str) -> str:
    value = analysis.graph.values[dim[0]]
    producer = analysis.graph.producer[value.index]
    if value in analysis.graph.outputs:
        return outside
    if producer is None:
        return "they belong to an input of the model"
    op = analysis.graph.ops[producer]
    name = op.name.rstrip("_")
    place = f" of {op.owner.path}" if op.owner.path else ""
    return f"coupled with {name}{place}, which needs them"
