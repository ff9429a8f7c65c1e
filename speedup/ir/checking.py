"""Is a graph well formed? Run on every traced and joined graph, so that a fault shows where it was made."""

from __future__ import annotations

from collections.abc import Iterator

from speedup.errors import GraphError
from speedup.ir.expressions import SizeOf, derived_in, sizes_in
from speedup.ir.graph import Graph, Op, Origin, Value


def require_well_formed(graph: Graph) -> Graph:
    """`graph` itself.

    Raises:
        GraphError: names the first op or value that is wrong, with what stands around it.
    """
    fault = next(_faults(graph), None)
    if fault is not None:
        raise GraphError(f"the traced graph is not well formed: {fault}. This is a fault of speedup's.")
    return graph


def _faults(graph: Graph) -> Iterator[str]:
    yield from _of_places(graph)
    known: set[int] = {v.index for v in graph.values if v.origin is not Origin.RESULT}
    for op in graph.ops:
        yield from _of_op(op, graph, known)
        known.update(result.index for result in op.results)
    for value in graph.outputs:
        if value.index not in known:
            yield f"output {value.index} is computed by no op"
    for question in graph.questions:
        for size in sizes_in(question.expression):
            if not _is_dim(size, graph):
                yield f"a question about sizes at {question.where} is about {size}, which no value has"


def _of_places(graph: Graph) -> Iterator[str]:
    for number, value in enumerate(graph.values):
        if value.index != number:
            yield f"value {value.index} stands at place {number}"
    for number, op in enumerate(graph.ops):
        if op.index != number:
            yield f"op {op.index} stands at place {number}"
    inside = all(start < len(graph.ops) for start in graph.starts[1:])
    if list(graph.starts) != sorted(set(graph.starts)) or graph.starts[:1] != (0,) or not inside:
        yield f"calls start at {graph.starts} of {len(graph.ops)} ops"
    for value in graph.inputs:
        if value.origin is not Origin.INPUT:
            yield f"input {value.index} is of origin {value.origin.name}"


def _of_op(op: Op, graph: Graph, known: set[int]) -> Iterator[str]:
    for value in (*op.operands, *op.results):
        if not _is_of(value, graph):
            yield f"{op.label}, op {op.index}, has value {value.index}, which is none of the graph"
            return
    for operand in op.operands:
        if operand.index not in known:
            yield f"{op.label}, op {op.index}, reads value {operand.index} before it is there"
    for result in op.results:
        if result.index in known:
            yield f"{op.label}, op {op.index}, makes value {result.index}, which is there already"
    for derived in derived_in(tuple(op.arguments.values())):
        for size in sizes_in(derived.expression):
            if not _is_dim(size, graph):
                yield f"{op.label}, op {op.index}, is told {size}, which no value has"


def _is_of(value: Value, graph: Graph) -> bool:
    return value.index < len(graph.values) and graph.values[value.index] is value


def _is_dim(size: SizeOf, graph: Graph) -> bool:
    return size.value < len(graph.values) and size.dim < graph.values[size.value].ndim
