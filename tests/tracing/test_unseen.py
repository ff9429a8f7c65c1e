"""Numbers and constants that are others at other sizes are told apart from those that are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from speedup.ir.expressions import UNSEEN, Arithmetic, Derived, SizeOf, is_lost
from speedup.ir.graph import Graph, Op
from speedup.ir.inputs import example_from
from speedup.ir.resizing import resized_shapes
from speedup.tracing.trace import trace_call
from speedup.tracing.unseen import mark_unseen, same_operators
from tests.support.soundness import Calling


def marked(step: Callable[[Tensor], Tensor], *lengths: int) -> Sequence[Graph]:
    traces = [trace_call(Calling(step), example_from(torch.ones(2, n, 3))) for n in lengths]
    return [trace.graph for trace in mark_unseen(traces)]


def counted(x: Tensor) -> int:
    """One less than the size, out of sight."""
    return len(range(1, x.shape[1]))


def only_op(graph: Graph, name: str) -> Op:
    (op,) = (op for op in graph.ops if op.name == name)
    return op


def unseen(graph: Graph, number: int) -> Derived:
    return Derived(number, Arithmetic(UNSEEN, (number, SizeOf(graph.inputs[0].index, 1))))


def test_a_number_that_differs_follows_the_sizes_that_do() -> None:
    graphs = marked(lambda x: x.clamp(max=counted(x)), 4, 6, 9)
    for graph, length in zip(graphs, (4, 6, 9), strict=True):
        assert only_op(graph, "clamp").arguments["max"] == unseen(graph, length - 1)


def test_of_several_numbers_only_those_that_differ_do() -> None:
    first, _ = marked(lambda x: x.new_zeros((3, counted(x))).sum() + x, 4, 6)
    assert only_op(first, "new_zeros").arguments["size"] == (3, unseen(first, 3))


def test_a_number_that_is_one_of_the_sizes_in_all_traces_is_likely_to_be_at_others() -> None:
    first, _ = marked(lambda x: x.new_zeros((3, len(range(x.shape[1])))).sum() + x, 4, 6)
    size = SizeOf(first.inputs[0].index, 1)
    (_, found) = only_op(first, "new_zeros").arguments["size"]
    assert found == Derived(4, Arithmetic(UNSEEN, (size, size)))
    assert not is_lost(found.expression) and is_lost(unseen(first, 3).expression)


@pytest.mark.parametrize("is_likely", [True, False])
def test_ops_run_on_paper_at_other_sizes_unless_their_numbers_are_lost(is_likely: bool) -> None:
    start = 0 if is_likely else 1
    first, _ = marked(lambda x: x.new_zeros((3, len(range(start, x.shape[1])))) + 1, 4, 6)
    (result,) = first.outputs
    assert resized_shapes(first, [(2, 4, 3)], [result.index]) == {result.index: (3, 4 - start)}
    assert resized_shapes(first, [(5, 4, 3)], [result.index]) == {result.index: (3, 4 - start)}
    made = resized_shapes(first, [(2, 9, 3)], [result.index])
    assert made == ({result.index: (3, 9)} if is_likely else {})


@pytest.mark.parametrize(
    ("step", "lengths"),
    [
        (lambda x: x.clamp(max=3), (4, 6)),
        (lambda x: x.clamp(max=x.shape[1]), (4, 6)),
        (lambda x: x.clamp(max=counted(x)), (4,)),
        (lambda x: x.clamp(max=counted(x)), (4, 4)),
        (lambda x: x.clamp(max=counted(x)) if counted(x) > 4 else x.clamp(min=counted(x)).exp(), (4, 6)),
    ],
    ids=["a literal", "a followed size", "one size", "the same size", "other operators"],
)
def test_other_numbers_stay_as_they_are(step: Callable[[Tensor], Tensor], lengths: Sequence[int]) -> None:
    def is_marked(argument: Any) -> bool:
        return UNSEEN in str(argument)

    graphs = marked(step, *lengths)
    assert not any(is_marked(argument) for g in graphs for op in g.ops for argument in op.arguments.values())


def test_a_constant_that_differs_is_none() -> None:
    first, second = marked(lambda x: x + torch.tensor([1.0, counted(x), 2.0]), 4, 6)
    assert len(first.written) == len(second.written) == 1
    first, second = marked(lambda x: x + torch.tensor([1.0, 5.0, 2.0]), 4, 6)
    assert not first.written and not second.written


def test_graphs_run_the_same_operators_whatever_their_numbers() -> None:
    short, long = (
        trace_call(Calling(lambda x: x.clamp(max=counted(x))), example_from(torch.ones(2, n, 3))).graph
        for n in (4, 6)
    )
    other = trace_call(Calling(lambda x: x.exp()), example_from(torch.ones(2, 4, 3))).graph
    assert same_operators(short, long)
    assert not same_operators(short, other)
