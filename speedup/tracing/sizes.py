"""Attach what a trace saw of sizes and attributes to the ops that received them.

A Python call such as `x.view(b, c // 2, -1)` may become one or several ops. Its numbers are
matched to theirs in order where the sequences agree, else by value among the arguments that
can hold a size. A tracked number that is found nowhere is opaque: its roots may not change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby
from types import MappingProxyType
from typing import Any

from attrs import evolve, frozen

from speedup.ir.expressions import (
    Arithmetic,
    AttributeOf,
    Derived,
    Expression,
    Guard,
    Root,
    SizeOf,
    Use,
    roots_in,
    sizes_in,
)
from speedup.ir.graph import Op, Origin
from speedup.torch_api import schema_of
from speedup.tracing.record import ARGUMENT, Record

# A number in one of these equals a size only by coincidence.
_NEVER_SIZES = frozenset({"dim", "dim0", "dim1", "dims", "start_dim", "end_dim", "step", "stride"})

Number = tuple[Any, Expression | None]


@frozen
class NumberedCall:
    """The numbers of the Python call that created op `op`, each with its expression if tracked."""

    op: int
    numbers: tuple[Number, ...]


def attach_sizes(
    ops: tuple[Op, ...], calls: tuple[NumberedCall, ...], roots: Mapping[int, int], record: Record
) -> tuple[tuple[Op, ...], tuple[Guard, ...], tuple[Root, ...], tuple[Use, ...]]:
    """The ops with derived numbers in their arguments, the guards, the opaque roots, and the uses.

    `roots` maps the ids that a trace gave to tensors whose sizes were read to value indices.
    """
    changed: dict[int, Op] = {}
    opaque: list[Root] = list(record.opaque_roots)
    uses: list[Use] = list(record.frozen_uses())
    seen: Counter[Any] = Counter()
    for numbers, members in groupby(calls, key=lambda call: call.numbers):
        group = list(members)
        tracked = {e for _, e in numbers if e is not None}
        found: set[Expression] = set()
        left = [(n, e) for n, e in numbers if e is not None]
        for call in group:
            op, matched = _match(ops[call.op], numbers, roots, left)
            changed[call.op] = op
            found |= matched
        for expression in sorted(tracked - found, key=str):
            opaque.extend(roots_in(expression))
            # A tensor made of numbers holds these, and whatever is asked of it is out of sight.
            is_made = any(v.origin is Origin.CONSTANT for one in group for v in ops[one.op].operands)
            uses.extend(_unfound(ops[call.op], expression, numbers, seen, is_made))
    guards = tuple(
        evolve(guard, expression=expression)
        for guard in record.frozen_guards()
        if isinstance(expression := _rooted(guard.expression, roots), Arithmetic)
    )
    known = tuple(
        dict.fromkeys(r for s in opaque if isinstance(r := _rooted(s, roots), SizeOf | AttributeOf))
    )
    used = tuple(
        evolve(use, expression=expression)
        for use in dict.fromkeys(uses)
        if (expression := _rooted(use.expression, roots)) is not None
    )
    return tuple(changed.get(op.index, op) for op in ops), guards, known, used


def _unfound(
    op: Op, expression: Expression, numbers: tuple[Number, ...], seen: Counter[Any], is_made: bool
) -> Iterator[Use]:
    """That the numbers of an expression went into a call and cannot be found in what came of it."""
    if next(sizes_in(expression), None) is not None:
        place = next(n for n, (_, e) in enumerate(numbers) if e == expression)
        key = (op.calls[:1], place)
        seen[key] += 1
        how = f"{ARGUMENT} {op.name}"
        yield Use(expression, numbers[place][0], how, is_made, where=op.where, key=(key, seen[key]))


def _rooted(expression: Expression, roots: Mapping[int, int]) -> Expression | None:
    """`expression` over value indices; None when a tensor it reads is not in the graph."""
    if isinstance(expression, SizeOf):
        value = roots.get(expression.value)
        return None if value is None else SizeOf(value, expression.dim)
    if isinstance(expression, Arithmetic):
        operands = tuple(_rooted(o, roots) for o in expression.operands)
        if any(o is None for o in operands):
            return None
        return Arithmetic(expression.function, tuple(o for o in operands if o is not None))
    return expression


def _is_number(item: Any) -> bool:
    return isinstance(item, int | float) and not isinstance(item, bool)


def _numbers(argument: Any) -> Iterator[Any]:
    if _is_number(argument):
        yield argument
    elif isinstance(argument, tuple):
        for item in argument:
            yield from _numbers(item)


def _given(op: Op) -> dict[str, Any]:
    """The arguments that do not simply repeat the schema's default."""
    defaults = {p.name: p.default_value for p in schema_of(op.target).arguments}
    return {n: a for n, a in op.arguments.items() if a != _held(defaults[n]) or not list(_numbers(a))}


def _held(default: Any) -> Any:
    """A default of a schema as an op holds it."""
    return tuple(default) if isinstance(default, list) else default


def _match(
    op: Op, numbers: tuple[Number, ...], roots: Mapping[int, int], left: list[Number]
) -> tuple[Op, set[Expression]]:
    """The op with derived numbers, and their expressions; `left` are numbers that no op of the call has had.

    Equal numbers of different expressions are handed out in the order of the call.
    """
    own, plain = list(_numbers(tuple(_given(op).values()))), [n for n, _ in numbers]
    given = _given(op)
    if own != plain and list(_numbers(tuple(op.arguments.values()))) == plain:
        given, own = dict(op.arguments), plain
    in_order = own == plain
    supply = iter(numbers)
    matched: set[Expression] = set()

    def derive(number: Any, name: str) -> Any:
        if in_order:
            expression = next(supply)[1]
        elif name in _NEVER_SIZES:
            expression = None
        else:
            candidates = {e for n, e in numbers if n == number}
            if len(candidates) > 1 and None not in candidates:
                candidates = {next((e for n, e in left if n == number), None)}
            expression = candidates.pop() if len(candidates) == 1 else None
        if (number, expression) in left:
            left.remove((number, expression))
        if expression is None:
            return number
        rooted = _rooted(expression, roots)
        matched.add(expression)
        return number if rooted is None else Derived(number, rooted)

    def walk(argument: Any, name: str) -> Any:
        if _is_number(argument):
            return derive(argument, name)
        if isinstance(argument, tuple):
            return tuple(walk(a, name) for a in argument)
        return argument

    arguments = {n: walk(a, n) if n in given else a for n, a in op.arguments.items()}
    return (evolve(op, arguments=MappingProxyType(arguments)) if matched else op), matched
