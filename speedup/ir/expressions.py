"""Numbers that a forward derives from tensor sizes and from integers its modules keep.

Where Python code computes `x.shape[1] // self.heads`, the expression is kept, so that a planner
can tell what the same code will compute once the tensors, and perhaps the attributes, are smaller.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, assert_never

from attrs import field, frozen


@frozen
class SizeOf:
    """The extent of one dimension of a value, read by the forward at run time."""

    value: int
    dim: int


@frozen
class AttributeOf:
    """An integer that module `path` keeps as `name` and that the forward read; `number` in the trace.

    `name` may lead into what the module holds: `num_heads`, `config.hidden_size`, `window[0]`.
    """

    path: str
    name: str
    number: int | float


@frozen
class Arithmetic:
    """A Python expression over sizes and attributes: `function` names an entry of `FUNCTIONS`."""

    function: str
    operands: tuple[Expression, ...]


Root = SizeOf | AttributeOf
Expression = Root | Arithmetic | int | float
Lookup = Callable[[Root], int]

# Functions of Python's math module, of numbers to one number.
MATH = tuple(
    """
    log log2 log10 log1p sqrt isqrt cbrt exp exp2 expm1 sin cos tan tanh atan2 hypot gcd lcm fmod copysign
    remainder comb perm factorial fabs
    """.split()
)

UNSEEN = "unseen"
"""What makes a number of sizes that no trace shows; of other sizes, what it makes is not known.

Its first operand is the number, or what the number was in all traces: not proven, but likely at others.
"""

FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "add": operator.add,
        "sub": operator.sub,
        "mul": operator.mul,
        "floordiv": operator.floordiv,
        "truediv": operator.truediv,
        "mod": operator.mod,
        "pow": operator.pow,
        "neg": operator.neg,
        "abs": abs,
        "floor": math.floor,
        "ceil": math.ceil,
        "trunc": math.trunc,
        "round": round,
        **{name: getattr(math, name) for name in MATH},
        "eq": operator.eq,
        "ne": operator.ne,
        "lt": operator.lt,
        "le": operator.le,
        "gt": operator.gt,
        "ge": operator.ge,
        UNSEEN: lambda number, *sizes: number,
    }
)


def evaluate_expression(expression: Expression, lookup: Lookup) -> Any:
    """The number that `expression` gives when its sizes and attributes are what `lookup` says."""
    match expression:
        case SizeOf() | AttributeOf():
            return lookup(expression)
        case Arithmetic(function, operands):
            return FUNCTIONS[function](*(evaluate_expression(o, lookup) for o in operands))
        case int() | float():
            return expression
        case _:
            assert_never(expression)


def roots_in(expression: Expression) -> Iterator[Root]:
    """Every size and attribute that `expression` reads."""
    match expression:
        case SizeOf() | AttributeOf():
            yield expression
        case Arithmetic(_, operands):
            for operand in operands:
                yield from roots_in(operand)
        case int() | float():
            return
        case _:
            assert_never(expression)


def sizes_in(expression: Expression) -> Iterator[SizeOf]:
    """Every size that `expression` reads."""
    return (root for root in roots_in(expression) if isinstance(root, SizeOf))


def attributes_in(expression: Expression) -> Iterator[AttributeOf]:
    """Every attribute that `expression` reads."""
    return (root for root in roots_in(expression) if isinstance(root, AttributeOf))


def functions_in(expression: Expression) -> Iterator[str]:
    """The name of every function that `expression` is made with."""
    if isinstance(expression, Arithmetic):
        yield expression.function
        for operand in expression.operands:
            yield from functions_in(operand)


def is_lost(expression: Expression) -> bool:
    """Whether it cannot even be guessed what number `expression` is at other sizes."""
    if not isinstance(expression, Arithmetic):
        return False
    first = expression.operands[0]
    is_own = expression.function == UNSEEN and isinstance(first, int | float)
    return is_own or any(map(is_lost, expression.operands))


@frozen
class Derived:
    """A number the forward derived from sizes and attributes: what it was in the trace, and how."""

    number: int | float
    expression: Expression


@frozen
class Guard:
    """A comparison of sizes or attributes that the forward branched on, and its outcome in the trace.

    `where` is the line that made it, as `file.py:12`; `key` tells it from others of the same trace, and is
    the same in a trace of other sizes.
    """

    expression: Arithmetic
    outcome: bool
    where: str = field(default="", eq=False)
    key: Any = field(default=None, eq=False, repr=False)

    @property
    def number(self) -> bool:
        return self.outcome


@frozen
class Attempt(Guard):
    """A call that may raise, where the forward catches that and goes on; `outcome` says whether it succeeded.

    `expression` holds for as long as there are the sizes that the call makes, or of a failure, was given.
    """


@frozen
class Use:
    """A use that the forward made of a number out of the trace's sight: `how` it did, as `range()`.

    `number` is what the expression was in the trace; `where` and `key` are as a guard's. `hints` are other
    numbers that may matter there, such as the length of a list that is looked up in. Of a use that
    `may_repeat`, different numbers may come to the same, so that it takes several to tell.
    """

    expression: Expression
    number: Any
    how: str
    may_repeat: bool = False
    hints: tuple[int, ...] = ()
    where: str = field(default="", eq=False)
    key: Any = field(default=None, eq=False, repr=False)


@frozen
class Settled:
    """A number that the forward reads from a tensor and that is the same for every input.

    `value` is the `Value` that the forward passes here.
    """

    value: Any
    number: int | float | bool


# An argument is a Value, a Derived or Settled number, a plain Python constant, or a tuple of arguments.
Argument = Any


def with_traced_numbers(argument: Argument) -> Any:
    """`argument` with every derived or settled number replaced by what it was in the trace."""
    if isinstance(argument, Derived | Settled):
        return argument.number
    if isinstance(argument, tuple):
        return tuple(with_traced_numbers(a) for a in argument)
    return argument


def recompute(argument: Argument, lookup: Lookup) -> Any:
    """`argument` as the same Python code computes it when sizes and attributes are what `lookup` says."""
    if isinstance(argument, Derived):
        return evaluate_expression(argument.expression, lookup)
    if isinstance(argument, Settled):
        return argument.number
    if isinstance(argument, tuple):
        return tuple(recompute(a, lookup) for a in argument)
    return argument


def derived_in(argument: Argument) -> Iterator[Derived]:
    """Every derived number inside `argument`."""
    if isinstance(argument, Derived):
        yield argument
    elif isinstance(argument, tuple):
        for item in argument:
            yield from derived_in(item)
