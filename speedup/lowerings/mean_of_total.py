"""A sum over what is left, divided by how many elements there were, in place of a mean."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from speedup.ir.graph import Op
from speedup.lowerings.comparing import calls_instead
from speedup.lowerings.lowering import Agrees, Lowering, Written
from speedup.lowerings.syntax import Change, end_of, is_literal, last_name, start_of


@frozen
class MeanOfTotal(Lowering):
    """A mean over `total` elements, of which only those that are not 0 are left to add up."""

    helpers = MappingProxyType({"torch": torch})

    total: int

    def compute(self, op: Op, arguments: Mapping[str, Any], operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """The sum of the dimensions that the mean is over, divided."""
        dims = op.get("dim") or list(range(operands[0].ndim))
        return [operands[0].sum(dims, op.get("keepdim", False)) / self.total]

    def rewrite(self, written: Written) -> tuple[Change, ...] | None:
        """`(x.sum(...) / total)`, with the mean's own arguments."""
        if written.call is None:
            return None
        start, end = start_of(written.node), end_of(written.node)
        return (
            Change(start, start, "("),
            written.call.renamed("sum"),
            Change(end, end, f" / {self.total})"),
        )

    @staticmethod
    def may_replace(old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
        """A sum of the same tensor, divided by a number."""
        match new, last_name(old.func).rstrip("_"):
            case ast.BinOp(left=ast.Call() as total, op=ast.Div(), right=right), "mean":
                return is_literal(right) and calls_instead("sum", old, total, agrees)
        return False
