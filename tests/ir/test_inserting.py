"""Graphs with copies put in are the same graphs but for these."""

from __future__ import annotations

import torch
from torch import nn

from speedup.ir.checking import require_well_formed
from speedup.ir.graph import Graph
from speedup.ir.inputs import example_from
from speedup.ir.inserting import insert_copies
from speedup.torch_api import COPY
from speedup.tracing.islands import survey


def traced(*shapes: tuple[int, ...]) -> Graph:
    """A graph of linear, softmax and linear for each call."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Softmax(-1), nn.Linear(6, 2))
    with torch.no_grad():
        return survey(model, tuple(example_from(torch.randn(shape), None) for shape in shapes)).trace.graph


def test_the_op_reads_the_copy_and_the_copy_what_the_op_read() -> None:
    graph = traced((3, 4))
    linear, softmax, last = graph.ops
    inserted = insert_copies(graph, {(softmax.index, "self")})
    made = require_well_formed(inserted.graph)
    assert [op.target for op in made.ops] == [linear.target, COPY, softmax.target, last.target]
    assert [op.index for op in made.ops] == [0, 1, 2, 3]
    copy, reader = made.ops[1:3]
    assert copy.operands == (linear.result,)
    assert reader.operands == (copy.result,)
    assert (copy.result.shape, copy.result.dtype) == (linear.result.shape, linear.result.dtype)
    assert reader.results == softmax.results
    assert dict(reader.arguments) == {**softmax.arguments, "self": copy.result}
    assert inserted.copies == {(reader.index, "self"): copy}


def test_values_stay_where_they_were() -> None:
    graph = traced((3, 4))
    made = insert_copies(graph, {(1, "self"), (2, "input")}).graph
    assert made.values[: len(graph.values)] == graph.values
    assert [v.index for v in made.values] == list(range(len(graph.values) + 2))
    assert (made.inputs, made.outputs, made.state) == (graph.inputs, graph.outputs, graph.state)


def test_what_has_become_of_each_op_is_told() -> None:
    graph = traced((3, 4))
    inserted = insert_copies(graph, {(0, "input"), (2, "input")})
    assert inserted.moved == (1, 2, 4)
    assert [inserted.op(op).name for op in graph.ops] == [op.name for op in graph.ops]


def test_calls_start_and_count_as_before() -> None:
    graph = traced((3, 4), (5, 3, 4))
    assert (graph.starts, graph.counted) == ((0, 3), 3)
    made = require_well_formed(insert_copies(graph, {(1, "self"), (3, "input")}).graph)
    # A copy belongs to the call of the op that reads it.
    assert [made.call_of(op.index) for op in made.ops] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [made.is_counted(op) for op in made.ops] == [True] * 4 + [False] * 4


def test_nothing_is_remembered_of_the_other_graph() -> None:
    graph = traced((3, 4))
    assert graph.once("what", lambda: 1) == 1
    assert graph.ops[1].once("what", lambda: 1) == 1
    made = insert_copies(graph, {(1, "self")}).graph
    assert made.once("what", lambda: 2) == 2
    assert made.ops[2].once("what", lambda: 2) == 2


def test_without_copies_the_graph_is_the_same() -> None:
    graph = traced((3, 4))
    inserted = insert_copies(graph, ())
    assert inserted.graph == graph
    assert inserted.moved == (0, 1, 2)
