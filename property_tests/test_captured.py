"""A plain forward writes down what torch.export writes down, for networks that Hypothesis draws."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from property_tests.budget import captured_of_each_family
from speedup.ir.inputs import example_from
from speedup.testing.networks import FAMILIES, Family
from speedup.testing.strategies import cases
from speedup.tracing.trace import capture, export


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=captured_of_each_family())
@given(data=st.data())
def test_both_traces_of_a_network_are_the_same(family: Family, data: st.DataObject) -> None:
    case = data.draw(cases(family, sized=data.draw(st.booleans(), label="sized")), label="case")
    model, example = case.model(), example_from(case.example())
    captured, exported = capture(model, example), export(model, example)
    if captured is not None:
        assert captured.graph == exported.graph
        assert list(captured.tensors) == list(exported.tensors)
