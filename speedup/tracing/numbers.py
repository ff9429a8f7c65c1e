"""Python arithmetic on numbers that a forward reads from tensors, as operators of tensors.

`torch.export` writes down what Python computes from `x.item()`: `operator.mul`, `torch.sym_max`. On tensors
without dimensions, of the widest type of their kind, torch's own operators compute the same.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import Node

from speedup.ir.graph import Value
from speedup.ir.operators import operator_of
from speedup.torch_api import SYMBOLIC_MATH, Overload, schema_of

_ATEN = torch.ops.aten

ARITHMETIC: Mapping[Any, Overload] = MappingProxyType(
    {
        operator.add: _ATEN.add.Tensor,
        operator.sub: _ATEN.sub.Tensor,
        operator.mul: _ATEN.mul.Tensor,
        operator.truediv: _ATEN.div.Tensor,
        operator.floordiv: _ATEN.floor_divide.default,
        operator.mod: _ATEN.remainder.Tensor,
        operator.pow: _ATEN.pow.Tensor_Tensor,
        operator.neg: _ATEN.neg.default,
        operator.pos: _ATEN.positive.default,
        operator.abs: _ATEN.abs.default,
        operator.and_: _ATEN.bitwise_and.Tensor,
        operator.or_: _ATEN.bitwise_or.Tensor,
        operator.xor: _ATEN.bitwise_xor.Tensor,
        operator.lshift: _ATEN.bitwise_left_shift.Tensor,
        operator.rshift: _ATEN.bitwise_right_shift.Tensor,
        operator.eq: _ATEN.eq.Tensor,
        operator.ne: _ATEN.ne.Tensor,
        operator.lt: _ATEN.lt.Tensor,
        operator.le: _ATEN.le.Tensor,
        operator.gt: _ATEN.gt.Tensor,
        operator.ge: _ATEN.ge.Tensor,
        math.floor: _ATEN.floor.default,
        math.ceil: _ATEN.ceil.default,
        math.trunc: _ATEN.trunc.default,
        builtins.round: _ATEN.round.default,
        torch.sym_float: _ATEN.clone.default,
        torch.sym_int: _ATEN.trunc.default,
        torch.sym_max: _ATEN.maximum.default,
        torch.sym_min: _ATEN.minimum.default,
        torch.sym_not: _ATEN.logical_not.default,
        **{function: getattr(_ATEN, name).default for name, function in SYMBOLIC_MATH.items()},
    }
)
"""By the function that Python calls: the operator that computes the same."""

# What torch.export has checked at run time: nothing is computed from it.
_CHECKS = frozenset(
    {"aten::_assert_scalar", "aten::sym_constrain_range", "aten::sym_constrain_range_for_size"}
)

Number = int | float | bool
_KINDS: Mapping[type, torch.dtype] = MappingProxyType(
    {
        torch.SymFloat: torch.float64,
        torch.SymInt: torch.int64,
        torch.SymBool: torch.bool,
        float: torch.float64,
        int: torch.int64,
        bool: torch.bool,
    }
)
_WIDER = (torch.bool, torch.int64, torch.float64)
_CASTS: Mapping[torch.dtype, Callable[[Any], Number]] = MappingProxyType(
    {torch.bool: bool, torch.int64: int, torch.float64: float}
)


def number_type(found: Any) -> torch.dtype | None:
    """The type in which a number that is only known at run time is computed; None for anything else."""
    return _KINDS[type(found)] if type(found) in (torch.SymFloat, torch.SymInt, torch.SymBool) else None


def is_arithmetic(node: Node) -> bool:
    """Whether `node` computes a number from numbers."""
    return operator_of(node) is None and node.op == "call_function" and node.target in ARITHMETIC


def is_check(node: Node) -> bool:
    """Whether `node` only checks a number, or computes one that is only checked."""
    target = operator_of(node)
    if target is not None:
        return schema_of(target).name in _CHECKS
    return is_arithmetic(node) and all(is_check(user) for user in node.users)


def computing_type(operands: list[Value | Number], wanted: torch.dtype) -> torch.dtype:
    """The type in which arithmetic on `operands` loses nothing that Python keeps."""
    types = [o.dtype if isinstance(o, Value) else _KINDS[type(o)] for o in operands]
    widest = max(types, key=_WIDER.index)
    return torch.float64 if wanted is torch.float64 else widest


def as_type(number: Number, dtype: torch.dtype) -> Number:
    """A plain number in the kind of `dtype`."""
    return _CASTS[dtype](number)
