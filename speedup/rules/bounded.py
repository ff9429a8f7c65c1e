"""Between what numbers the results of operators lie: the ways of `Rule.bounds`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import torch

from speedup.engine.bounds import OPEN, Bounds, around, spanned
from speedup.ir.evaluation import evaluate
from speedup.ir.graph import Op
from speedup.rules.rule import BoundsOf, Facts

AT_LEAST_0 = Bounds(0, math.inf)
UP_TO_1 = Bounds(0, 1)


def at_ends(op: Op, facts: Facts) -> Sequence[Bounds]:
    """Of an operator that works element by element and is monotone in each operand on either side of 0.

    Open where the operator does not run in these types on the CPU.
    """
    values = (*op.operands, op.result)
    if any(v.is_number or not v.dtype.is_floating_point for v in values):
        return (OPEN,)
    points = [f.bounds.points(torch.finfo(v.dtype).max) for f, v in zip(facts, op.operands, strict=True)]
    corners = zip(*product(*points), strict=True)
    try:
        tensors = [torch.tensor(some, dtype=v.dtype) for some, v in zip(corners, op.operands, strict=True)]
        (found,) = evaluate(op, tensors)
    except RuntimeError:
        return (OPEN,)
    return (spanned(found.double().tolist()),)


def as_given(op: Op, facts: Facts) -> Sequence[Bounds]:
    """Of an operator whose first result consists of elements of its first operand, or lies between these."""
    first, *others = op.results
    is_same = bool(op.operands) and first.dtype == op.operands[0].dtype
    return (facts[0].bounds if is_same else OPEN, *(OPEN for _ in others))


def as_given_or_0(op: Op, facts: Facts) -> Sequence[Bounds]:
    """The same, where zeros take part."""
    first, *others = as_given(op, facts)
    return (around([first, spanned([0])]), *others)


def in_type_of_result(op: Op, facts: Facts) -> Sequence[Bounds]:
    """Of a cast of the first operand."""
    before, after = op.operands[0].dtype, op.results[0].dtype
    if not before.is_floating_point or not after.is_floating_point:
        return (OPEN,)
    ends = torch.tensor(facts[0].bounds.points(torch.finfo(before).max), dtype=before)
    return (spanned(ends.to(after).double().tolist()),)


def always(*bounds: Bounds) -> BoundsOf:
    """Of an operator whose first results lie within `bounds` whatever its operands are."""
    return lambda op, facts: (*bounds, *(OPEN for _ in op.results[len(bounds) :]))


def keeps_sign(op: Op, facts: Facts) -> Sequence[Bounds]:
    """Of an operator that adds up or multiplies elements: of what is not negative nothing negative comes."""
    return (AT_LEAST_0 if facts[0].bounds.low >= 0 else OPEN, *(OPEN for _ in op.results[1:]))


def either(*choices: Callable[[Op, Facts], Bounds]) -> BoundsOf:
    """Of an operator each element of whose result is one of these."""
    return lambda op, facts: (around([choice(op, facts) for choice in choices]),)


def argument(name: str) -> Callable[[Op, Facts], Bounds]:
    """The bounds of an argument, which may be a tensor or a number; open where it is None."""

    def bounds(op: Op, facts: Facts) -> Bounds:
        position, given = op.position(name), op.get(name)
        if position is not None:
            is_same = op.operands[position].dtype == op.result.dtype
            return facts[position].bounds if is_same else OPEN
        if not isinstance(given, int | float) or not op.result.dtype.is_floating_point:
            return OPEN
        return spanned([float(torch.tensor(given, dtype=op.result.dtype))])

    return bounds
