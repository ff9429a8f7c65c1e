"""Laws of planning and materializing, for networks and masks that Hypothesis draws."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from property_tests.masks import MaskArgument, mask_argument, mask_tensors
from property_tests.oracle import assert_same_output, masked_copy
from property_tests.snapshots import model_state, process_state, tensor_bytes
from property_tests.strategies import FAMILIES, Case, Family, cases
from speedup import apply_masks, materialize, plan_speedup


def _share(divisor: int) -> settings:
    """A fraction of the profile's examples, for a test that is run once per family."""
    return settings(max_examples=max(1, settings().max_examples // divisor))


@pytest.mark.parametrize("family", FAMILIES)
@_share(4)
@given(data=st.data())
def test_small_model_equals_masked_model_and_given_model_is_untouched(
    family: Family, data: st.DataObject
) -> None:
    case = data.draw(cases(family), label="case")
    model, masks = given_model(case)
    masked = masked_copy(model, case.masks)
    before, process_before = model_state(model), process_state()

    # The library's own numeric gate is off: it is not to be what makes this test pass.
    small = materialize(plan_speedup(model, case.example(), masks), verify="none")

    assert model_state(model) == before
    assert process_state() == process_before
    assert_same_build(small, model)
    for batch in (1, 3):
        assert_same_output(small.eval(), masked.eval(), case.inputs(batch, seed=batch))


@pytest.mark.parametrize("family", FAMILIES)
@_share(8)
@given(data=st.data())
def test_plans_are_values_and_materializing_leaves_nothing_to_cut(
    family: Family, data: st.DataObject
) -> None:
    case = data.draw(cases(family), label="case")
    model, masks = given_model(case)
    example = case.example()
    plan, again = plan_speedup(model, example, masks), plan_speedup(model, example, masks)
    assert plan == again
    assert hash(plan) == hash(again)
    assert plan.parameters_after <= plan_speedup(model, example).parameters_after

    small = materialize(plan, verify="none")
    smaller = materialize(plan_speedup(small, example), verify="none")
    if any("cannot become empty" in blocked.reason for blocked in plan.blocked):
        # A layer collapsed into a constant: only the second plan sees that what fed it is unused.
        assert all(
            all(new <= old for new, old in zip(shapes(smaller)[name], shape, strict=True))
            for name, shape in shapes(small).items()
        )
    else:
        assert shapes(smaller) == shapes(small)


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


def assert_same_build(small: nn.Module, model: nn.Module) -> None:
    """Same names, classes, flags and dtypes; no size grew or vanished; no storage is shared."""
    modules, small_modules = dict(model.named_modules()), dict(small.named_modules())
    assert small_modules.keys() == modules.keys()
    for name, module in modules.items():
        # A drop-in is a subclass of what it stands for.
        assert isinstance(small_modules[name], type(module)), name
        assert small_modules[name].training == module.training, name
    parameters = dict(model.named_parameters())
    for name, parameter in small.named_parameters():
        if name not in parameters:
            # Absorbed constants may need a bias where there was none.
            assert name.rpartition(".")[2] == "bias", name
            continue
        original = parameters[name]
        assert parameter.dim() == original.dim(), name
        assert all(1 <= size <= was for size, was in zip(parameter.shape, original.shape, strict=True)), name
        assert parameter.requires_grad == original.requires_grad, name
        assert parameter.dtype == original.dtype, name
    assert _storages(small).isdisjoint(_storages(model))


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and buffer."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def given_model(case: Case) -> tuple[nn.Module, MaskArgument]:
    """The model as it is handed to the library, some of it frozen, and the masks beside it."""
    model = case.model()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_((case.seed >> index % 8) & 1 == 0)
    if case.masks.style == "baked":
        model = masked_copy(model, case.masks)
    return model, mask_argument(case.masks, model)


def _storages(model: nn.Module) -> set[int]:
    # The address of an empty tensor is 0 and says nothing.
    tensors = [*model.parameters(), *model.buffers()]
    return {tensor.data_ptr() for tensor in tensors if tensor.numel()}
