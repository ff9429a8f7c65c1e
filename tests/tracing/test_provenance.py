"""Numbers that remember their sizes: on their own, and through a real trace."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup.ir.expressions import (
    Arithmetic,
    AttributeOf,
    Derived,
    Expression,
    Guard,
    SizeOf,
    derived_in,
    evaluate_expression,
    sizes_in,
)
from speedup.ir.graph import Graph
from speedup.ir.inputs import example_from
from speedup.tracing.provenance import TrackedFloat, TrackedInt, track
from speedup.tracing.record import Record
from speedup.tracing.trace import trace_call
from tests.support.soundness import graph_of

SIZE = SizeOf(0, 1)


def eight(record: Record | None = None) -> Any:
    """A tracked 8."""
    return track(8, SIZE, record or Record())


@pytest.mark.parametrize(
    ("compute", "number", "expression"),
    [
        (lambda n: n + 2, 10, Arithmetic("add", (SIZE, 2))),
        (lambda n: 2 + n, 10, Arithmetic("add", (2, SIZE))),
        (lambda n: n - 3, 5, Arithmetic("sub", (SIZE, 3))),
        (lambda n: 3 - n, -5, Arithmetic("sub", (3, SIZE))),
        (lambda n: n * 2, 16, Arithmetic("mul", (SIZE, 2))),
        (lambda n: 2 * n, 16, Arithmetic("mul", (2, SIZE))),
        (lambda n: n // 3, 2, Arithmetic("floordiv", (SIZE, 3))),
        (lambda n: 30 // n, 3, Arithmetic("floordiv", (30, SIZE))),
        (lambda n: n / 5, 1.6, Arithmetic("truediv", (SIZE, 5))),
        (lambda n: 4 / n, 0.5, Arithmetic("truediv", (4, SIZE))),
        (lambda n: n % 3, 2, Arithmetic("mod", (SIZE, 3))),
        (lambda n: 13 % n, 5, Arithmetic("mod", (13, SIZE))),
        (lambda n: n**2, 64, Arithmetic("pow", (SIZE, 2))),
        (lambda n: 2**n, 256, Arithmetic("pow", (2, SIZE))),
        (lambda n: n**-0.5, 8**-0.5, Arithmetic("pow", (SIZE, -0.5))),
        (lambda n: -n, -8, Arithmetic("neg", (SIZE,))),
        (abs, 8, Arithmetic("abs", (SIZE,))),
        (lambda n: math.floor(n / 3), 2, Arithmetic("floor", (Arithmetic("truediv", (SIZE, 3)),))),
        (lambda n: math.ceil(n / 3), 3, Arithmetic("ceil", (Arithmetic("truediv", (SIZE, 3)),))),
        (lambda n: n + n, 16, Arithmetic("add", (SIZE, SIZE))),
        (lambda n: (n - 1) // 2, 3, Arithmetic("floordiv", (Arithmetic("sub", (SIZE, 1)), 2))),
        (lambda n: (n / 4) * 3, 6.0, Arithmetic("mul", (Arithmetic("truediv", (SIZE, 4)), 3))),
        (lambda n: round(n / 3), 3, Arithmetic("round", (Arithmetic("truediv", (SIZE, 3)),))),
        (lambda n: math.trunc(n / 3), 2, Arithmetic("trunc", (Arithmetic("truediv", (SIZE, 3)),))),
        (lambda n: sum((n, 1)), 9, Arithmetic("add", (Arithmetic("add", (0, SIZE)), 1))),
    ],
)
def test_arithmetic_gives_the_number_and_keeps_the_expression(
    compute: Callable[[Any], Any], number: float, expression: Expression
) -> None:
    got = compute(eight())
    assert isinstance(got, TrackedInt if isinstance(number, int) else TrackedFloat)
    assert got.expression == expression
    assert type(number)(got) == number


@pytest.mark.parametrize(
    ("compare", "name", "outcome"),
    [
        (lambda n: n == 8, "eq", True),
        (lambda n: n != 8, "ne", False),
        (lambda n: n < 5, "lt", False),
        (lambda n: n <= 8, "le", True),
        (lambda n: n > 5, "gt", True),
        (lambda n: n >= 9, "ge", False),
    ],
)
def test_a_comparison_is_a_plain_bool_and_a_guard(
    compare: Callable[[Any], Any], name: str, outcome: bool
) -> None:
    record = Record()
    assert compare(eight(record)) is outcome
    (guard,) = record.guards
    assert guard.expression.function == name
    assert guard.expression.operands[0] == SIZE
    assert guard.outcome is outcome


@pytest.mark.parametrize(("choose", "chosen"), [(min, 5), (max, 8)])
def test_min_and_max_compare_and_so_leave_a_guard(choose: Callable[..., Any], chosen: int) -> None:
    record = Record()
    assert choose(eight(record), 5) == chosen
    assert {g.expression.operands for g in record.guards[:1]} <= {(SIZE, 5), (5, SIZE)}
    assert record.guards


def test_a_number_compared_with_itself_guards_nothing() -> None:
    record = Record()
    assert eight(record) == eight(record)
    assert not record.guards


def test_repeated_guards_are_frozen_once() -> None:
    record = Record()
    for _ in range(3):
        assert eight(record) > 5
    assert record.frozen_guards() == (Guard(Arithmetic("gt", (SIZE, 5)), True),)


@pytest.mark.parametrize(
    ("leave", "expected"),
    [
        (math.sqrt, math.sqrt(8)),
        (float, 8.0),
        (math.exp, math.exp(8)),
        (lambda n: int(n / 3), 2),
        (lambda n: round(n / 3, 1), 2.7),
        (lambda n: n.bit_length(), 4),
    ],
)
def test_what_leaves_the_trackers_sight_marks_its_sizes_as_escaped(
    leave: Callable[[Any], Any], expected: float
) -> None:
    record = Record()
    got = leave(eight(record))
    assert type(got) is type(expected)
    assert got == expected
    assert set(record.opaque_roots) == {SIZE}


def test_arithmetic_alone_lets_nothing_escape() -> None:
    record = Record()
    assert ((eight(record) * 2 + 1) // 3) ** 2 / 5 is not None
    assert not record.opaque_roots
    assert not record.guards


def test_a_tracked_int_serves_as_key_index_and_range_bound() -> None:
    n = eight()
    assert hash(n) == hash(8)
    assert {8: "plain"}[n] == "plain"
    assert {n: "tracked"}[8] == "tracked"
    assert len({n, 8}) == 1
    assert list(range(10))[n] == 8
    assert list(range(n)) == list(range(8))
    assert "x" * n == "xxxxxxxx"
    assert f"{n:03d}" == "008"


def test_copies_and_pickles_are_plain_numbers() -> None:
    for number in (eight(), eight() / 5):
        for made in (copy.deepcopy(number), pickle.loads(pickle.dumps(number))):
            assert type(made) in (int, float)
            assert made == number


def test_a_tracked_int_is_not_equal_to_what_is_no_number() -> None:
    record = Record()
    assert (eight(record) == "8") is False
    assert (eight(record) != None) is True  # noqa: E711
    assert not record.guards


def derived(graph: Graph, name: str, op: int = 0) -> list[Any]:
    """The argument `name` of op `op`, as a list of numbers."""
    argument = graph.ops[op].arguments[name]
    return list(argument) if isinstance(argument, tuple) else [argument]


X = torch.randn(2, 8, 6)


def test_sizes_in_the_arguments_of_a_view_are_derived_and_literals_stay() -> None:
    graph = graph_of(lambda x: x.view(x.shape[0], 2, x.shape[1] // 2, -1), X)
    x = graph.inputs[0].index
    half = Arithmetic("floordiv", (SizeOf(x, 1), 2))
    assert derived(graph, "size") == [Derived(2, SizeOf(x, 0)), 2, Derived(4, half), -1]
    assert type(derived(graph, "size")[1]) is int
    assert not graph.guards
    assert not graph.opaque_roots


def test_sizes_in_slices_are_derived() -> None:
    graph = graph_of(lambda x: x[:, x.shape[1] // 2 :, : x.size(2) - 1], X)
    cuts = {op["dim"]: op for op in graph.ops if op.target is torch.ops.aten.slice.Tensor}
    x = graph.inputs[0].index
    assert cuts[1].arguments["start"] == Derived(4, Arithmetic("floordiv", (SizeOf(x, 1), 2)))
    assert cuts[2].arguments["end"] == Derived(5, Arithmetic("sub", (SizeOf(x, 2), 1)))


@pytest.mark.parametrize(
    ("forward", "name", "number", "function"),
    [
        (lambda x: x.split(x.shape[1] // 2, 1), "split_size", 4, "floordiv"),
        (lambda x: x.chunk(x.shape[1] // 4, 1), "chunks", 2, "floordiv"),
        (lambda x: x.narrow(1, 0, x.shape[1] - 3), "length", 5, "sub"),
        (lambda x: x * (x.shape[1] ** -0.5), "other", 8**-0.5, "pow"),
        (lambda x: x / (2 * x.shape[1]), "other", 16, "mul"),
    ],
)
def test_sizes_in_other_arguments_are_derived(
    forward: Callable[[Tensor], Any], name: str, number: float, function: str
) -> None:
    graph = graph_of(forward, X)
    found = graph.ops[0].arguments[name]
    assert isinstance(found, Derived)
    assert found.number == number
    assert isinstance(found.expression, Arithmetic)
    assert found.expression.function == function
    assert not graph.opaque_roots


def test_every_way_to_ask_for_a_size_is_tracked() -> None:
    ways: list[Callable[[Tensor], Any]] = [
        lambda x: x.shape[1],
        lambda x: x.shape[-2],
        lambda x: x.size(1),
        lambda x: x.size(-2),
        lambda x: x.size()[1],
        lambda x: x.size(dim=1),
    ]
    for way in ways:
        graph = graph_of(lambda x, way=way: x.view(-1, way(x)), X)
        assert derived(graph, "size") == [-1, Derived(8, SizeOf(graph.inputs[0].index, 1))]


def test_numel_is_the_product_of_all_sizes() -> None:
    graph = graph_of(lambda x: x.view(x.numel() // 4, 4), X)
    found = derived(graph, "size")[0]
    assert found.number == 24

    def extent(root: SizeOf | AttributeOf) -> int:
        assert isinstance(root, SizeOf)
        return (4, 5, 7)[root.dim]

    assert evaluate_expression(found.expression, extent) == 4 * 5 * 7 // 4


def test_a_size_of_an_intermediate_value_refers_to_that_value() -> None:
    def forward(x: Tensor) -> Tensor:
        half = x[:, :4] * 2
        return x.view(-1, half.shape[1])

    graph = graph_of(forward, X)
    (product,) = (op for op in graph.ops if op.target is torch.ops.aten.mul.Tensor)
    assert derived(graph, "size", op=len(graph.ops) - 1)[-1] == Derived(4, SizeOf(product.result.index, 1))


def test_a_comparison_in_the_forward_becomes_a_guard_of_the_graph() -> None:
    graph = graph_of(lambda x: x * 2 if x.shape[1] > 5 else x * 3, X)
    expected = Guard(Arithmetic("gt", (SizeOf(graph.inputs[0].index, 1), 5)), True)
    assert graph.guards == (expected,)


def test_a_remainder_that_is_branched_on_becomes_a_guard_of_the_graph() -> None:
    graph = graph_of(lambda x: x * 2 if x.shape[1] % 4 == 0 else x * 3, X)
    remainder = Arithmetic("mod", (SizeOf(graph.inputs[0].index, 1), 4))
    assert Guard(Arithmetic("eq", (remainder, 0)), True) in graph.guards


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: x * float(x.shape[1]),
        lambda x: x * int(x.shape[1] / 3),
        lambda x: x * x.shape[1].bit_length(),
    ],
)
def test_a_size_that_becomes_a_plain_float_escapes(forward: Callable[[Tensor], Any]) -> None:
    graph = graph_of(forward, X)
    assert graph.opaque_roots == (SizeOf(graph.inputs[0].index, 1),)


def test_the_sizes_of_a_shape_whose_elements_are_counted_escape() -> None:
    graph = graph_of(lambda x: x * x.shape[1:].numel(), X)
    assert graph.opaque_roots == tuple(SizeOf(graph.inputs[0].index, dim) for dim in (1, 2))


@pytest.mark.parametrize("function", [math.sqrt, math.log, math.exp, math.log2])
def test_functions_of_the_math_module_are_followed_during_a_trace(function: Callable[..., Any]) -> None:
    graph = graph_of(lambda x: x * getattr(math, function.__name__)(x.shape[1]), X)
    (scale,) = derived(graph, "other")
    assert scale == Derived(function(8), Arithmetic(function.__name__, (SizeOf(graph.inputs[0].index, 1),)))
    assert getattr(math, function.__name__) is function


def test_counts_and_lookups_by_a_size_are_uses() -> None:
    table = [0.5] * 9
    graph = graph_of(lambda x: sum(x * table[x.shape[1]] for _ in range(x.shape[1] // 4)), X)
    size = SizeOf(graph.inputs[0].index, 1)
    found = {(use.expression, use.number, use.how) for use in graph.uses}
    assert (Arithmetic("floordiv", (size, 4)), 2, "range()") in found
    assert (size, 8, "a lookup") in found
    assert all(use.where.startswith("test_provenance.py:") for use in graph.uses)
    assert isinstance(range(3), range)


def test_the_length_of_a_tensor_escapes() -> None:
    graph = graph_of(lambda x: x * len(x), X)
    assert graph.opaque_roots == (SizeOf(graph.inputs[0].index, 0),)


def test_a_model_without_sizes_has_neither_guards_nor_escapes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    graph = trace_call(model, example_from(torch.randn(2, 3, 8, 8))).graph
    assert graph.guards == ()
    assert graph.opaque_roots == ()
    derived = [d for op in graph.ops for d in derived_in(tuple(op.arguments.values()))]
    assert [d for d in derived if list(sizes_in(d.expression))] == []


class Kept(nn.Module):
    """Reads numbers that it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.turns = 6, 2
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.turns):
            x = self.layer(x)
        return self.rows(x)

    def rows(self, x: Tensor) -> Tensor:
        return x.view(-1, 2 * self.wide // 2, self.turns)


def test_a_number_that_a_module_keeps_is_derived_from_its_attribute() -> None:
    graph = trace_call(nn.Sequential(Kept()), example_from(torch.randn(4, 6))).graph
    (view,) = (op for op in graph.ops if op.name == "view")
    twice = Arithmetic("mul", (2, AttributeOf("0", "wide", 6)))
    assert view.arguments["size"][1] == Derived(6, Arithmetic("floordiv", (twice, 2)))


def test_a_number_that_says_how_long_a_list_is_escapes() -> None:
    record = Record()
    assert [0] * eight(record) == [0] * 8
    assert record.opaque_roots == [SIZE]
