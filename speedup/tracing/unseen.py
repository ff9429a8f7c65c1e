"""Numbers that follow from sizes out of a trace's sight, told by what they are in traces of other sizes.

`len(range(n))`, `math.gcd(n, 6)` and `float(f"{n}")` come out as plain numbers. Traces of other sizes that
are the same program but for such numbers show which they are: what is one thing in one trace and another in
the next follows the sizes, and is nothing that a plan may rely on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from speedup.ir.expressions import UNSEEN, Argument, Arithmetic, Derived, SizeOf
from speedup.ir.graph import Graph, Op, Origin, Value
from speedup.tracing.trace import Trace

_Sizes = Mapping[SizeOf, tuple[int, ...]]
"""Sizes of a trace, with what they are in all."""


def same_operators(one: Graph, other: Graph) -> bool:
    """Whether two graphs run the same operators on the same tensors, whatever numbers they are given."""
    return bool(_outline(one) == _outline(other))


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two constants are equal; of those without data, as far as can be told."""
    if one.is_meta or other.is_meta:
        return one.is_meta and other.is_meta and (one.shape, one.dtype) == (other.shape, other.dtype)
    return torch.equal(one, other)


def mark_unseen(traces: Sequence[Trace]) -> Sequence[Trace]:
    """Traces of a module at several sizes, with all numbers marked that differ where the operators do not."""
    groups: dict[Any, list[int]] = {}
    for number, trace in enumerate(traces):
        groups.setdefault(_outline(trace.graph), []).append(number)
    marked = list(traces)
    for members in (members for members in groups.values() if len(members) > 1):
        alike = [traces[n] for n in members]
        graphs = [trace.graph for trace in alike]
        changing = tuple(_changing_constants(alike))
        arguments = [
            {name for name in ops[0].arguments if len({_plain(op.arguments[name]) for op in ops}) > 1}
            for ops in zip(*(graph.ops for graph in graphs), strict=True)
        ]
        if changing or any(arguments):
            for n in members:
                marked[n] = evolve(traces[n], graph=_marked(traces[n].graph, graphs, arguments, changing))
    return marked


def _changing_constants(traces: Sequence[Trace]) -> Iterator[int]:
    """The constants, by index, that hold other numbers in some of the traces."""
    first = traces[0]
    for value in first.graph.state:
        if value.origin is Origin.CONSTANT and not all(
            same_numbers(first.tensors[value.name], other.tensors[other.graph.values[value.index].name])
            for other in traces[1:]
        ):
            yield value.index


def _marked(
    graph: Graph, alike: Sequence[Graph], arguments: Sequence[set[str]], changing: Sequence[int]
) -> Graph:
    sizes = dict(_sizes_changed(graph, alike))
    if not sizes:
        return graph
    ops = [
        evolve(op, arguments=MappingProxyType(_with_marks(op, alike, names, sizes))) if names else op
        for op, names in zip(graph.ops, arguments, strict=True)
    ]
    # Another call finds something else there, as where a forward writes.
    written = (*graph.written, *(graph.values[index] for index in changing))
    return evolve(graph, ops=tuple(ops), written=tuple(dict.fromkeys(written)))


def _sizes_changed(graph: Graph, alike: Sequence[Graph]) -> Iterator[tuple[SizeOf, tuple[int, ...]]]:
    """The extents of the graph's inputs that others have otherwise, and what they are in each."""
    for place, value in enumerate(graph.inputs):
        for dim, extent in enumerate(value.shape):
            extents = tuple(other.inputs[place].shape[dim] for other in alike)
            if any(n != extent for n in extents):
                yield SizeOf(value.index, dim), extents


def _with_marks(op: Op, alike: Sequence[Graph], names: set[str], sizes: _Sizes) -> dict[str, Argument]:
    others = [graph.ops[op.index].arguments for graph in alike]
    return {
        name: _mark(one, [other[name] for other in others], sizes) if name in names else one
        for name, one in op.arguments.items()
    }


def _mark(argument: Argument, others: Sequence[Argument], sizes: _Sizes) -> Argument:
    if isinstance(argument, tuple):
        items = zip(argument, *others, strict=True)
        return tuple(_mark(item, found, sizes) for item, *found in items)
    if not _is_number(argument) or all(argument == other for other in others):
        return argument
    # As of `len(x)`.
    likely = next((size for size, extents in sizes.items() if extents == tuple(others)), argument)
    return Derived(argument, Arithmetic(UNSEEN, (likely, *sizes)))


def _is_number(argument: Argument) -> bool:
    return type(argument) in (int, float)


def _plain(argument: Argument) -> Any:
    """The numbers of an argument."""
    if isinstance(argument, tuple):
        return tuple(map(_plain, argument))
    return argument if _is_number(argument) else None


def _outline(graph: Graph) -> Any:
    """A graph but for its numbers and extents."""
    return graph.once("outline of operators", lambda: _outline_of(graph))


def _outline_of(graph: Graph) -> Any:
    return (
        tuple((v.origin, v.name, v.dtype, v.ndim) for v in graph.values),
        tuple((op.target, op.owner, _form(tuple(op.arguments.items()))) for op in graph.ops),
        tuple(tuple(r.index for r in op.results) for op in graph.ops),
        tuple(tuple(v.index for v in ends) for ends in (graph.inputs, graph.outputs)),
    )


def _form(argument: Argument) -> Any:
    """An argument but for its numbers, which any others of the same kind may take the place of."""
    if isinstance(argument, tuple):
        return tuple(map(_form, argument))
    if isinstance(argument, Value):
        return Value, argument.index
    if isinstance(argument, Derived):
        return Derived, argument.expression
    return type(argument) if _is_number(argument) else (type(argument), argument)
