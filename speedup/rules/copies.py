"""Views that list equal copies of what an `expand` repeated, as grouped queries do with their keys."""

from __future__ import annotations

from speedup.engine.layout import Block
from speedup.ir.graph import Graph, Op, Value

# Operators that hand on the elements they get.
_SAME = frozenset({"clone", "contiguous", "alias"})


def is_copy(op: Op) -> bool:
    """Whether the op hands on the elements that it gets, as they stand."""
    return op.name in _SAME


def copied_dims(graph: Graph, source: Value, block: Block) -> tuple[int, int] | None:
    """The dims (own, copies) of a view that lists equal copies of each index in turn, as `expand` makes
    them; None when the block is something else.
    """
    wide = [d for d in block.source if source.shape[d] != 1]
    if block.index is not None or len(wide) != 2 or len(block.target) != 1:
        return None
    value, producer = source, graph.producer[source.index]
    while producer is not None and is_copy(graph.ops[producer]):
        value = graph.ops[producer].operands[0]
        producer = graph.producer[value.index]
    if producer is None or graph.ops[producer].name != "expand":
        return None
    before, own, repeated = graph.ops[producer].operands[0], wide[0], wide[1]
    if before.ndim != value.ndim or before.shape[repeated] != 1 or before.shape[own] != value.shape[own]:
        return None
    return own, repeated
