"""Graphs with copies put in: places where what an op is given may be something else than what was made."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from attrs import evolve, frozen

from speedup.ir.graph import Graph, Op, Origin, Value
from speedup.torch_api import COPY


@frozen(eq=False)
class Inserted:
    """A graph with copies. Values are those of the graph before, in the same places, and those of the copies.

    `copies` are these, by the new index of the op that reads them and the name of its argument; `moved` tells
    the new index of each op.
    """

    graph: Graph
    copies: Mapping[tuple[int, str], Op]
    moved: tuple[int, ...]

    def op(self, before: Op) -> Op:
        """What has become of an op of the graph before."""
        return self.graph.ops[self.moved[before.index]]


def insert_copies(graph: Graph, readers: Collection[tuple[int, str]]) -> Inserted:
    """`graph` where each of `readers`, an op's index and the name of a tensor among its arguments, is given a
    copy of that.
    """
    values, ops = list(graph.values), list[Op]()
    copies: dict[tuple[int, str], Op] = {}
    moved: list[int] = []
    # Where each op begins, with its copies.
    begins: list[int] = []
    for op in graph.ops:
        begins.append(len(ops))
        arguments = dict(op.arguments)
        names = [name for name in arguments if (op.index, name) in readers]
        number = len(ops) + len(names)
        for name in names:
            given = arguments[name]
            copy = Value(len(values), given.shape, given.dtype, Origin.RESULT)
            values.append(copy)
            ops.append(Op(len(ops), COPY, MappingProxyType({"self": given}), (copy,), op.owner))
            copies[number, name] = ops[-1]
            arguments[name] = copy
        moved.append(number)
        ops.append(evolve(op, index=number, arguments=MappingProxyType(arguments)))
    begins.append(len(ops))
    made = evolve(
        graph,
        values=tuple(values),
        ops=tuple(ops),
        starts=tuple(begins[start] for start in graph.starts),
        counted=None if graph.counted is None else begins[graph.counted],
    )
    return Inserted(made, copies, tuple(moved))
