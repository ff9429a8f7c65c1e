"""What is known of an op's results whatever the numbers are that the forward derives from sizes.

A number that follows the inputs' sizes is another at other sizes. What an operator makes of constants that it
is monotone in, as a quotient in its divisor, lies between what comes of the least and of the greatest number
that there can be. Where these agree it is that for every number between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import product
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from attrs import evolve

from speedup.engine.bounds import OPEN, Bounds, around
from speedup.engine.lattice import Fact, join
from speedup.ir.expressions import Argument, Derived, Expression, derived_in
from speedup.ir.graph import Op
from speedup.rules.derived import MOST_ELEMENTS, bounds_of
from speedup.rules.extents import Extents
from speedup.rules.rule import Rule, nothing_known

Said = TypeVar("Said")

_MOST_NUMBERS = 4


def forms_at_every_size(op: Op, rule: Rule, extents: Extents) -> tuple[Op, ...]:
    """Calls that `op`, whose rule is `rule`, lies between at every size of the inputs.

    The op itself where its numbers are the same at every size, or the rule looks at these numbers; none where
    it cannot be told.
    """
    if not op.follows_sizes() or rule.moves is not None or rule.reads_sizes:
        return (op,)
    derived = derived_in(tuple(op.arguments.values()))
    numbers = tuple(dict.fromkeys(one for one in derived if extents.follow_input(one.expression)))
    if not numbers:
        return (op,)
    if not rule.is_monotone or len(numbers) > _MOST_NUMBERS or not _is_real(op):
        return ()
    most = min(float(MOST_ELEMENTS), *(torch.finfo(v.dtype).max for v in op.operands))
    ends = [_ends(one.number, bounds_of(one.expression, extents), most) for one in numbers]
    expressions = [one.expression for one in numbers]
    return tuple(_with_numbers(op, dict(zip(expressions, chosen, strict=True))) for chosen in product(*ends))


def known_in_every_form(op: Op, facts: Sequence[Fact], rule: Rule, forms: Sequence[Op]) -> Sequence[Fact]:
    """The facts of the results of `op`, which lies between `forms`."""
    if forms == (op,):
        return rule.known(op, facts)
    found = _asked(forms, lambda form: rule.known(form, facts))
    return [reduce(join, each) for each in zip(*found, strict=True)] if found else nothing_known(op, facts)


def bounds_in_every_form(op: Op, facts: Sequence[Fact], rule: Rule, forms: Sequence[Op]) -> Sequence[Bounds]:
    """The bounds of the results of `op`, which lies between `forms`."""
    if forms == (op,):
        return rule.bounds(op, facts)
    found = _asked(forms, lambda form: rule.bounds(form, facts))
    return [around(each) for each in zip(*found, strict=True)] if found else [OPEN] * len(op.results)


def _asked(forms: Sequence[Op], ask: Callable[[Op], Sequence[Said]]) -> list[Sequence[Said]]:
    """What is said of each form; nothing where the operator does not take all that lies between."""
    try:
        return [ask(form) for form in forms]
    except (RuntimeError, TypeError, ValueError, OverflowError):
        return []


def _is_real(op: Op) -> bool:
    """Whether the op computes with real numbers, which do not wrap around."""
    return bool(op.operands) and all(v.dtype.is_floating_point for v in op.operands)


def _ends(number: float, bounds: Bounds, most: float) -> tuple[float, ...]:
    """The numbers of the kind of `number` between which those within `bounds` lie, up to `most`."""
    points = bounds.points(most)
    if not isinstance(number, int):
        return points
    beside = (-1, 0, 1) if len(points) > 2 else ()
    return tuple(dict.fromkeys((int(points[0]), *beside, int(points[-1]))))


def _with_numbers(op: Op, numbers: Mapping[Expression, float]) -> Op:
    """`op` as a forward would call it that states `numbers` in the place of what it derives."""

    def state(argument: Argument) -> Any:
        if isinstance(argument, tuple):
            return tuple(state(one) for one in argument)
        return numbers.get(argument.expression, argument) if isinstance(argument, Derived) else argument

    return evolve(op, arguments=MappingProxyType({n: state(a) for n, a in op.arguments.items()}))
