"""Why channels that a mask, a constant or disuse would free stay nevertheless."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from speedup.analysis import Analysis
from speedup.constraints import Dim
from speedup.graph import Op, Value
from speedup.keepsets import Growth
from speedup.lattice import along
from speedup.report import Blocked
from speedup.rules.contraction import describe

_PRODUCTS = ("linear", "conv", "addmm")


def blocked_channels(analysis: Analysis, outside: str) -> tuple[Blocked, ...]:
    """Per layer with a weight, the result channels that nothing needs of it but that are kept.

    `outside` says who reads the outputs of the graph.
    """
    members: dict[int, list[Dim]] = {}
    for dim in analysis.seeds:
        members.setdefault(analysis.kept.class_of(dim), []).append(dim)
    growth: dict[int, list[Growth]] = {}
    for one in analysis.kept.growth:
        growth.setdefault(analysis.kept.class_of(one.dim), []).append(one)
    found: list[Blocked] = []
    for op in analysis.graph.ops:
        if op.name.startswith(_PRODUCTS) and op.owner.path:
            found.extend(_blocked(op, analysis, members, growth, outside))
    return tuple(found)


def _blocked(
    op: Op,
    analysis: Analysis,
    members: dict[int, list[Dim]],
    growth: dict[int, list[Growth]],
    outside: str,
) -> Iterable[Blocked]:
    shape = describe(op)
    dim = (op.result.index, shape.result_axis)
    extent = op.result.shape[shape.result_axis]
    seed = analysis.seeds.get(dim, torch.zeros(extent, dtype=torch.bool))
    left = analysis.kept[dim] & ~seed if seed is not None else _constant(op.result, dim[1], analysis)
    if not bool(left.any()):
        return
    own = analysis.kept.class_of(dim)
    for one in growth.get(own, ()):
        share = left & one.added
        if bool(share.any()):
            reason = _worded(one.cause.op, one.cause.reason, analysis)
            yield Blocked(op.owner.path, int(share.sum()), extent, reason)
            left = left & ~share
    for other in members.get(own, ()):
        wanted = analysis.seeds[other]
        share = left if wanted is None else left & wanted
        if other != dim and bool(share.any()):
            yield Blocked(op.owner.path, int(share.sum()), extent, _needed_by(other, analysis, outside))
            left = left & ~share
    if bool(left.any()):
        yield Blocked(op.owner.path, int(left.sum()), extent, outside)


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
