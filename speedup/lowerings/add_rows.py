"""A sum one operand of which has only some of the rows: they are added to their places in the other one."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from attrs import frozen
from torch import Tensor
from torch.overrides import handle_torch_function

from speedup.engine.constraints import Dim
from speedup.engine.keepsets import KeepSets
from speedup.ir.edits import ConstantTensor, NewBias
from speedup.ir.graph import Op
from speedup.lowerings.lowering import Agrees, Lowering, Written
from speedup.lowerings.own_parameters import indices_told
from speedup.lowerings.places import are_proxies, contiguous_axis, places_of, stated_places
from speedup.lowerings.syntax import Change
from speedup.lowerings.two_tensors import Replacement

_SUM = Replacement(ast.Add, "add", "add_rows", ("stream", "rows", "dim", "indices", "bias"))


def add_rows(
    stream: Tensor, rows: Tensor, dim: int, indices: int | Sequence[int], bias: Tensor | None = None
) -> Tensor:
    """`stream` with `rows` added to some of its indices along `dim`, and `bias` to all of them.

    Args:
        stream: any tensor; it is left as it is.
        rows: of the shape of `stream`, with fewer indices along `dim`.
        dim: one of their dimensions.
        indices: where each of `rows` belongs; a number where they follow one another from there on.
        bias: a number for each index of `stream` along `dim`.

    Returns:
        A tensor of the shape of `stream`, of the type that the sum of `stream` and `rows` has.
    """
    if are_proxies(stream, rows):
        traced: Tensor = handle_torch_function(add_rows, (stream, rows), stream, rows, dim, indices, bias)
        return traced
    axis = contiguous_axis(stream, dim)
    if axis != dim:
        stream, rows = stream.movedim(dim, axis), rows.movedim(dim, axis)
    # Under autocast the three may be of several types.
    dtype = torch.promote_types(stream.dtype, rows.dtype)
    if bias is None:
        total = stream.clone() if stream.dtype == dtype else stream.to(dtype)
    else:
        bias = _of_type(bias, dtype).reshape(-1, *(1,) * (stream.ndim - axis - 1))
        total = _of_type(stream, dtype) + bias
    # Not into a part of it: traces of what writes to views are of other operators.
    total.index_add_(axis, places_of(indices, rows, axis), _of_type(rows, dtype))
    return total if axis == dim else total.movedim(axis, dim)


def _of_type(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor, itself where it is of the type: traces take what `to` returns for another."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


@frozen
class AddRows(Lowering):
    """`indices` of the sum along `dim` get what operand number `operand` holds for them.

    `bias` is what that operand would be at the others, 0 at `indices`; the module holds it as `name`. None
    where it would be 0 everywhere.
    """

    helpers = MappingProxyType({"add_rows": add_rows})
    takes_operations = True

    operand: int
    dim: int
    indices: tuple[int, ...]
    name: str
    bias: ConstantTensor | None

    def biases(self, path: str) -> Iterable[NewBias]:
        """The bias, where there is one."""
        if self.bias is not None:
            yield NewBias(path, self.bias, "what rows that are not computed would add", self.name)

    def destinations(self, op: Op, kept: KeepSets) -> Iterable[tuple[Dim, Tensor, str]]:
        """The constants of rows that are dropped go into the bias."""
        if self.bias is not None:
            indices = indices_told(self.bias.tensor, kept[(op.result.index, self.dim)])
            yield (op.operands[self.operand].index, self.dim), indices, self.name

    def compute(self, op: Op, arguments: Mapping[str, Any], operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """The sum."""
        bias = None if self.bias is None else self.bias.tensor
        rows, stream = operands[self.operand], operands[1 - self.operand]
        return [add_rows(stream, rows, self.dim, stated_places(self.indices), bias)]

    def rewrite(self, written: Written) -> tuple[Change, ...] | None:
        """A call of `add_rows` with the operands, which are evaluated in the same order."""
        if self.bias is not None and written.own is None:
            return None
        bias = [] if self.bias is None else [f"{written.own}.{self.name}"]
        arguments = [f"{self.dim}", f"{stated_places(self.indices)}", *bias]
        return _SUM.rewrite(written, self.operand == 0, arguments)

    @staticmethod
    def may_replace(old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
        """A call of `add_rows` with the same tensors, numbers, and a parameter of the module."""
        return _SUM.may_replace(old, new, agrees)

    @staticmethod
    def may_replace_operation(old: ast.BinOp | ast.AugAssign, new: ast.AST, agrees: Agrees) -> bool:
        """The same, also where the result is then called what the first tensor was."""
        return _SUM.may_replace_operation(old, new, agrees)
