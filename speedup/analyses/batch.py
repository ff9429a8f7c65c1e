"""Which dimensions grow with the batch: a plan holds for every batch size, so no literal may count them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from speedup.analyses.analysis import Analysis
from speedup.engine.constraints import Carrier, Dim, Spanned
from speedup.ir.expressions import Derived, sizes_in
from speedup.ir.graph import Op, Value


def may_count_batch(op: Op, argument: str, place: int, analysis: Analysis) -> bool:
    """Whether the `place`-th size that `op` states for its result may be a multiple of the batch size.

    It may where that dimension of the result holds the batch, unless another of the stated sizes follows
    the batch for it: a -1, or a number derived from a size that grows with the batch.
    """
    growing = analysis.sites[op.index].once("growing", lambda: growing_dims(analysis))
    own = [dim for dim in _dims(op.result) if dim in growing]
    if not own:
        # A batch of one has vanished from the shapes.
        return any(dim in growing for value in op.operands for dim in _dims(value))
    stated = op.arguments[argument]
    others = [stated[dim] for _, dim in own if dim != place]
    return (op.result.index, place) in own and not any(_follows(size, growing) for size in others)


def _follows(size: Any, growing: frozenset[Dim]) -> bool:
    if isinstance(size, Derived):
        return any((root.value, root.dim) in growing for root in sizes_in(size.expression))
    return bool(size == -1)


def growing_dims(analysis: Analysis) -> frozenset[Dim]:
    """The dimensions that may have another extent at another batch size.

    The batch is dimension 0 of the inputs; whatever is coupled with a dimension that grows does so too. An
    operator that couples none of its dimensions may put it anywhere.
    """
    graph = analysis.graph
    neighbours: dict[Dim, list[tuple[Dim, ...]]] = {}
    coupling: set[int] = set()
    for constraint in analysis.constraints:
        if len(constraint.dims) > 1 and not isinstance(constraint, Carrier | Spanned):
            for dim in constraint.dims:
                neighbours.setdefault(dim, []).append(constraint.dims)
            if constraint.reason.op is not None:
                coupling.add(constraint.reason.op)
    for op in graph.ops:
        if op.index not in coupling:
            results = tuple(dim for result in op.results for dim in _dims(result))
            for dim in (d for value in op.operands for d in _dims(value)):
                neighbours.setdefault(dim, []).append(results)
    # Extents of one are coupled with nothing.
    alone = any(v.ndim and v.shape[0] == 1 for v in graph.inputs)
    found = {(v.index, 0) for v in graph.inputs if v.ndim}
    found |= {(v.index, 0) for v in graph.values if alone and v.ndim and v.shape[0] == 1 and not v.is_state}
    frontier = list(found)
    while frontier:
        reached = {dim for dims in neighbours.get(frontier.pop(), ()) for dim in dims} - found
        found |= reached
        frontier += reached
    return frozenset(found)


def _dims(value: Value) -> Iterator[Dim]:
    return ((value.index, dim) for dim in range(value.ndim))
