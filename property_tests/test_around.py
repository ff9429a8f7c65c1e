"""Laws of networks that hold one operator between layers, for every operator of the table of rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from property_tests.around.case import OperatorCase, calls, cases_around
from property_tests.around.found import FOUND
from property_tests.around.reach import UNREACHED, is_unreached, operators, overloads_by_key
from property_tests.budget import NIGHTLY, around_each
from property_tests.tally import Tally
from speedup.errors import SpeedupError
from speedup.ir.inputs import example_from
from speedup.tracing.trace import trace_call
from tests.support.soundness import Calling


def _tried() -> Iterator[str]:
    """Every operator at night; else one overload for each entry of the table."""
    if NIGHTLY:
        yield from operators()
        return
    for names in overloads_by_key().values():
        yield from [name for name in names if not is_unreached(name)][:1]


@pytest.mark.parametrize("operator", sorted(set(_tried())))
@settings(max_examples=around_each())
@given(data=st.data())
def test_small_network_around_an_operator_equals_the_masked_one(
    operator: str, networks: Tally, data: st.DataObject
) -> None:
    case = data.draw(cases_around(operator), label="case")
    plan = case.check()
    held = {op.target for op in plan.expected.ops}
    if operator not in held:
        # Plans leave out what only passes on its operand.
        held = traced(case.model(), case.inputs())
    assert operator in held, "the network was traced without the operator that it was built around"
    networks.add(plan, held)


@pytest.mark.parametrize("case", FOUND, ids=lambda case: f"{case.operator}-{case.seed}")
def test_network_that_was_once_wrong_is_right(case: OperatorCase) -> None:
    case.check()


@pytest.mark.parametrize("name", [name for name in UNREACHED if "::" not in name])
def test_operator_on_the_list_cannot_be_held_by_a_network(name: str) -> None:
    for call in calls(name):
        generator = torch.Generator().manual_seed(0)
        operands = tuple(o.sampler(o.shape, generator) for o in call.operands)
        assert name not in traced(Calling(call.function), operands)


def test_list_names_only_what_the_table_has() -> None:
    every = {name for names in overloads_by_key().values() for name in names}
    assert {name for name in UNREACHED if "::" not in name} <= every
    assert {name for name in UNREACHED if "::" in name} <= overloads_by_key().keys()


def traced(model: nn.Module, inputs: tuple[Tensor, ...]) -> set[str]:
    """The operators in the model's trace; none if it has no trace."""
    try:
        graph = trace_call(model, example_from(inputs)).graph
    except SpeedupError:
        return set()
    return {str(op.target) for op in graph.ops}
