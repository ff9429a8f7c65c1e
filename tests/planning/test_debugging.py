"""The graph printed for maintainers, and the check that every traced graph passes."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import pytest
import torch
from attrs import evolve
from torch import nn

from speedup import GraphError, Plan, UnboundPlanError, plan_speedup
from speedup.ir.checking import require_well_formed
from speedup.ir.expressions import Arithmetic, Derived, Guard, SizeOf
from speedup.ir.graph import Graph, Op
from speedup.ir.inputs import example_from
from speedup.planning.debugging import debug
from speedup.tracing.trace import trace_call


@pytest.fixture(scope="module")
def plan() -> Plan:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    mask = torch.tensor([1, 0, 1, 1, 0, 1])
    return plan_speedup(model, torch.randn(2, 4), {"0.weight": mask[:, None], "0.bias": mask})


def test_facts_keep_sets_and_reasons_stand_beside_the_ops(plan: Plan) -> None:
    text = debug(plan)
    first = text.splitlines().index(next(line for line in text.splitlines() if line.startswith("   0: ")))
    assert text.splitlines()[first].endswith("= aten.linear.default(%4, %0, %1) in 0")
    assert "dim 1: known 2 of 6 (1, 4), kept 4 of 6 (0, 2, 3, 5)" in text
    assert "equal: linear ties its weight to its input and output channels" in text
    assert text.splitlines()[-1].startswith("return %")


def test_plan_that_was_read_back_cannot_be_printed(plan: Plan) -> None:
    with pytest.raises(UnboundPlanError):
        debug(Plan.from_json(plan.to_json()))


def _with_op(graph: Graph, number: int, change: Callable[[Op], Op]) -> Graph:
    return evolve(graph, ops=tuple(change(op) if op.index == number else op for op in graph.ops))


def _told(op: Op, value: int, dim: int) -> Op:
    given = dict(op.arguments) | {"told": Derived(1, SizeOf(value, dim))}
    return evolve(op, arguments=MappingProxyType(given))


FAULTS: dict[str, tuple[Callable[[Graph], Graph], str]] = {
    "an op before what it reads": (
        lambda g: evolve(
            g, ops=tuple(evolve(op, index=n) for n, op in enumerate((g.ops[1], g.ops[0], *g.ops[2:])))
        ),
        "before it is there",
    ),
    "an op at another place": (lambda g: _with_op(g, 1, lambda op: evolve(op, index=7)), "op 7 stands"),
    "a value twice": (
        lambda g: evolve(g, ops=(*g.ops, evolve(g.ops[0], index=len(g.ops)))),
        "which is there already",
    ),
    "a value of another graph": (
        lambda g: _with_op(g, 0, lambda op: evolve(op, results=(evolve(op.result, name="x"),))),
        "none of the graph",
    ),
    "a size that is not there": (lambda g: _with_op(g, 0, lambda op: _told(op, 0, 9)), "is told SizeOf"),
    "a question about nothing": (
        lambda g: evolve(g, guards=(Guard(Arithmetic("eq", (SizeOf(0, 5), 1)), True, "net.py:3"),)),
        "a question about sizes at net.py:3",
    ),
    "an output of no op": (lambda g: evolve(g, ops=g.ops[:-1]), "is computed by no op"),
    "calls out of order": (lambda g: evolve(g, starts=(0, 2, 1)), "calls start at"),
    "an input that is a weight": (lambda g: evolve(g, inputs=g.state[:1]), "is of origin PARAMETER"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_graph_that_contradicts_itself_is_refused(name: str) -> None:
    damage, words = FAULTS[name]

    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    graph = trace_call(model.eval(), example_from(torch.randn(2, 4))).graph
    assert require_well_formed(graph) is graph
    with pytest.raises(GraphError, match=words):
        require_well_formed(damage(graph))
