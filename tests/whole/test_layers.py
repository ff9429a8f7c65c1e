"""Every kind of layer and function: exact, untouched, and as small as its masks allow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from speedup import materialize, plan_speedup
from tests.support.blocks import CASES, Case
from tests.support.measure import MakeInputs, check_exact


def _model(case: Case) -> nn.Module:
    """The case's model in float64 with random state; what prune computed stays."""
    generator = torch.Generator().manual_seed(7)
    model = case.model().double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("_orig"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator, dtype=torch.float64))
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator, dtype=torch.float64) + 0.5)
    return model


def _masks(case: Case, model: nn.Module) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    masks = {}
    for name, (dim, indices) in case.drop.items():
        shape = [1] * parameters[name].ndim
        shape[dim] = parameters[name].shape[dim]
        keep = torch.ones(shape[dim])
        keep[list(indices)] = 0
        masks[name] = keep.reshape(shape)
    return masks


def _inputs(case: Case, shape: tuple[int, ...]) -> MakeInputs:
    def make(batch: int, seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        size = (batch, *shape[1:])
        if case.vocabulary:
            return (torch.randint(case.vocabulary, size, generator=generator),)
        return (torch.randn(size, generator=generator, dtype=torch.float64),)

    return make


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layer_shrinks_to_what_its_masks_allow_and_stays_exact(case: Case) -> None:
    model = _model(case)
    masks = _masks(case, model)
    others = [] if case.other is None else [_inputs(case, case.other)]
    result = check_exact(
        model, masks, _inputs(case, case.shape), name=case.name, other_inputs=others, also_verified=True
    )
    if case.name != "all masked":
        result.require_exact(1e-10)
    assert result.failure is None, result.failure

    plan = plan_speedup(model, _inputs(case, case.shape)(2, 0), masks)
    small = materialize(plan)
    shapes = {name: tuple(p.shape) for name, p in small.named_parameters()}
    assert {name: shapes[name] for name in case.shapes} == dict(case.shapes)
    assert sum(p.numel() for p in small.parameters()) == plan.parameters_after
    if case.report:
        assert case.report in str([b.reason for b in plan.blocked])
