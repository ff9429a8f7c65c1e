"""A plan made where tensors have no data holds for the model with its weights, and is the same plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from speedup import Plan, apply_masks, materialize, plan_speedup

Forward = Callable[[Tensor], Tensor]

# What forwards make by themselves, where their input is.
MADE: Mapping[str, Forward] = {
    "arange": lambda x: x * torch.arange(x.shape[-1], device=x.device),
    "zeros": lambda x: x + torch.zeros(x.shape[-1], device=x.device, dtype=x.dtype),
    "full": lambda x: torch.where(x > 0, x, torch.full((), -1.5, device=x.device)),
    "new_ones": lambda x: x * x.new_ones(x.shape[0], 1),
    "ones_like": lambda x: x + torch.ones_like(x, device=x.device),
    "linspace": lambda x: x * torch.linspace(0, 1, x.shape[-1], device=x.device),
    "moved": lambda x: x.to(x.device, torch.float64).to(x.dtype),
    "a triangle": lambda x: x @ torch.tril(torch.ones(x.shape[-1], x.shape[-1], device=x.device)),
}


class Making(nn.Module):
    """Two layers, between which a forward makes tensors; integers and unsaved numbers in buffers."""

    order: Tensor
    scale: Tensor

    def __init__(self, made: Forward) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("order", torch.arange(6).flip(0), persistent=False)
        self.register_buffer("scale", torch.full((6,), 3.0))
        self.made = made

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(self.made(x))) * self.scale
        result: Tensor = self.last(y) * self.order[:3]
        return result


def masks() -> dict[str, Tensor]:
    rows = torch.tensor([1, 0, 1, 1, 0, 1])
    return {"first.weight": rows.reshape(6, 1), "first.bias": rows}


@pytest.mark.parametrize("form", ["at once", "read back"])
@pytest.mark.parametrize("name", MADE)
def test_a_plan_without_data_is_for_the_model_with_its_weights(name: str, form: str) -> None:
    torch.manual_seed(0)
    model, x = Making(MADE[name]).eval(), torch.randn(2, 4)
    with torch.device("meta"):
        hollow = Making(MADE[name]).eval()
    plan = plan_speedup(hollow, x.to("meta"), masks())
    assert plan == plan_speedup(model, x, masks())
    plan = Plan.from_json(plan.to_json()) if form == "read back" else plan
    small = materialize(plan, model)
    assert small.first.out_features == 4  # type: ignore[union-attr]
    for batch in (1, 3):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(small(x), apply_masks(model, masks())(x))
    wanted = small.state_dict()
    assert all(torch.equal(tensor, wanted[n]) for n, tensor in plan.apply(model.state_dict()).items())
