"""The immutable graph spec: what a forward computes, without any live tensor.

A `Graph` is a list of `Op`s in execution order over `Value`s in SSA form. It is frozen
when the trace ends and never edited; every analysis is a function of it.

Sizes that a forward computes from tensor shapes (`x.shape[1] // 2`) are kept as
expressions over the sizes of values, so that a planner can tell what the same Python
code will compute once the tensors are smaller.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, assert_never

import attrs
import torch
from attrs import frozen

Shape = tuple[int, ...]


class Origin(Enum):
    """Where a value comes from."""

    INPUT = "input"
    PARAMETER = "parameter"
    BUFFER = "buffer"
    CONSTANT = "constant"
    RESULT = "result"


STATE = frozenset({Origin.PARAMETER, Origin.BUFFER, Origin.CONSTANT})


@frozen
class Value:
    """One tensor of the trace. `name` is its name in the model when it is state."""

    index: int
    shape: Shape
    dtype: torch.dtype
    origin: Origin
    name: str = ""

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def is_state(self) -> bool:
        """Whether the model itself holds this tensor."""
        return self.origin in STATE


@frozen
class SizeOf:
    """The extent of one dimension of a value, read by the forward at run time."""

    value: int
    dim: int


@frozen
class Arithmetic:
    """A Python expression over sizes: `function` names an entry of `FUNCTIONS`."""

    function: str
    operands: tuple[Expression, ...]


Expression = SizeOf | Arithmetic | int | float

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
        "eq": operator.eq,
        "ne": operator.ne,
        "lt": operator.lt,
        "le": operator.le,
        "gt": operator.gt,
        "ge": operator.ge,
    }
)


def evaluate_expression(expression: Expression, size: Callable[[int, int], int]) -> Any:
    """The number that `expression` gives when value `v` has extent `size(v, d)` along `d`."""
    match expression:
        case SizeOf(value, dim):
            return size(value, dim)
        case Arithmetic(function, operands):
            return FUNCTIONS[function](*(evaluate_expression(o, size) for o in operands))
        case int() | float():
            return expression
        case _:
            assert_never(expression)


def sizes_in(expression: Expression) -> Iterator[SizeOf]:
    """Every size that `expression` reads."""
    match expression:
        case SizeOf():
            yield expression
        case Arithmetic(_, operands):
            for operand in operands:
                yield from sizes_in(operand)
        case int() | float():
            return
        case _:
            assert_never(expression)


@frozen
class Derived:
    """A number the forward derived from sizes: what it was in the trace, and how."""

    number: int | float
    expression: Expression


@frozen
class Guard:
    """A comparison of sizes that the forward branched on, and its outcome in the trace."""

    expression: Arithmetic
    outcome: bool


# An argument is a Value, a Derived number, a plain Python constant, or a tuple of arguments.
Argument = Any


def concrete(argument: Argument) -> Any:
    """`argument` with every derived number replaced by what it was in the trace."""
    if isinstance(argument, Derived):
        return argument.number
    if isinstance(argument, tuple):
        return tuple(concrete(a) for a in argument)
    return argument


def carried(argument: Argument, size: Callable[[int, int], int]) -> Any:
    """`argument` as the same Python code computes it when sizes are `size(value, dim)`."""
    if isinstance(argument, Derived):
        return evaluate_expression(argument.expression, size)
    if isinstance(argument, tuple):
        return tuple(carried(a, size) for a in argument)
    return argument


def derived_in(argument: Argument) -> Iterator[Derived]:
    """Every derived number inside `argument`."""
    if isinstance(argument, Derived):
        yield argument
    elif isinstance(argument, tuple):
        for item in argument:
            yield from derived_in(item)


def values_in(argument: Argument) -> Iterator[Value]:
    """Every value inside `argument`, in order."""
    if isinstance(argument, Value):
        yield argument
    elif isinstance(argument, tuple):
        for item in argument:
            yield from values_in(item)


@frozen
class Owner:
    """The module whose forward ran an op: its path in the model and its class."""

    path: str
    type: type


@frozen
class Op:
    """One operator call. `arguments` are named as in the operator's schema, defaults filled in."""

    index: int
    target: torch._ops.OpOverload
    arguments: Mapping[str, Argument] = attrs.field(eq=attrs.cmp_using(eq=lambda a, b: dict(a) == dict(b)))
    results: tuple[Value, ...]
    owner: Owner
    where: str = attrs.field(default="", eq=False)
    operands: tuple[Value, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "operands", tuple(values_in(tuple(self.arguments.values()))))

    def __hash__(self) -> int:
        return hash((self.index, self.target))

    @property
    def result(self) -> Value:
        """The only result."""
        (result,) = self.results
        return result

    def __getitem__(self, name: str) -> Any:
        """The argument `name`, derived numbers made concrete."""
        return concrete(self.arguments[name])

    def get(self, name: str, default: Any = None) -> Any:
        """The argument `name`, or `default` when the schema has none of that name."""
        return concrete(self.arguments.get(name, default))

    def position(self, name: str) -> int | None:
        """Where the tensor argument `name` stands among `operands`; None when it is absent."""
        offset = 0
        for key, argument in self.arguments.items():
            found = sum(1 for _ in values_in(argument))
            if key == name:
                return offset if found else None
            offset += found
        return None

    @property
    def name(self) -> str:
        """The operator's name without namespace and overload, such as `conv2d` or `relu_`."""
        return str(self.target._schema.name.split("::")[-1])

    def follows_sizes(self, *names: str) -> bool:
        """Whether the arguments `names`, or any when none is named, hold numbers derived from sizes."""
        chosen = tuple(self.arguments.get(n) for n in names) if names else tuple(self.arguments.values())
        return next(derived_in(chosen), None) is not None

    @property
    def label(self) -> str:
        """How messages name this op."""
        place = self.owner.path or "the model's forward"
        return f"{self.target} in {place}" + (f" ({self.where})" if self.where else "")


def call_arguments(op: Op, arguments: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Split `arguments` into positional and keyword ones, as the operator's schema wants them."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for parameter in op.target._schema.arguments:
        if parameter.kwarg_only:
            keywords[parameter.name] = arguments[parameter.name]
        else:
            positional.append(arguments[parameter.name])
    return positional, keywords


@frozen
class Graph:
    """A traced forward. `guards` are size comparisons that must keep their outcome;
    `escaped` are sizes that left the trace's sight and so may not change.
    """

    values: tuple[Value, ...]
    ops: tuple[Op, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    guards: tuple[Guard, ...] = ()
    escaped: tuple[SizeOf, ...] = ()
    readers: tuple[tuple[int, ...], ...] = attrs.field(init=False, eq=False, repr=False)
    producer: tuple[int | None, ...] = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        readers: list[list[int]] = [[] for _ in self.values]
        producer: list[int | None] = [None] * len(self.values)
        for op in self.ops:
            for operand in op.operands:
                readers[operand.index].append(op.index)
            for result in op.results:
                producer[result.index] = op.index
        object.__setattr__(self, "readers", tuple(tuple(r) for r in readers))
        object.__setattr__(self, "producer", tuple(producer))

    @property
    def state(self) -> tuple[Value, ...]:
        """The parameters, buffers and constants that the forward reads."""
        return tuple(v for v in self.values if v.is_state)
