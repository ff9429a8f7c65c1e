"""A channel shuffle and its kin stated as one selection, in the place of a view, a transpose and a view."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from attrs import frozen
from torch import Tensor

from speedup.ir.graph import Op
from speedup.lowerings.lowering import Agrees, Lowering, Written
from speedup.lowerings.places import index_tensor
from speedup.lowerings.syntax import Change, end_of, is_literal, last_name, start_of, subjects_of

_ARRANGING = frozenset(
    """
    view reshape view_as reshape_as flatten unflatten transpose swapaxes swapdims permute movedim moveaxis
    contiguous clone expand expand_as
    """.split()
)


def select_indices(input: Tensor, dim: int, indices: Sequence[int]) -> Tensor:
    """The `indices` of dimension `dim` of `input`, in that order.

    Args:
        input: any tensor.
        dim: one of its dimensions.
        indices: numbers from 0 to the dimension's extent, less one.

    Returns:
        `input` with as many indices along `dim` as there are `indices`.
    """
    return input.index_select(dim, index_tensor(indices, input.device))


@frozen
class PassOn(Lowering):
    """The operand itself: what the op does is done by a later one."""

    def compute(self, op: Op, arguments: Mapping[str, Any], operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """The operand."""
        return [operands[0]]

    def rewrite(self, written: Written) -> tuple[Change, ...] | None:
        """The tensor in the place of the call."""
        return _in_place_of(written, "", "")

    @staticmethod
    def may_replace(old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
        """The tensor that a call was about which only arranges elements."""
        return last_name(old.func) in _ARRANGING and any(agrees(one, new, False) for one in subjects_of(old))


@frozen
class SelectIndices(Lowering):
    """The operand's `indices` along `dim`, in the place of what several ops did to it."""

    helpers = MappingProxyType({"select_indices": select_indices})

    indices: tuple[int, ...]
    dim: int

    def compute(self, op: Op, arguments: Mapping[str, Any], operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """The selection."""
        return [select_indices(operands[0], self.dim, self.indices)]

    def rewrite(self, written: Written) -> tuple[Change, ...] | None:
        """A call of `select_indices` with the same tensor."""
        return _in_place_of(written, "select_indices(", f", {self.dim}, {list(self.indices)})")

    @staticmethod
    def may_replace(old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
        """A call of `select_indices` with the same tensor, and numbers."""
        match new:
            case ast.Call(func=ast.Name(id="select_indices"), args=[subject, *numbers], keywords=[]):
                is_told = all(is_literal(number) for number in numbers)
                return is_told and any(agrees(one, subject, False) for one in subjects_of(old))
        return False


def _in_place_of(written: Written, before: str, after: str) -> tuple[Change, ...] | None:
    """The call's tensor, with text around it, in the place of the call."""
    if written.call is None:
        return None
    call, tensor = written.call.node, written.call.tensor
    # What stands alone needs no brackets of its own, and nor does an argument.
    is_atomic = isinstance(tensor, ast.Name | ast.Attribute | ast.Call | ast.Subscript) or bool(before)
    left, right = ("", "") if is_atomic else ("(", ")")
    head = Change(start_of(call), start_of(tensor), before + left)
    return head, Change(end_of(tensor), end_of(call), right + after)
