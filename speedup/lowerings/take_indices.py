"""Some indices along a dimension, in a given order, in place of an irregular selection."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from speedup.ir.graph import Op
from speedup.lowerings.lowering import Agrees, Lowering, Written
from speedup.lowerings.syntax import (
    Change,
    element_of,
    elements_of,
    end_of,
    is_constant,
    is_full_slice,
    is_literal,
    start_of,
    subjects_of,
)


@frozen
class TakeIndices(Lowering):
    """The operand's `indices` along `dim`, in that order."""

    indices: tuple[int, ...]
    dim: int

    def compute(self, op: Op, arguments: Mapping[str, Any], operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """The selection."""
        return [operands[0].index_select(self.dim, torch.tensor(self.indices, dtype=torch.int64))]

    def rewrite(self, written: Written) -> tuple[Change, ...] | None:
        """A list of indices in a subscript: the one that there is, or one in place of the call."""
        call, node = written.call, written.node
        if call is None:
            assert isinstance(node, ast.Subscript), "what is no call is a subscript"
            return self._within(node, written.op)
        is_atomic = isinstance(call.tensor, ast.Name | ast.Attribute | ast.Call | ast.Subscript)
        left, right = ("", "") if is_atomic else ("(", ")")
        head = Change(start_of(call.node), start_of(call.tensor), left)
        subscript = f"{right}[{':, ' * self.dim}{list(self.indices)}]"
        return head, Change(end_of(call.tensor), end_of(call.node), subscript)

    def _within(self, node: ast.Subscript, op: Op) -> tuple[Change, ...] | None:
        element = element_of(node, op)
        if element is None or isinstance(element, ast.Starred):
            return None
        # What is no slice is the tensor that the op looks up.
        if not isinstance(element, ast.Slice) and len(op.operands) < 2:
            return None
        others = [e for e in elements_of(node) if e is not element]
        if all(isinstance(e, ast.Slice) or is_constant(e, Ellipsis) for e in others):
            return (Change(start_of(element), end_of(element), repr(list(self.indices))),)
        return None

    @staticmethod
    def may_replace(old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
        """Numbers and full slices as the index of the same tensor."""
        if not isinstance(new, ast.Subscript):
            return False
        is_index = all(is_full_slice(one) or is_literal(one) for one in elements_of(new))
        return is_index and any(agrees(one, new.value, False) for one in subjects_of(old))
