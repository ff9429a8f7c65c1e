"""Networks that look at sizes, read numbers from tensors, or are called in several ways: one plan for all.

The plan is made at one size; the networks are compared at all sizes that they take, at which every branch,
count and lookup of theirs comes out in each way.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from property_tests.budget import sized_of_each_family
from property_tests.tally import Tally
from speedup.testing.networks import FAMILIES, Family
from speedup.testing.strategies import cases


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=sized_of_each_family())
@given(data=st.data())
def test_small_model_equals_masked_model_at_sizes_that_were_not_planned_for(
    family: Family, networks: Tally, data: st.DataObject
) -> None:
    case = data.draw(cases(family, sized=True), label="case")
    networks.add(case.check(), elsewhere=len(case.network.elsewhere))
