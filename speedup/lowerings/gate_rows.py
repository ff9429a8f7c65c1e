"""A product of rows and a gate: rows that are constants before it are left out, and what they add is kept."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from attrs import frozen
from torch import Tensor
from torch.overrides import handle_torch_function

from speedup.engine.constraints import Dim
from speedup.engine.keepsets import KeepSets
from speedup.ir.edits import ConstantTensor, NewBias
from speedup.ir.graph import Op, Shape, Value
from speedup.lowerings.lowering import Agrees, Lowering, Written
from speedup.lowerings.places import (
    are_proxies,
    contiguous_axis,
    index_tensor,
    others_than,
    places_of,
    stated_places,
)
from speedup.lowerings.syntax import Change
from speedup.lowerings.two_tensors import Replacement

_PRODUCT = Replacement(
    ast.Mult, "mul", "gate_rows", ("gate", "rows", "dim", "indices", "carriers", "into", "left_out")
)


def gate_rows(
    gate: Tensor,
    rows: Tensor,
    dim: int,
    indices: int | Sequence[int],
    carriers: Sequence[int],
    into: Sequence[int],
    left_out: Tensor,
) -> Tensor:
    """`gate * rows`, of which only some rows were computed, for readers that sum over `dim`.

    The others are sums of multiples of a few that were: the same for every input before the gate, which
    scales each by a factor of its own. What they add to the sums is put into rows that do as well there.

    Args:
        gate: (samples, rows of all, ...) a factor for each row of each sample, the same at all positions.
        rows: (samples, rows that are computed, ...); the second dimension, or the last, lists them.
        dim: that dimension.
        indices: where each of `rows` stands in `gate`; a number where they follow one another from there.
        carriers: which of `rows` the others are sums of multiples of.
        into: which of `rows` get what the others would add.
        left_out: a column for each row of `gate` that is none of `indices`, in order: how much of it goes to
            each of `into`, and below how much of each of `carriers` it is.

    Returns:
        A tensor of the shape of `rows`.
    """
    if are_proxies(gate, rows):
        given = (gate, rows, dim, indices, carriers, into, left_out)
        traced: Tensor = handle_torch_function(gate_rows, (gate, rows), *given)
        return traced
    axis = contiguous_axis(rows, dim)
    if axis != dim:
        gate, rows = gate.movedim(dim, axis), rows.movedim(dim, axis)
    total = rows * gate.index_select(axis, places_of(indices, rows, axis))
    others = others_than(indices, rows.shape[axis], gate.shape[axis], gate.device)
    factors = gate.index_select(axis, others)
    for position in range(1, gate.ndim):
        if position != axis:
            factors = factors.narrow(position, 0, 1)
    factors = factors.reshape(gate.shape[0], 1, len(others))
    to, of = torch.split(left_out.to(total.dtype), [len(into), len(carriers)])
    mixing = (to * factors) @ of.t()
    carried = rows.index_select(axis, index_tensor(carriers, rows.device))
    if axis == 1:
        added = (mixing @ carried.flatten(2)).reshape(-1, len(into), *carried.shape[2:])
    else:
        added = (carried.flatten(1, -2) @ mixing.mT).reshape(*carried.shape[:-1], len(into))
    total.index_add_(axis, index_tensor(into, rows.device), added.to(total.dtype))
    return total if axis == dim else total.movedim(axis, dim)


@frozen
class GateRows(Lowering):
    """Of a product with a gate, operand number `operand` lacks rows along `dim`; see `gate_rows`.

    The module holds `left_out` as `name`.
    """

    helpers = MappingProxyType({"gate_rows": gate_rows})
    takes_operations = True

    operand: int
    dim: int
    indices: tuple[int, ...]
    carriers: tuple[int, ...]
    into: tuple[int, ...]
    name: str
    left_out: ConstantTensor

    def biases(self, path: str) -> Iterable[NewBias]:
        """What is known of the rows that are left out."""
        yield NewBias(path, self.left_out, "what gated rows that are not computed would add", self.name)

    def destinations(self, op: Op, kept: KeepSets) -> Iterable[tuple[Dim, Tensor, str]]:
        """The rows that are left out go into the parameter."""
        rows, gate = ((op.operands[n].index, self.dim) for n in (self.operand, 1 - self.operand))
        yield rows, kept[gate] & ~kept[rows], self.name

    def macs(self, op: Op, sizes: Callable[[Value], Shape]) -> int:
        """Those of the two small products that put together what the rows that are left out add."""
        samples, *others = sizes(op.operands[self.operand])
        positions = prod(others) // others[self.dim - 1]
        ends = len(self.into) * len(self.carriers)
        return samples * ends * (positions + self.left_out.tensor.shape[1])

    def compute(self, op: Op, arguments: Mapping[str, Any], operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """The product."""
        rows, gate = operands[self.operand], operands[1 - self.operand]
        places = stated_places(self.indices)
        ends = list(self.carriers), list(self.into)
        return [gate_rows(gate, rows, self.dim, places, *ends, self.left_out.tensor)]

    def rewrite(self, written: Written) -> tuple[Change, ...] | None:
        """A call of `gate_rows` with the operands, which are evaluated in the same order."""
        if written.own is None:
            return None
        numbers = (self.dim, stated_places(self.indices), list(self.carriers), list(self.into))
        arguments = [*map(str, numbers), f"{written.own}.{self.name}"]
        return _PRODUCT.rewrite(written, self.operand == 0, arguments)

    @staticmethod
    def may_replace(old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
        """A call of `gate_rows` with the same tensors, numbers, and a parameter of the module."""
        return _PRODUCT.may_replace(old, new, agrees)

    @staticmethod
    def may_replace_operation(old: ast.BinOp | ast.AugAssign, new: ast.AST, agrees: Agrees) -> bool:
        """The same, also where the result is then called what the first tensor was."""
        return _PRODUCT.may_replace_operation(old, new, agrees)
