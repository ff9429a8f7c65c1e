"""An op that needs all rows of a tensor, of which some are constants: they are put in before it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from attrs import frozen
from torch import Tensor
from torch.overrides import handle_torch_function

from speedup.engine.constraints import Dim
from speedup.engine.keepsets import KeepSets
from speedup.ir.edits import ConstantTensor, NewBias
from speedup.ir.evaluation import evaluate
from speedup.ir.graph import Op
from speedup.lowerings.arguments import Arguments, tensor_argument
from speedup.lowerings.comparing import keywords_agree
from speedup.lowerings.lowering import Agrees, Lowering, Written
from speedup.lowerings.own_parameters import indices_told, is_own_parameter
from speedup.lowerings.places import are_proxies, contiguous_axis, places_of, stated_places
from speedup.lowerings.syntax import Change, end_of, is_literal, start_of


def fill_rows(rows: Tensor, dim: int, indices: int | Sequence[int], constants: int | Tensor) -> Tensor:
    """All rows of a tensor of which only `rows` were computed.

    Args:
        rows: any tensor.
        dim: the one of its dimensions that lists what was computed.
        indices: where each of them belongs; a number where they follow one another from there on.
        constants: a number for each index that there shall be along `dim`, 0 at `indices`; where all would be
            0, how many there shall be.

    Returns:
        A tensor like `rows`, with all indices along `dim`.
    """
    if are_proxies(rows):
        traced: Tensor = handle_torch_function(fill_rows, (rows,), rows, dim, indices, constants)
        return traced
    axis = contiguous_axis(rows, dim)
    moved = rows if axis == dim else rows.movedim(dim, axis)
    behind = moved.ndim - axis - 1
    if isinstance(constants, int):
        constants = moved.new_zeros(constants)
    elif constants.dtype != rows.dtype:
        constants = constants.to(rows.dtype)
    size = (*moved.shape[:axis], constants.shape[0], *moved.shape[axis + 1 :])
    whole = constants.reshape(-1, *(1,) * behind).expand(size).clone(memory_format=torch.contiguous_format)
    whole.index_add_(axis, places_of(indices, moved, axis), moved)
    return whole if axis == dim else whole.movedim(axis, dim)


@frozen
class FillRows(Lowering):
    """The `argument` is given only `indices` of its `total` along `dim`.

    `constants` is what it holds at the others, 0 at `indices`; the module has it as `name`. None where it
    would be 0 everywhere. `beside` is what else changes in the call: its numbers, or another argument.
    """

    helpers = MappingProxyType({"fill_rows": fill_rows})
    takes_operations = True

    argument: str
    dim: int
    indices: tuple[int, ...]
    total: int
    name: str
    constants: ConstantTensor | None
    beside: Arguments | FillRows | None = None

    def biases(self, path: str) -> Iterable[NewBias]:
        """The constants, where there are any."""
        if self.constants is not None:
            yield NewBias(path, self.constants, "what rows that are not computed hold", self.name)
        if self.beside is not None:
            yield from self.beside.biases(path)

    def destinations(self, op: Op, kept: KeepSets) -> Iterable[tuple[Dim, Tensor, str]]:
        """The constants of rows that are dropped go into the parameter."""
        if self.constants is not None:
            dim = (op.operands[self._operand_of(op)].index, self.dim)
            yield dim, indices_told(self.constants.tensor, kept[dim]), self.name
        if self.beside is not None:
            yield from self.beside.destinations(op, kept)

    def compute(self, op: Op, arguments: Mapping[str, Any], operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """The op, of all rows."""
        constants = self.total if self.constants is None else self.constants.tensor
        whole, number = list(operands), self._operand_of(op)
        whole[number] = fill_rows(whole[number], self.dim, stated_places(self.indices), constants)
        return self.beside.compute(op, arguments, whole) if self.beside else evaluate(op, whole)

    def _operand_of(self, op: Op) -> int:
        number = op.position(self.argument)
        assert number is not None, "what is filled is a tensor"
        return number

    def rewrite(self, written: Written) -> tuple[Change, ...] | None:
        """The same call of what `fill_rows` returns."""
        rows = tensor_argument(written, self.argument)
        others = self.beside.rewrite(written) if self.beside else ()
        if rows is None or others is None or (self.constants is not None and written.own is None):
            return None
        constants = f"{self.total}" if self.constants is None else f"{written.own}.{self.name}"
        start, end = start_of(rows), end_of(rows)
        return (
            Change(start, start, "fill_rows("),
            Change(end, end, f", {self.dim}, {stated_places(self.indices)}, {constants})"),
            *others,
        )

    @staticmethod
    def may_replace(old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
        """The same call of the same tensors, some of them filled."""
        if not isinstance(new, ast.Call):
            return False
        filled = partial(_agrees_or_fills, agrees)
        match old.func, new.func:
            case ast.Attribute(value=one, attr=name), ast.Attribute(value=other, attr=named):
                is_same = name == named and filled(one, other, False)
            case one, other:
                is_same = agrees(one, other, False)
        if not is_same or len(old.args) != len(new.args) or not keywords_agree(old, new, filled):
            return False
        return all(filled(one, other, True) for one, other in zip(old.args, new.args, strict=True))

    @staticmethod
    def may_replace_operation(old: ast.BinOp | ast.AugAssign, new: ast.AST, agrees: Agrees) -> bool:
        """The same operation with the same tensors, some of them filled."""
        match old, new:
            case ast.BinOp(), ast.BinOp() if type(old.op) is type(new.op):
                filled = partial(_agrees_or_fills, agrees)
                return filled(old.left, new.left, False) and filled(old.right, new.right, False)
        return False


def _agrees_or_fills(agrees: Agrees, rows: Any, new: Any, is_argument: bool) -> bool:
    """Whether `new` is `rows` as it was, or a call of `fill_rows` with it."""
    match new:
        case ast.Call(func=ast.Name(id="fill_rows"), args=[given, dim, places, constants], keywords=[]):
            held = is_literal(constants) or is_own_parameter(constants)
            if agrees(rows, given, False) and is_literal(dim) and is_literal(places) and held:
                return True
    return agrees(rows, new, is_argument)
