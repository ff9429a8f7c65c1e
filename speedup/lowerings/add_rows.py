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
from speedup.lowerings.own_parameters import indices_told, is_own_parameter
from speedup.lowerings.places import are_proxies, contiguous_axis, places_of, stated_places
from speedup.lowerings.syntax import Change, end_of, is_literal, last_name, start_of

_KEYWORDS = ((), ("rows", "stream", "dim", "indices"), ("rows", "stream", "dim", "indices", "bias"))


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
        operands = _operands_of(written)
        if operands is None or (self.bias is not None and written.own is None):
            return None
        first, second = operands
        node, dim, places = written.node, self.dim, stated_places(self.indices)
        target = f"{first.id} = " if isinstance(node, ast.AugAssign) and isinstance(first, ast.Name) else ""
        bias = "" if self.bias is None else f"{written.own}.{self.name}"
        rest = f", {dim}, {places}{bias and f', {bias}'})"
        if self.operand == 1:
            return _around(written, operands, (f"{target}add_rows(", ", ", rest))
        if isinstance(first, ast.Name) and isinstance(second, ast.Name):
            # Names may be read in any order.
            text = f"{target}add_rows({second.id}, {first.id}{rest}"
            return (Change(start_of(node), end_of(node), text),)
        rest = f", dim={dim}, indices={places}{bias and f', bias={bias}'})"
        return _around(written, operands, (f"{target}add_rows(rows=", ", stream=", rest))

    @staticmethod
    def may_replace(old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
        """A call of `add_rows` with the same tensors, numbers, and a parameter of the module."""
        if last_name(old.func) != "add" or old.keywords:
            return False
        tensors = old.args
        if len(tensors) == 1 and isinstance(old.func, ast.Attribute):
            tensors = [old.func.value, *tensors]
        return len(tensors) == 2 and _adds_rows(tensors, new, agrees)

    @staticmethod
    def may_replace_operation(old: ast.BinOp | ast.AugAssign, new: ast.AST, agrees: Agrees) -> bool:
        """The same, also where the result is then called what the first tensor was."""
        if not isinstance(old.op, ast.Add):
            return False
        if isinstance(old, ast.BinOp):
            return _adds_rows([old.left, old.right], new, agrees)
        match old.target, new:
            case ast.Name(id=name), ast.Assign(targets=[ast.Name(id=other)], value=value) if name == other:
                return _adds_rows([ast.Name(name, ast.Load()), old.value], value, agrees)
        return False


def _operands_of(written: Written) -> tuple[ast.expr, ast.expr] | None:
    """The two tensors, as they stand; None where the sum says more than them."""
    match written.node:
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return left, right
        case ast.AugAssign(target=ast.Name() as target, op=ast.Add(), value=value):
            return target, value
        case ast.Call(keywords=[]):
            call = written.call
            if call is not None and call.name == "add" and len(call.arguments) == 1:
                (other,) = call.arguments
                return None if isinstance(other, ast.Starred) else (call.tensor, other)
    return None


def _around(
    written: Written, operands: tuple[ast.expr, ast.expr], words: tuple[str, str, str]
) -> tuple[Change, ...]:
    """The operands as they stand, with words before, between and behind them."""
    first, second = operands
    return (
        Change(start_of(written.node), start_of(first), words[0]),
        Change(end_of(first), start_of(second), words[1]),
        Change(end_of(second), end_of(written.node), words[2]),
    )


def _adds_rows(tensors: Sequence[ast.expr], new: ast.AST, agrees: Agrees) -> bool:
    """Whether `new` adds rows to their places, of the two tensors."""
    if not isinstance(new, ast.Call) or not isinstance(new.func, ast.Name) or new.func.id != "add_rows":
        return False
    keywords = [(keyword.arg, keyword.value) for keyword in new.keywords]
    names = tuple(name for name, _ in keywords)
    given = [*new.args, *(value for _, value in keywords)]
    if names not in _KEYWORDS or len(given) not in (4, 5) or (keywords and new.args):
        return False
    orders = [tensors]
    if not keywords and all(isinstance(one, ast.Name) for one in tensors):
        orders.append(tensors[::-1])
    return (
        any(all(agrees(a, b, False) for a, b in zip(own, given[:2], strict=True)) for own in orders)
        and all(is_literal(number) for number in given[2:4])
        and all(is_own_parameter(one) for one in given[4:])
    )
