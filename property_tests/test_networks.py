"""Laws of planning and materializing, for networks and masks that Hypothesis draws."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from property_tests.budget import of_each_family
from property_tests.tally import Tally
from speedup import Plan, apply_masks, materialize, plan_speedup
from speedup.testing.masks import MaskArgument, mask_argument, mask_tensors
from speedup.testing.networks import FAMILIES, Family
from speedup.testing.oracle import masked_copy
from speedup.testing.snapshots import model_state, tensor_bytes
from speedup.testing.strategies import Case, cases


def _share(divisor: int) -> settings:
    """A fraction of the profile's examples, for a test that is run once per family."""
    return settings(max_examples=max(1, settings().max_examples // divisor))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=of_each_family())
@given(data=st.data())
def test_small_model_equals_masked_model_and_given_model_is_untouched(
    family: Family, networks: Tally, data: st.DataObject
) -> None:
    case = data.draw(cases(family), label="case")
    networks.add(case.check(), elsewhere=len(case.network.elsewhere))


@pytest.mark.parametrize("family", FAMILIES)
@_share(8)
@given(data=st.data())
def test_plans_are_values_and_materializing_leaves_nothing_to_cut(
    family: Family, data: st.DataObject
) -> None:
    case = data.draw(cases(family), label="case")
    model, masks = given_model(case)
    example = case.example()
    calls = case.calls()
    plan, again = (plan_speedup(model, example, masks, others=calls) for _ in range(2))
    assert plan == again
    assert hash(plan) == hash(again)
    # Stated sizes may fit what is left by chance, and calls that share a layer may agree once others went.
    held = [one.reason for one in plan.blocked]
    if not any("the forward states" in reason for reason in held):
        assert plan.parameters_after <= plan_speedup(model, example, others=calls).parameters_after

    small = materialize(plan, verify="none")
    # Weights that are still computed are so in what is planned next.
    second = plan_speedup(small, example, others=calls, reparametrized="keep")
    smaller = materialize(second, verify="none")
    if not any("with another call" in reason for reason in held):
        assert shapes(smaller) == shapes(small)


@_share(3)
@given(case=cases())
def test_plans_are_the_same_when_they_were_text(case: Case) -> None:
    model, masks = given_model(case)
    plan = plan_speedup(model, case.example(), masks, others=case.calls())
    text = plan.to_json()
    again = Plan.from_json(text)
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.to_json() == text
    assert not plan.diff(again)

    small, other = materialize(plan, verify="none"), materialize(again, given_model(case)[0], verify="none")
    assert {name: tensor_bytes(tensor) for name, tensor in other.state_dict().items()} == {
        name: tensor_bytes(tensor) for name, tensor in small.state_dict().items()
    }


@_share(3)
@given(case=cases())
def test_apply_masks_zeroes_what_is_masked_and_nothing_else(case: Case) -> None:
    model = case.model()
    before = model_state(model)
    masked = apply_masks(model, mask_tensors(case.masks, model))
    expected = masked_copy(model, case.masks)
    assert model_state(model) == before
    assert {name: tensor_bytes(tensor) for name, tensor in masked.state_dict().items()} == {
        name: tensor_bytes(tensor) for name, tensor in expected.state_dict().items()
    }


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and buffer."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def given_model(case: Case) -> tuple[nn.Module, MaskArgument]:
    """The model as it is handed to the library, and the masks beside it."""
    model = case.model()
    if case.masks.style == "baked":
        model = masked_copy(model, case.masks)
    return model, mask_argument(case.masks, model)
