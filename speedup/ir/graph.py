"""The immutable graph spec: what a forward computes, without any live tensor.

A `Graph` is a list of `Op`s in execution order over `Value`s in SSA form. It is frozen
when the trace ends and never edited; every analysis is a function of it.

Sizes that a forward computes from tensor shapes (`x.shape[1] // 2`) are kept as
expressions over the sizes of values, so that a planner can tell what the same Python
code will compute once the tensors are smaller.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import frozen

from speedup.ir.expressions import (
    Argument,
    Guard,
    Root,
    Settled,
    Use,
    derived_in,
    sizes_in,
    with_traced_numbers,
)
from speedup.ir.memo import Remembering
from speedup.torch_api import Overload, schema_of

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
    """One tensor of the trace. `name` is its name in the model when it is state.

    `is_number` says that Python holds it as a number, which the forward read from a tensor (`x.item()`) or
    computed from such numbers. It counts as a tensor without dimensions, of the widest type of its kind.
    """

    index: int
    shape: Shape
    dtype: torch.dtype
    origin: Origin
    name: str = ""
    is_number: bool = False

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def is_state(self) -> bool:
        """Whether the model itself holds this tensor."""
        return self.origin in STATE


def values_in(argument: Argument) -> Iterator[Value]:
    """Every value inside `argument`, in order."""
    if isinstance(argument, Value):
        yield argument
    elif isinstance(argument, tuple):
        for item in argument:
            yield from values_in(item)


def read_in(argument: Argument) -> Iterator[Value]:
    """Every value that the running forward puts into `argument`: also those known as one number."""
    if isinstance(argument, Settled):
        yield argument.value
    elif isinstance(argument, tuple):
        for item in argument:
            yield from read_in(item)
    else:
        yield from values_in(argument)


@frozen
class Owner:
    """The module whose forward ran an op: its path in the model and its class."""

    path: str
    type: type


@frozen
class Frame:
    """A running function of the forward and the piece of its source that was being evaluated.

    `first_line` is where the function's code starts in `file`; `span` is (line, column, end line,
    end column), columns counted in bytes as Python does.
    """

    file: str
    function: str
    first_line: int
    span: tuple[int, int, int, int]


@frozen
class Op(Remembering):
    """One operator call. `arguments` are named as in the operator's schema, defaults filled in.

    `calls` are the frames of the owner's forward that led to it, the innermost first. A rigid op is
    part of a larger call that only takes the sizes it was made for. An inner op is part of a call of another
    function, whose own code computed the sizes that stand in the op's arguments.
    """

    index: int
    target: Overload
    arguments: Mapping[str, Argument] = attrs.field(eq=attrs.cmp_using(eq=lambda a, b: dict(a) == dict(b)))
    results: tuple[Value, ...]
    owner: Owner
    calls: tuple[Frame, ...] = attrs.field(default=(), eq=False, repr=False)
    is_rigid: bool = attrs.field(default=False, eq=False, repr=False)
    is_inner: bool = attrs.field(default=False, eq=False, repr=False)
    operands: tuple[Value, ...] = attrs.field(init=False)
    _memo: dict[str, Any] = attrs.field(init=False, eq=False, repr=False, factory=dict)

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
        return with_traced_numbers(self.arguments[name])

    def get(self, name: str, default: Any = None) -> Any:
        """The argument `name`, or `default` when the schema has none of that name."""
        return with_traced_numbers(self.arguments.get(name, default))

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
        return str(schema_of(self.target).name.split("::")[-1])

    def follows_sizes(self, *names: str) -> bool:
        """Whether the arguments `names`, or any when none is named, hold numbers derived from sizes."""
        found = self.once("follow sizes", self._following_sizes)
        return any(name in found for name in names) if names else bool(found)

    def _following_sizes(self) -> frozenset[str]:
        return frozenset(
            name
            for name, argument in self.arguments.items()
            if any(next(sizes_in(derived.expression), None) is not None for derived in derived_in(argument))
        )

    @property
    def where(self) -> str:
        """The line that ran the op, as `file.py:12`; empty where no frames are known."""
        innermost = next(iter(self.calls), None)
        return f"{Path(innermost.file).name}:{innermost.span[0]}" if innermost else ""

    @property
    def label(self) -> str:
        """How messages name this op."""
        place = self.owner.path or "the model's forward"
        return f"{self.target} in {place}" + (f" ({self.where})" if self.where else "")


def call_arguments(op: Op, arguments: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Split `arguments` into positional and keyword ones, as the operator's schema wants them."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for parameter in schema_of(op.target).arguments:
        if parameter.kwarg_only:
            keywords[parameter.name] = arguments[parameter.name]
        else:
            positional.append(arguments[parameter.name])
    return positional, keywords


@frozen
class Graph(Remembering):
    """One or several traced calls. `guards` are comparisons that must keep their outcome; `opaque_roots` are
    sizes and attributes that left the trace's sight and so may not change; `uses` are the numbers that the
    forward used out of sight, as the count of a loop.

    The ops of each call follow one another, the first of each at one of `starts`; the calls share nothing
    but the model's state. The first `counted` ops are those whose work is counted; None: all. `written` is
    state that each call leaves changed for the next one, `consulted` state whose numbers Python code of the
    forward got while it was traced, as in `if self.gate > 0`.
    """

    values: tuple[Value, ...]
    ops: tuple[Op, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    guards: tuple[Guard, ...] = ()
    opaque_roots: tuple[Root, ...] = ()
    uses: tuple[Use, ...] = attrs.field(default=(), repr=False)
    written: tuple[Value, ...] = ()
    starts: tuple[int, ...] = (0,)
    counted: int | None = None
    consulted: tuple[Value, ...] = ()
    readers: tuple[tuple[int, ...], ...] = attrs.field(init=False, eq=False, repr=False)
    producer: tuple[int | None, ...] = attrs.field(init=False, eq=False, repr=False)
    _memo: dict[str, Any] = attrs.field(init=False, eq=False, repr=False, factory=dict)

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

    @property
    def questions(self) -> tuple[Guard | Use, ...]:
        """Where other numbers might lead the forward another way: comparisons, and uses out of sight."""
        return (*self.guards, *self.uses)

    def is_fixed(self, value: Value) -> bool:
        """Whether a value is computed from the model's state alone, and so is the same in every call."""
        return value.index in self.once("fixed", self._fixed)

    def _fixed(self) -> frozenset[int]:
        found = {v.index for v in self.state}
        for op in self.ops:
            sizes = (s for d in derived_in(tuple(op.arguments.values())) for s in sizes_in(d.expression))
            if all(v.index in found for v in op.operands) and all(s.value in found for s in sizes):
                found.update(r.index for r in op.results)
        return frozenset(found)

    def call_of(self, op: int) -> int:
        """The number of the call that op number `op` belongs to."""
        return bisect_right(self.starts, op) - 1

    def is_counted(self, op: Op) -> bool:
        """Whether the work of `op` is part of what the model costs for the example."""
        return self.counted is None or op.index < self.counted

    def counterparts(self, value: Value, op: Op) -> tuple[int, ...]:
        """The ops that read `value` as `op` does, one in each call that reads it, `op` among them.

        Empty when `value` is returned, or something else reads it, in whichever call.
        """
        readers = self.readers[value.index]
        if value in self.outputs:
            return ()
        if len(readers) == 1 or len(self.starts) == 1:
            return readers if readers == (op.index,) else ()
        if op.index not in readers or len({self.call_of(r) for r in readers}) != len(readers):
            return ()
        places = {(self.ops[r].target, _place_of(value, self.ops[r])) for r in readers}
        return readers if len(places) == 1 else ()


def _place_of(value: Value, op: Op) -> str:
    """The argument of `op` that holds `value`."""
    return next(name for name, argument in op.arguments.items() if value in values_in(argument))
