"""Calls that adapt to sizes by themselves, where the trace has put literal sizes in their place.

Lowering turns `x.flatten(1)` into a view and `x.chunk(2)` into a split with the sizes of the
example. Their arguments are given back as expressions over the operand's sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from attrs import evolve

from speedup.engine.layout import reshape_blocks
from speedup.ir.expressions import Arithmetic, Derived, Expression, SizeOf
from speedup.ir.graph import Op


def _flatten(op: Op, numbers: Sequence[Any]) -> Mapping[str, Any]:
    """Each size of the view is the product of the sizes of the dimensions that it merges."""
    name = next((n for n in ("size", "shape") if n in op.arguments), None)
    data, result = op.operands[0], op.result
    if name is None or 0 in data.shape:
        return {}
    merged = {t: b.source for b in reshape_blocks(data.shape, result.shape) for t in b.target if b.source}
    sizes = [
        number if number == -1 or t not in merged else Derived(number, _product(data.index, merged[t]))
        for t, number in enumerate(op[name])
    ]
    return {name: tuple(sizes)}


def _product(value: int, dims: Sequence[int]) -> Expression:
    found: Expression = SizeOf(value, dims[0])
    for dim in dims[1:]:
        found = Arithmetic("mul", (found, SizeOf(value, dim)))
    return found


def _chunk(op: Op, numbers: Sequence[Any]) -> Mapping[str, Any]:
    """Chunks are as long as the dimension over their number, rounded up."""
    if "split_size" not in op.arguments or not numbers:
        return {}
    data = op.operands[0]
    share = Arithmetic("truediv", (SizeOf(data.index, op["dim"] % data.ndim), numbers[0]))
    return {"split_size": Derived(op["split_size"], Arithmetic("ceil", (share,)))}


ADAPTING: Mapping[str, Callable[[Op, Sequence[Any]], Mapping[str, Any]]] = MappingProxyType(
    {"flatten": _flatten, "chunk": _chunk}
)
"""By the name of the Python function: arguments of the op that it was lowered to, from the call's numbers."""


def adapt_op(op: Op, function: str, numbers: Sequence[Any]) -> Op:
    """`op` with the arguments that the call of `function` would compute anew from other sizes."""
    if function == op.name or not op.operands or len(op.results) < 1:
        return op
    found = ADAPTING[function](op, numbers)
    return evolve(op, arguments=MappingProxyType({**op.arguments, **found})) if found else op
