"""What a trace leaves open about sizes: which other numbers would tell, and how to say it in words.

A question is a comparison that the forward branched on, a call whose errors it catches, or a use of a number
out of the trace's sight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any

from speedup.ir.expressions import (
    Arithmetic,
    Attempt,
    AttributeOf,
    Expression,
    Guard,
    Root,
    SizeOf,
    Use,
    evaluate_expression,
    sizes_in,
)
from speedup.ir.graph import Graph
from speedup.tracing.hidden import IN_C
from speedup.tracing.provenance import TEXT
from speedup.tracing.record import ARGUMENT

Question = Guard | Use
_MOST_TARGETS = 12
# So many numbers in the place of one are all tried; sizes from 1 and from far away that tell which there are.
_MOST_NUMBERS, _PERIOD, _FAR = 8, 60, 60 * 14 * 11 * 13 + 1
# Counts that are seen besides one more, one fewer and none.
FEW_ROUNDS = (1, 2, 3)

# Uses that say how often something runs: more, less and not at all are other programs.
_COUNTS = frozenset({"range()", "as many tensors", "len()", "a repeated list", "a slice"})


def is_count(use: Use) -> bool:
    """Whether a use says how often something runs, as far as can be told."""
    return use.how in _COUNTS or use.how == IN_C


def is_choice(use: Use) -> bool:
    """Whether a use may say which of several things is taken, each number another."""
    return use.how not in _COUNTS and not use.how.startswith(ARGUMENT)


def targets_of(question: Question) -> tuple[int, ...]:
    """Sizes that code which may do anything with a size is tried at."""
    if not isinstance(question, Use):
        return ()
    size, hints = question.number, question.hints
    if is_count(question):
        # As many rounds that one is number `hint`, and that one is beyond it.
        wanted = [n for hint in hints for n in (hint + 2, hint + 1, hint)]
    elif isinstance(question.expression, SizeOf) and question.may_repeat:
        near = [n for hint in hints for n in (hint - 1, hint + 1, size - hint, size + hint)]
        # A number of more digits is a longer text.
        longer = [10 ** len(str(size))] if question.how == TEXT else []
        wanted = [size + 1, size // 2, 2 * size, 1, *longer, *hints, *near]
    else:
        return ()
    return tuple(n for n in dict.fromkeys(wanted) if n > 0 and n != size)[:_MOST_TARGETS]


def outcome_of(question: Question, number: Any) -> Any:
    """Which way a number stands for: how a comparison comes out, whether something runs at all, or which of a
    few things is taken; None where it may stand for anything.
    """
    if isinstance(question, Guard):
        return bool(number)
    if is_choice(question):
        return number if numbers_of(question) else None
    return bool(number > 0) if is_count(question) else None


def others_of(question: Question) -> int:
    """How many other numbers in a row have to lead to nothing new, until none is expected to."""
    return 3 if isinstance(question, Use) and question.may_repeat else 1


def numbers_of(question: Question) -> tuple[int, ...]:
    """All numbers that there are in the place of a use's, as of a remainder; none if they are many."""
    return () if isinstance(question, Guard) else _numbers_of(question.expression)


# Asked of one question at each size that is looked at.
@lru_cache(maxsize=1024)
def _numbers_of(expression: Expression) -> tuple[int, ...]:
    sizes = (None, *dict.fromkeys(sizes_in(expression)))
    near, far = (
        {
            found
            for number in range(first, first + _PERIOD)
            for one in sizes
            if (found := number_of(expression, partial(_probe, one, number))) is not None
        }
        for first in (1, _FAR)
    )
    return tuple(sorted(near)) if near == far and len(near) <= _MOST_NUMBERS else ()


def any_number(wish: Callable[[Any], bool]) -> Any:
    """Some number as wished, for one that was never computed."""
    return next((n for n in (1 << 40, -(1 << 40), *range(-1, 4096)) if wish(n)), None)


def number_of(expression: Expression, size: Callable[[SizeOf], int]) -> Any:
    """What an expression is at other sizes; None where it is nothing, or a size is not known."""

    def lookup(root: Root) -> Any:
        return size(root) if isinstance(root, SizeOf) else root.number

    try:
        return evaluate_expression(expression, lookup)
    except (ArithmeticError, ValueError, TypeError, KeyError):
        return None


def may_differ(question: Question) -> bool:
    """Whether any sizes at all would give another number, as none would for `x.shape[0] > 0`."""
    if isinstance(question, Attempt):
        return True
    sizes = dict.fromkeys(sizes_in(question.expression))
    constants = {int(c) for c in constants_in(question.expression) if abs(c) < 1 << 30}
    probes = {*range(1, 9), 1000003, 1 << 20, *(c + d for c in constants for d in (-1, 0, 1))}
    for number in sorted(n for n in probes if n > 0):
        for one in (None, *sizes):
            found = number_of(question.expression, partial(_probe, one, number))
            if found is not None and found != question.number:
                return True
    return False


def _probe(chosen: SizeOf | None, number: int, size: SizeOf) -> int:
    """`number` in the place of one size, or of all."""
    return number if chosen in (None, size) else 7


def constants_in(expression: Expression) -> Iterator[float]:
    """The numbers in an expression that are no sizes."""
    match expression:
        case Arithmetic(_, operands):
            for operand in operands:
                yield from constants_in(operand)
        case AttributeOf(_, _, number):
            yield number
        case int() | float():
            yield expression
        case _:
            return


_SIGNS: Mapping[str, str] = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "floordiv": "//",
    "truediv": "/",
    "mod": "%",
    "pow": "**",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
}
_OPPOSITE = {"eq": "ne", "ne": "eq", "lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}


def assumption(question: Question, graph: Graph, why: str | None) -> str:
    """What a plan relies on, in one line."""
    place = (
        f" (at line {question.where.rpartition(':')[2]} of {question.where.rpartition(':')[0]})"
        if question.where
        else ""
    )
    reason = f"; other sizes {why}" if why else "; no more sizes were tried"
    if isinstance(question, Attempt):
        return f"what is tried {'does not fail' if question.outcome else 'fails'}{place}{reason}"
    if isinstance(question, Guard):
        expression = question.expression
        if not question.outcome:
            opposite = _OPPOSITE.get(expression.function)
            expression = Arithmetic(opposite, expression.operands) if opposite else expression
        return f"{_in_words(expression, graph)}{place}{reason}"
    return (
        f"{_in_words(question.expression, graph)} is {question.number}, used by {question.how}{place}{reason}"
    )


def _in_words(expression: Expression, graph: Graph, is_inner: bool = False) -> str:
    match expression:
        case SizeOf(value, dim):
            return f"{_name(graph, value)}.shape[{dim}]"
        case AttributeOf(path, name, _):
            return f"{path}.{name}" if path else f"self.{name}"
        case Arithmetic(function, (one, two)) if function in _SIGNS:
            said = f"{_in_words(one, graph, True)} {_SIGNS[function]} {_in_words(two, graph, True)}"
            return f"({said})" if is_inner else said
        case Arithmetic(function, operands):
            return f"{function}({', '.join(_in_words(o, graph) for o in operands)})"
        case _:
            return str(expression)


def _name(graph: Graph, value: int) -> str:
    one = graph.values[value]
    if one in graph.inputs:
        return "x" if len(graph.inputs) == 1 else f"input {graph.inputs.index(one)}"
    if one.name:
        return one.name
    producer = graph.producer[value]
    op = None if producer is None else graph.ops[producer]
    return "a tensor" if op is None else f"{op.owner.path or 'the forward'}'s {op.name.strip('_')}"
