"""Between what numbers a number lies that the forward derives from sizes, at every size of the inputs."""

from __future__ import annotations

from itertools import product
from typing import assert_never

from speedup.engine.bounds import OPEN, Bounds, spanned
from speedup.ir.expressions import FUNCTIONS, Arithmetic, AttributeOf, Expression, SizeOf
from speedup.rules.extents import Extents

MOST_ELEMENTS = 2**62
"""No tensor has that many elements."""

_HIGHEST_POWER = 16
_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
# Monotone in each of their operands, on either side of 0.
_MONOTONE = frozenset(
    """
    add sub mul floordiv truediv neg abs floor ceil trunc round
    log log2 log10 log1p sqrt isqrt cbrt exp exp2 expm1 tanh hypot fabs
    """.split()
)


def bounds_of(expression: Expression, extents: Extents) -> Bounds:
    """The bounds of `expression` where each extent that follows the inputs is 1 or more."""
    match expression:
        case SizeOf(value, dim):
            owner = extents.graph.values[value]
            return Bounds(1, MOST_ELEMENTS) if extents.varies(owner, dim) else spanned([owner.shape[dim]])
        case AttributeOf():
            return spanned([expression.number])
        case Arithmetic(function, operands):
            return _bounds_of_result(function, [bounds_of(one, extents) for one in operands])
        case int() | float():
            return spanned([expression])
        case _:
            assert_never(expression)


def _bounds_of_result(function: str, operands: list[Bounds]) -> Bounds:
    if function in _COMPARISONS:
        return Bounds(0, 1)
    if any(one.is_open for one in operands):
        return OPEN
    if function == "mod":
        divisor = operands[1]
        return Bounds(0, divisor.high) if divisor.low > 0 else OPEN
    if function == "pow":
        exponent = operands[1]
        is_monotone = exponent.low == exponent.high and 0 <= exponent.low <= _HIGHEST_POWER
    else:
        is_monotone = function in _MONOTONE
    if not is_monotone:
        return OPEN
    try:
        corners = product(*(one.points(float("inf")) for one in operands))
        return spanned([FUNCTIONS[function](*corner) for corner in corners])
    except (ArithmeticError, ValueError):
        # A division by 0, the root of a negative number: some sizes are not taken.
        return OPEN
