"""Weights that are cut lie in memory as they did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from speedup import materialize, plan_speedup
from speedup.modules.layouts import laid_out_like
from tests.support.measure import check_exact

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def order_of(tensor: Tensor) -> list[int]:
    """The dimensions of more than one element, outermost in memory first."""
    dims = (dim for dim in range(tensor.ndim) if tensor.shape[dim] > 1)
    return sorted(dims, key=lambda dim: -tensor.stride()[dim])


MODELS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3)),
    "1 x 1": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1)),
    "depthwise": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 3)),
    "grouped": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2)),
    "three dimensions": lambda: nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.Conv3d(8, 6, 3)),
}


def channels_last(name: str) -> Any:
    model = MODELS[name]().double().eval()
    for parameter in model.parameters():
        if parameter.ndim in LAST:
            parameter.data = parameter.data.contiguous(memory_format=LAST[parameter.ndim])
    return model


def made(name: str) -> Callable[[int, int], tuple[Tensor]]:
    def images(batch: int, seed: int) -> tuple[Tensor]:
        size = (7, 8, 9)[: 3 if name == "three dimensions" else 2]
        x = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed)).double()
        return (x.contiguous(memory_format=LAST[x.ndim]),)

    return images


def rows(model: Any) -> dict[str, Tensor]:
    weight, dim = model[0].weight, int(isinstance(model[0], nn.ConvTranspose2d))
    keep = torch.ones(8)
    keep[[1, 2, 5, 6]] = 0
    return {
        "0.weight": keep.reshape([-1 if d == dim else 1 for d in range(weight.ndim)]),
        "0.bias": keep,
    }


@pytest.mark.parametrize("name", MODELS)
def test_weights_in_channels_last_stay_so(name: str) -> None:
    model, images = channels_last(name), made(name)
    plan = plan_speedup(model, images(2, 0), rows(model))
    small = materialize(plan)
    cut = [n for n, p in small.named_parameters() if p.shape != model.get_parameter(n).shape and p.ndim > 3]
    assert cut
    for parameter_name, parameter in small.named_parameters():
        if parameter.ndim in LAST:
            assert parameter.is_contiguous(memory_format=LAST[parameter.ndim]), parameter_name
            again = parameter.detach().contiguous(memory_format=LAST[parameter.ndim])
            assert order_of(parameter) == order_of(again)
    check_exact(model, rows(model), images, also_verified=True).require_exact()


@pytest.mark.parametrize("name", MODELS)
def test_contiguous_weights_stay_contiguous(name: str) -> None:
    model = MODELS[name]().double().eval()
    small = materialize(plan_speedup(model, made(name)(2, 0), rows(model)))
    assert all(parameter.is_contiguous() for parameter in small.parameters())


def test_a_weight_that_is_a_transposed_view_stays_one() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)).double()
    model[1].weight = nn.Parameter(torch.randn(6, 3).double().t())
    small: Any = materialize(
        plan_speedup(model, torch.randn(2, 4).double(), {"0.weight": _rows(6), "0.bias": _keep(6)})
    )
    assert small[1].weight.shape == (3, 4) and small[1].weight.stride() == (1, 3)


def test_a_part_of_a_larger_tensor_and_an_expanded_one_become_contiguous() -> None:
    whole = torch.randn(6, 8)
    assert laid_out_like(whole[:4, :3], whole[:, :4]).is_contiguous()
    assert laid_out_like(torch.ones(2, 3), torch.ones(1).expand(4, 5)).is_contiguous()


def test_plain_weights_lie_as_their_originals_did() -> None:
    model = channels_last("convolutions")
    mask = torch.ones(8, 3, 3, 3)
    mask[::2] = 0
    prune.custom_from_mask(model[0], "weight", mask)
    small: Any = materialize(plan_speedup(model, made("convolutions")(2, 0)))
    assert "0.weight" in small.state_dict()
    assert small[0].weight.is_contiguous(memory_format=torch.channels_last)


def _keep(count: int) -> Tensor:
    return torch.arange(count) >= 2


def _rows(count: int) -> Tensor:
    return _keep(count)[:, None]
