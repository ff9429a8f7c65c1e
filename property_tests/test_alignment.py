"""Laws of plans with `align`, for networks and masks that Hypothesis draws."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from property_tests.test_networks import given_model, shapes
from speedup import materialize, plan_speedup
from speedup.testing import assert_equivalent
from speedup.testing.networks import FAMILIES, Family
from speedup.testing.strategies import cases

SHARE = settings(max_examples=max(1, settings().max_examples // 12))
ALIGNS = (2, 4, 8)


def computed(model: nn.Module) -> Iterator[tuple[str, int]]:
    """How many channels each layer computes; the units of recurrent ones."""
    for path, module in model.named_modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            yield path, module.hidden_size
        elif isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and module.weight.ndim > 1:
            groups = module.groups if isinstance(module, _ConvTransposeNd) else 1
            yield path, module.weight.shape[isinstance(module, _ConvTransposeNd)] * groups


@pytest.mark.parametrize("family", FAMILIES)
@SHARE
@given(data=st.data())
def test_aligned_models_are_exact_and_their_layers_multiples_or_whole(
    family: Family, data: st.DataObject
) -> None:
    case, align = data.draw(cases(family), label="case"), data.draw(st.sampled_from(ALIGNS), label="align")
    model, example = case.model(), case.example()
    plan = assert_equivalent(model, example, case.masks, align=align)
    model, masks = given_model(case)
    plain = plan_speedup(model, example, masks)
    alignment = plan.report.alignment
    assert alignment is not None
    assert plain.parameters_after <= plan.parameters_after <= plan.parameters_before
    assert alignment.parameters == (plain.parameters_after, plan.parameters_after)
    assert alignment.macs == (plain.macs_after, plan.macs_after)
    before, unaligned = dict(computed(model)), dict(computed(materialize(plain, verify="none")))
    for path, width in computed(materialize(plan, verify="none")):
        assert unaligned[path] <= width
        assert width % align == 0 or width == before[path], path


@pytest.mark.parametrize("family", FAMILIES)
@SHARE
@given(data=st.data())
def test_aligning_an_aligned_model_changes_nothing(family: Family, data: st.DataObject) -> None:
    case, align = data.draw(cases(family), label="case"), data.draw(st.sampled_from(ALIGNS), label="align")
    model, masks = given_model(case)
    example = case.example()
    plan = plan_speedup(model, example, masks, align=align, reparametrized="keep")
    small = materialize(plan, verify="none")
    second = plan_speedup(small, example, align=align, reparametrized="keep")
    again = shapes(materialize(second, verify="none"))
    if any("cannot become empty" in blocked.reason for blocked in plan.blocked):
        assert all(
            all(new <= old for new, old in zip(again[name], shape, strict=True))
            for name, shape in shapes(small).items()
        )
    else:
        assert again == shapes(small)
