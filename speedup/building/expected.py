"""The trace that a small model must have, derived from the plan's analysis, and that it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from speedup.analyses.analysis import Analysis
from speedup.ir.edits import Edit, NewBias
from speedup.ir.expressions import Argument, Settled, with_traced_numbers
from speedup.ir.graph import Graph, Op, Shape, Value, read_in
from speedup.parts import Expected, ExpectedOp
from speedup.torch_api import schema_of

# A bias is among the operands; where tensors are made follows from where the model is.
_NOT_COMPARED = ("bias", "device")
_LAID_OUT = "aten.contiguous.default"


def expected_trace(analysis: Analysis, edits: Sequence[Edit]) -> Expected:
    """What the small model has to trace to."""
    new_biases = {e.path for e in edits if isinstance(e, NewBias) and e.attribute == "bias"}
    opaque = analysis.restated_paths
    return _describe(analysis.graph, analysis.sizes, analysis.arguments, new_biases, opaque)


def actual_trace(graph: Graph, opaque: frozenset[str] = frozenset()) -> Expected:
    """A traced model in the same terms."""
    return _describe(graph, lambda v: v.shape, lambda op: {n: op[n] for n in op.arguments}, (), opaque)


def _describe(
    graph: Graph,
    sizes: Callable[[Value], Shape],
    arguments: Callable[[Op], Mapping[str, Any]],
    new_biases: Collection[str],
    opaque: frozenset[str],
) -> Expected:
    names: dict[int, Any] = {v.index: v.name for v in graph.state}
    names.update({v.index: ("input", n) for n, v in enumerate(graph.inputs)})
    ops: list[ExpectedOp] = []
    for op in graph.ops:
        if op.owner.path in opaque:
            names.update({r.index: ("within", op.owner.path) for r in op.results})
            continue
        if _passes_on(op, sizes):
            names[op.result.index] = names[op.operands[0].index]
            continue
        given = dict(arguments(op))
        if op.owner.path in new_biases and "bias" in given and given["bias"] is None:
            given["bias"] = f"{op.owner.path}.bias"
        operands = tuple(names[v.index] for v in read_in(tuple(op.arguments.values())))
        if isinstance(given.get("bias"), str):
            operands = (*operands, given["bias"])
        named = ((n, _plain(_as_read(op.arguments[n], a))) for n, a in given.items())
        plain = tuple((n, argument) for n, argument in named if n not in _NOT_COMPARED)
        ops.append(
            ExpectedOp(str(op.target), op.owner.path, operands, plain, tuple(sizes(r) for r in op.results))
        )
        names.update({r.index: (len(ops) - 1, n) for n, r in enumerate(op.results)})
    # What Python read may be told by the source of the small model.
    returned = (value for value in graph.outputs if value not in graph.consulted)
    return Expected(tuple(ops), tuple(names[v.index] for v in returned), opaque)


def _passes_on(op: Op, sizes: Callable[[Value], Shape]) -> bool:
    """Whether the op returns its operand: tracing writes down a slice of everything as an alias."""
    name = schema_of(op.target).name
    return name == "aten::alias" or (name == "aten::slice" and sizes(op.result) == sizes(op.operands[0]))


def _as_read(argument: Argument, given: Any) -> Any:
    """`given`, what `argument` becomes, with values in the place of numbers that the forward reads."""
    if isinstance(argument, Settled):
        return argument.value
    if isinstance(argument, tuple) and isinstance(given, tuple) and len(argument) == len(given):
        return tuple(_as_read(a, g) for a, g in zip(argument, given, strict=True))
    return given


def _plain(argument: Any) -> Any:
    """An argument without its tensors; sizes that are left open (-1) stay so."""
    if isinstance(argument, Value):
        return "tensor"
    if isinstance(argument, tuple):
        return tuple(_plain(a) for a in argument)
    found = with_traced_numbers(argument)
    if isinstance(found, float) and math.isnan(found):
        # Two NaN are only equal where they are one.
        return math.nan
    return found if isinstance(found, int | float | bool | str | None) else str(found)


@frozen
class Difference:
    """A way in which two traces differ: the module whose forward does other things, and how, in words."""

    path: str
    words: str


def first_difference(expected: Expected, actual: Expected) -> Difference | None:
    """The first way in which two traces differ; None when they agree.

    Whether elements are copied so that they lie in order hangs on how they lie at one size, and is none.
    """
    expected, actual = (_without_laying_out(trace) for trace in (expected, actual))
    for want, have in zip(expected.ops, actual.ops, strict=False):
        if want != have:
            words = f"in {want.path or 'the forward'}: expected {_in_words(want)}, found {_in_words(have)}"
            return Difference(want.path, words)
    if len(expected.ops) != len(actual.ops):
        return Difference("", f"expected {len(expected.ops)} operations, found {len(actual.ops)}")
    if expected.outputs != actual.outputs:
        return Difference("", "the outputs are computed by other operations")
    return None


def _without_laying_out(trace: Expected) -> Expected:
    """`trace` as if what lays its operand out in order returned that operand."""
    names: dict[Any, Any] = {}
    ops: list[ExpectedOp] = []
    for number, op in enumerate(trace.ops):
        operands = tuple(names.get(one, one) for one in op.operands)
        if op.target == _LAID_OUT:
            names[number, 0] = operands[0]
            continue
        names.update({(number, n): (len(ops), n) for n in range(len(op.results))})
        ops.append(evolve(op, operands=operands))
    return evolve(trace, ops=tuple(ops), outputs=tuple(names.get(one, one) for one in trace.outputs))


def _in_words(op: ExpectedOp) -> str:
    arguments = ", ".join(f"{n}={a}" for n, a in op.arguments if a != "tensor")
    return f"{op.target}({arguments}) on {op.operands} -> {', '.join(map(str, op.results))}"
