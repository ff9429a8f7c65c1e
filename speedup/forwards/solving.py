"""Find the integers that module attributes must have so that the forward computes the sizes it needs.

Each equation says what an expression over attributes and sizes has to be. Sizes are known, so
equations with one open attribute are inverted; the others are searched with the values so found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from attrs import frozen

from speedup.ir.expressions import (
    Arithmetic,
    AttributeOf,
    Expression,
    Root,
    SizeOf,
    attributes_in,
    evaluate_expression,
)

_BUDGET = 2000


@frozen
class Equation:
    """`expression` has to be `wanted`."""

    expression: Expression
    wanted: Any

    @property
    def unknowns(self) -> frozenset[AttributeOf]:
        return frozenset(attributes_in(self.expression))


def related_equations(equations: Sequence[Equation], first: Iterable[AttributeOf]) -> tuple[Equation, ...]:
    """The equations that the attributes `first` take part in, directly or through others."""
    found, _ = _reach(equations, _by_attribute(equations), first)
    return found


def components(equations: Sequence[Equation]) -> Iterator[tuple[Equation, ...]]:
    """`equations` in groups that share no attribute, each to be solved on its own."""
    by_attribute = _by_attribute(equations)
    seen: set[AttributeOf] = set()
    for attribute in by_attribute:
        if attribute not in seen:
            found, reached = _reach(equations, by_attribute, [attribute])
            seen |= reached
            yield found


def _by_attribute(equations: Sequence[Equation]) -> Mapping[AttributeOf, Sequence[int]]:
    found: dict[AttributeOf, list[int]] = {}
    for number, equation in enumerate(equations):
        for unknown in attributes_in(equation.expression):
            found.setdefault(unknown, []).append(number)
    return found


def _reach(
    equations: Sequence[Equation],
    by_attribute: Mapping[AttributeOf, Sequence[int]],
    first: Iterable[AttributeOf],
) -> tuple[tuple[Equation, ...], set[AttributeOf]]:
    """The equations that are connected with the attributes `first`, and all attributes in these."""
    pending = list(first)
    seen = set(pending)
    found: set[int] = set()
    while pending:
        for number in by_attribute.get(pending.pop(), ()):
            if number not in found:
                found.add(number)
                new = equations[number].unknowns - seen
                seen |= new
                pending.extend(new)
    return tuple(dict.fromkeys(equations[number] for number in sorted(found))), seen


def solve_attributes(
    equations: Sequence[Equation],
    fixed: Mapping[AttributeOf, Any],
    size: Callable[[SizeOf], int],
) -> Mapping[AttributeOf, Any] | None:
    """Values of all attributes in `equations` that satisfy every one of them; None if none are found.

    `fixed` attributes are what it says. Where several values would do, the old one is preferred.
    """
    known = {a: fixed[a] for e in equations for a in e.unknowns if a in fixed}
    steps = count()
    return _search(equations, known, size, lambda: next(steps) < _BUDGET)


def _search(
    equations: Sequence[Equation],
    known: Mapping[AttributeOf, Any],
    size: Callable[[SizeOf], int],
    may_go_on: Callable[[], bool],
) -> Mapping[AttributeOf, Any] | None:
    if not may_go_on():
        return None

    def lookup(root: Root) -> Any:
        return size(root) if isinstance(root, SizeOf) else known[root]

    left: list[Equation] = []
    for equation in equations:
        if equation.unknowns <= known.keys():
            if _value(equation.expression, lookup) != equation.wanted:
                return None
        else:
            left.append(equation)
    if not left:
        return known
    chosen = min(left, key=lambda e: len(e.unknowns - known.keys()))
    unknowns = sorted(chosen.unknowns - known.keys(), key=lambda a: (a.path, a.name))
    for unknown in unknowns:
        inverted = _invert(chosen.expression, chosen.wanted, lookup) if len(unknowns) == 1 else ()
        for candidate in dict.fromkeys((*inverted, unknown.number)):
            found = _search(left, {**known, unknown: candidate}, size, may_go_on)
            if found is not None:
                return found
    return None


def _value(expression: Expression, lookup: Callable[[Root], Any]) -> Any:
    try:
        return evaluate_expression(expression, lookup)
    except (ArithmeticError, ValueError):
        return None


def _invert(expression: Expression, wanted: Any, lookup: Callable[[Root], Any]) -> Iterator[Any]:
    """Values of the one open attribute of `expression` that may make it `wanted`."""
    if isinstance(expression, AttributeOf):
        if not isinstance(expression.number, int) or wanted == int(wanted):
            yield type(expression.number)(wanted)
        return
    if not isinstance(expression, Arithmetic):
        return
    values = [_open_value(o, lookup) for o in expression.operands]
    if sum(v is None for v in values) != 1:
        return
    place = values.index(None)
    other = values[1 - place] if len(values) == 2 else None
    for target in _undo(expression.function, place, other, wanted):
        yield from _invert(expression.operands[place], target, lookup)


def _open_value(expression: Expression, lookup: Callable[[Root], Any]) -> Any:
    try:
        return evaluate_expression(expression, lookup)
    except (KeyError, ArithmeticError):
        return None


def _undo(function: str, place: int, other: Any, wanted: Any) -> Iterator[Any]:
    """What operand number `place` may have been, given the other one and the result."""
    match function, place:
        case "add", _:
            yield wanted - other
        case "sub", 0:
            yield wanted + other
        case "sub", 1:
            yield other - wanted
        case "neg", _:
            yield -wanted
        case "mul", _ if other:
            yield wanted // other if wanted % other == 0 else wanted / other
        case (("floordiv" | "truediv"), 0):
            yield wanted * other
        case (("floordiv" | "truediv"), 1) if wanted:
            yield from dict.fromkeys((other // wanted, math.ceil(other / wanted)))
        case (("floor" | "ceil"), _):
            yield wanted
        case _:
            return
