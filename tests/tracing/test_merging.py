"""Graphs of several modules in one: what is shared, what is renamed, and which graphs are one program."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speedup.ir.expressions import AttributeOf, SizeOf, attributes_in, derived_in
from speedup.ir.graph import Graph
from speedup.ir.inputs import example_from
from speedup.tracing.merging import Part, merge_graphs, same_program
from speedup.tracing.trace import trace_call


class Reshaping(nn.Module):
    """Uses sizes, an attribute and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.width = 3

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).view(x.shape[0], 2, self.width)


def graph_of(model: nn.Module, x: Tensor) -> Graph:
    return trace_call(model, example_from(x)).graph


def two_parts(second: str) -> tuple[Graph, Graph]:
    """One graph, and its merge with itself; the second copy's weight is called `second`."""
    graph = graph_of(Reshaping(), torch.randn(2, 4))
    names = {"fc.weight": "one.fc.weight", "fc.bias": "one.fc.bias"}
    other = {"fc.weight": second, "fc.bias": "two.fc.bias"}
    return graph, merge_graphs([Part("one", graph, names), Part("two", graph, other)])


def test_a_merged_graph_holds_the_ops_of_its_parts_in_order_under_their_paths() -> None:
    graph, both = two_parts("two.fc.weight")
    assert [op.target for op in both.ops] == [op.target for op in graph.ops] * 2
    assert [op.owner.path for op in both.ops] == ["one.fc", "one", "two.fc", "two"]
    assert [op.index for op in both.ops] == list(range(4))
    assert [v.index for v in both.values] == list(range(len(both.values)))
    assert len(both.inputs) == len(both.outputs) == 2


def test_state_of_equal_name_is_one_value_and_other_values_are_not_shared() -> None:
    graph, both = two_parts("one.fc.weight")
    assert len(both.values) == 2 * len(graph.values) - 1
    first, second = (op for op in both.ops if op.name == "linear")
    assert first.operands[1] is second.operands[1]
    assert first.operands[0] is not second.operands[0]


def test_sizes_and_attributes_refer_to_the_values_and_modules_of_their_part() -> None:
    _, both = two_parts("two.fc.weight")
    for op, path, given in zip(both.ops[1::2], ("one", "two"), both.inputs, strict=True):
        derived = list(derived_in(tuple(op.arguments.values())))
        assert [a for d in derived for a in attributes_in(d.expression)] == [AttributeOf(path, "width", 3)]
        assert isinstance(derived[0].expression, SizeOf)
        assert derived[0].expression.value == given.index


def test_state_that_is_read_elsewhere_is_an_output_and_attributes_named_elsewhere_escape() -> None:
    graph = graph_of(Reshaping(), torch.randn(2, 4))
    names = {"fc.weight": "fc.weight", "fc.bias": "fc.bias"}
    whole = merge_graphs([Part("", graph, names)], ["fc.bias", "other"], frozenset({"width"}))
    assert [v.name for v in whole.outputs[1:]] == ["fc.bias"]
    assert AttributeOf("", "width", 3) in whole.opaque_roots


def test_graphs_that_differ_in_extents_only_are_one_program() -> None:
    model = Reshaping()
    one, other, single = (graph_of(model, torch.randn(n, 4)) for n in (2, 5, 1))
    assert same_program(one, other)
    assert not same_program(one, single)


def test_graphs_that_differ_in_a_literal_number_are_different_programs() -> None:
    class Scaled(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = by

        def forward(self, x: Tensor) -> Tensor:
            return x * self.by

    one, other = (graph_of(Scaled(by), torch.randn(2, 4)) for by in (2.0, 3.0))
    assert not same_program(one, other)


def test_a_part_without_ops_starts_no_call() -> None:
    graph, empty = graph_of(Reshaping(), torch.randn(2, 4)), graph_of(nn.Identity(), torch.randn(2, 4))
    names = [{"fc.weight": f"{n}.fc.weight", "fc.bias": f"{n}.fc.bias"} for n in range(2)]
    for order in ([0, None, 1], [None, 0, 1], [0, 1, None]):
        parts = [Part(str(n), empty if n is None else graph, {} if n is None else names[n]) for n in order]
        assert merge_graphs(parts).starts == (0, 2)
