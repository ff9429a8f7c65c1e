"""One graph out of the graphs of several modules of a model, and of several calls of one module.

The parts keep apart what they compute; what they share is the model's state: a tensor that two
parts read is one value. So all constraints on it meet, as they would in a trace of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, assert_never

from attrs import evolve, frozen

from speedup.ir.checking import require_well_formed
from speedup.ir.expressions import (
    Argument,
    Arithmetic,
    AttributeOf,
    Derived,
    Expression,
    Guard,
    Root,
    SizeOf,
    Use,
    attributes_in,
    derived_in,
)
from speedup.ir.graph import Graph, Op, Owner, Value
from speedup.ir.paths import join_path

# The names on the way to an attribute, such as `config.hidden_size` or `window[0]`.
_NAMES = re.compile(r"[^\W\d]\w*")


@frozen(eq=False)
class Part:
    """A graph traced from the module `path`; `names` gives its state the names it has in the model."""

    path: str
    graph: Graph
    names: Mapping[str, str]


def merge_graphs(
    parts: Iterable[Part],
    read_elsewhere: Iterable[str] = (),
    named_elsewhere: frozenset[str] = frozenset(),
    counted: int | None = None,
) -> Graph:
    """The graph that computes all `parts`, one after the other, each a call.

    Work is counted in the first `counted` of them; None: in all.

    State named in `read_elsewhere` counts as an output: code outside of all parts reads it. Integers
    that modules keep under one of the names `named_elsewhere` may be read there and count as opaque.
    """
    merger = _Merger()
    for part in parts:
        merger.add(part)
    attributes = dict.fromkeys(_attributes(merger))
    merger.opaque_roots.extend(a for a in attributes if _NAMES.findall(a.name)[-1] in named_elsewhere)
    outputs = [*merger.outputs, *(merger.state[n] for n in read_elsewhere if n in merger.state)]
    graph = Graph(
        tuple(merger.values),
        tuple(merger.ops),
        tuple(merger.inputs),
        tuple(outputs),
        tuple(merger.guards),
        tuple(merger.opaque_roots),
        tuple(merger.uses),
        tuple(dict.fromkeys(merger.written)),
        # A call that only hands something on has no ops.
        tuple(dict.fromkeys((0, *(start for start in merger.starts if start < len(merger.ops))))),
        None if counted is None or counted >= len(merger.starts) else merger.starts[counted],
        tuple(dict.fromkeys(merger.consulted)),
    )
    return require_well_formed(graph)


def _attributes(merger: _Merger) -> Iterator[AttributeOf]:
    for op in merger.ops:
        for derived in derived_in(tuple(op.arguments.values())):
            yield from attributes_in(derived.expression)
    for guard in merger.guards:
        yield from attributes_in(guard.expression)


class _Merger:
    """Collects parts; lives for one `merge_graphs` call."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.ops: list[Op] = []
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.guards: list[Guard] = []
        self.opaque_roots: list[Root] = []
        self.uses: list[Use] = []
        self.starts: list[int] = []
        self.written: list[Value] = []
        self.consulted: list[Value] = []
        self.state: dict[str, Value] = {}

    def add(self, part: Part) -> None:
        graph, first = part.graph, len(self.ops)
        self.starts.append(first)
        place = _Place(part.path, tuple(self._value(value, part.names) for value in graph.values))
        self.ops.extend(
            evolve(
                op,
                index=first + number,
                arguments=MappingProxyType({n: place.argument(a) for n, a in op.arguments.items()}),
                results=place.values(op.results),
                owner=Owner(join_path(part.path, op.owner.path), op.owner.type),
            )
            for number, op in enumerate(graph.ops)
        )
        self.inputs.extend(place.values(graph.inputs))
        self.outputs.extend(place.values(graph.outputs))
        self.guards.extend(evolve(g, expression=place.arithmetic(g.expression)) for g in graph.guards)
        self.uses.extend(evolve(u, expression=place.expression(u.expression)) for u in graph.uses)
        self.written.extend(place.values(graph.written))
        self.consulted.extend(place.values(graph.consulted))
        self.opaque_roots.extend(place.root(root) for root in graph.opaque_roots)

    def _value(self, value: Value, names: Mapping[str, str]) -> Value:
        name = names[value.name] if value.is_state else value.name
        if value.is_state and name in self.state:
            return self.state[name]
        made = evolve(value, index=len(self.values), name=name)
        self.values.append(made)
        if value.is_state:
            self.state[name] = made
        return made


@frozen(eq=False)
class _Place:
    """Where a part goes: `moved` holds, by their index in the part, the values in the whole."""

    path: str
    moved: tuple[Value, ...]

    def values(self, values: Iterable[Value]) -> tuple[Value, ...]:
        return tuple(self.moved[value.index] for value in values)

    def argument(self, argument: Argument) -> Argument:
        if isinstance(argument, Value):
            return self.moved[argument.index]
        if isinstance(argument, Derived):
            return Derived(argument.number, self.expression(argument.expression))
        if isinstance(argument, tuple):
            return tuple(self.argument(item) for item in argument)
        return argument

    def expression(self, expression: Expression) -> Expression:
        match expression:
            case SizeOf() | AttributeOf():
                return self.root(expression)
            case Arithmetic():
                return self.arithmetic(expression)
            case int() | float():
                return expression
            case _:
                assert_never(expression)

    def arithmetic(self, expression: Arithmetic) -> Arithmetic:
        return Arithmetic(expression.function, tuple(self.expression(o) for o in expression.operands))

    def root(self, root: Root) -> Root:
        match root:
            case SizeOf(value, dim):
                return SizeOf(self.moved[value].index, dim)
            case AttributeOf(path, name, number):
                return AttributeOf(join_path(self.path, path), name, number)
            case _:
                assert_never(root)


def same_program(one: Graph, other: Graph) -> bool:
    """Whether two graphs of a module differ in nothing but extents of their inputs and what follows them.

    An extent of 1 broadcasts, so where one graph has it the other must have it too. Comparisons that came
    out otherwise and led to the same operators make no difference.
    """
    return _outline(one) == _outline(other)


def _outline(graph: Graph) -> tuple[object, ...]:
    # A trace is compared with each of the others.
    return graph.once("outline of the program", lambda: _outline_of(graph))


def _outline_of(graph: Graph) -> tuple[object, ...]:
    return (
        [(v.origin, v.name, v.dtype, tuple(n == 1 for n in v.shape)) for v in graph.values],
        [(op.target, op.owner, _plain(tuple(op.arguments.items()))) for op in graph.ops],
        [tuple(r.index for r in op.results) for op in graph.ops],
        [tuple(v.index for v in ends) for ends in (graph.inputs, graph.outputs)],
        frozenset(graph.opaque_roots),
    )


def _plain(argument: Any) -> Any:
    """An argument with values and derived numbers told by where they come from."""
    if isinstance(argument, Value):
        return Value, argument.index
    if isinstance(argument, Derived):
        return Derived, argument.expression
    if isinstance(argument, tuple):
        return tuple(_plain(item) for item in argument)
    return type(argument), argument
