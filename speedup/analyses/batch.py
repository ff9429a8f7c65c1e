"""Which dimensions grow with the batch: a plan holds for every batch size, so no literal may count them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from speedup.analyses.analysis import Analysis
from speedup.engine.constraints import Carrier, Constraint, Dim, Spanned
from speedup.ir.expressions import Derived, sizes_in
from speedup.ir.graph import Op, Value


def may_count_batch(op: Op, argument: str, place: int, analysis: Analysis) -> bool:
    """Whether the `place`-th size that `op` states for its result may be a multiple of the batch size.

    It may where that dimension of the result holds the batch, unless another of the stated sizes follows
    the batch for it: a -1, or a number derived from a size that grows with the batch.
    """
    growing = analysis.once("growing", lambda: growing_dims(analysis))
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
    constraints = [constraint for constraint in analysis.constraints if _couples(constraint)]
    groups = [constraint.dims for constraint in constraints]
    coupling = {constraint.reason.op for constraint in constraints}
    spread = [(_dims_of(op.operands), _dims_of(op.results)) for op in graph.ops if op.index not in coupling]
    # Which sets of dimensions grow together, and which grow as soon as one of others does.
    reached_from: dict[Dim, list[tuple[Dim, ...]]] = {}
    for sources, targets in (*((dims, dims) for dims in groups), *spread):
        for dim in sources:
            reached_from.setdefault(dim, []).append(targets)
    # Extents of one are coupled with nothing.
    alone = any(v.ndim and v.shape[0] == 1 for v in graph.inputs)
    found = {(v.index, 0) for v in graph.inputs if v.ndim}
    found |= {(v.index, 0) for v in graph.values if alone and v.ndim and v.shape[0] == 1 and not v.is_state}
    frontier, seen = list(found), set[int]()
    while frontier:
        for dims in reached_from.get(frontier.pop(), ()):
            # Those of one constraint are reached all at once.
            if id(dims) not in seen:
                seen.add(id(dims))
                reached = set(dims) - found
                found |= reached
                frontier += reached
    return frozenset(found)


def _couples(constraint: Constraint) -> bool:
    return len(constraint.dims) > 1 and not isinstance(constraint, Carrier | Spanned)


def _dims_of(values: Sequence[Value]) -> tuple[Dim, ...]:
    return tuple(dim for value in values for dim in _dims(value))


def _dims(value: Value) -> Iterator[Dim]:
    return ((value.index, dim) for dim in range(value.ndim))
