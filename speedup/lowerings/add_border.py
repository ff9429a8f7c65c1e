"""A convolution some of whose channels are constants near the ends: what they add is added to its result."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from attrs import frozen
from torch import Tensor
from torch.overrides import handle_torch_function

from speedup.ir.edits import ConstantTensor, NewBias
from speedup.ir.evaluation import evaluate
from speedup.ir.graph import Op
from speedup.lowerings.lowering import Agrees, Lowering, Written
from speedup.lowerings.own_parameters import is_own_parameter
from speedup.lowerings.places import are_proxies, contiguous_axis, pairs_near_ends
from speedup.lowerings.syntax import Change, end_of, is_literal, start_of


def add_border(result: Tensor, border_map: Tensor, margins: Sequence[int]) -> Tensor:
    """`result` with a number added for each channel, which differs near the ends of the axes of space.

    Args:
        result: (samples, channels, positions along each axis), or without samples; it is overwritten.
        border_map: (channels, pairs of distances from the ends of each axis) the numbers; pairs are in the
            order of `pair_of`, with the margin of that axis.
        margins: up to which distance positions differ, along each axis.

    Returns:
        `result`.
    """
    if are_proxies(result):
        traced: Tensor = handle_torch_function(add_border, (result,), result, border_map, margins)
        return traced
    axis = result.ndim - len(margins) - 1
    border = border_map.to(result.dtype)
    is_last = contiguous_axis(result, axis) != axis
    if is_last:
        border = border.movedim(0, -1).contiguous()
    # The last axis first, while there is little to copy number by number.
    for number in reversed(range(len(margins))):
        if margins[number]:
            pairs = pairs_near_ends(result.shape[axis + 1 + number], margins[number], result.device)
            border = border.index_select(number if is_last else number + 1, pairs)
    return result.add_(border.movedim(-1, 0) if is_last else border)


@frozen
class AddBorder(Lowering):
    """To the result of a convolution is added what the constant channels that are dropped would add.

    The module holds the numbers as `name`; see `add_border` for the others.
    """

    helpers = MappingProxyType({"add_border": add_border})

    margins: tuple[int, ...]
    name: str
    border_map: ConstantTensor

    def biases(self, path: str) -> Iterable[NewBias]:
        """What the channels that are dropped would add."""
        words = "what constants that differ near borders would add"
        yield NewBias(path, self.border_map, words, self.name)

    def compute(self, op: Op, arguments: Mapping[str, Any], operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """The convolution, and the map added."""
        (result,) = evaluate(op, operands)
        return [add_border(result, self.border_map.tensor, self.margins)]

    def rewrite(self, written: Written) -> tuple[Change, ...] | None:
        """A call of `add_border` with what the call returns."""
        if written.own is None or not isinstance(written.node, ast.Call):
            return None
        start, end = start_of(written.node), end_of(written.node)
        own = f"{written.own}.{self.name}"
        return Change(start, start, "add_border("), Change(end, end, f", {own}, {list(self.margins)})")

    @staticmethod
    def may_replace(old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
        """A call of `add_border` with the same call, a parameter of the module, and numbers."""
        match new:
            case ast.Call(func=ast.Name(id="add_border"), args=[call, own, margins], keywords=[]):
                return agrees(old, call, False) and is_own_parameter(own) and is_literal(margins)
        return False
