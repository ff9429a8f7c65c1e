"""What masks ask for, and what of it is held back, in all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from speedup import make_masks, materialize, plan_speedup
from speedup.ir.report import Asked
from speedup.pruners import Norm

X = torch.randn(2, 3, 8, 8)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)
    )


def asked(model: nn.Module, x: Any, masks: Any = None, **options: Any) -> Asked:
    found = plan_speedup(model, x, masks, **options).report.asked
    assert found is not None
    return found


WEIGHTS = 8 * 27 + 6 * 72 + 5 * 96


def test_without_masks_nothing_is_asked_for() -> None:
    assert asked(net(), X) == Asked(0, WEIGHTS, 0, 0, 0, 0)


def test_masked_filters_are_zeros_in_whole_slices() -> None:
    keep = torch.tensor([1, 1, 0, 1, 0, 1, 1, 0]).reshape(8, 1, 1, 1)
    found = asked(net(), X, {"0.weight": keep, "0.bias": keep.reshape(8)})
    assert found == Asked(2, WEIGHTS, 3 * 27, 3 * 27, 0, 0)


def test_zeros_in_rows_and_in_columns_count_once() -> None:
    mask = torch.ones(5, 96)
    mask[1], mask[:, 7] = 0, 0
    found = asked(net(), X, {"5.weight": mask})
    assert (found.zero, found.sliced) == (96 + 4, 96 + 4)


def test_zeros_between_others_are_in_no_slice() -> None:
    mask = torch.ones(5, 96)
    mask[torch.arange(5), torch.arange(5)] = 0
    found = asked(net(), X, {"5.weight": mask})
    assert (found.zero, found.sliced) == (5, 0)


def test_zeros_that_stand_in_the_weights_count_without_masks() -> None:
    model = net()
    with torch.no_grad():
        model.get_parameter("0.weight")[3] = 0
        model.get_parameter("0.bias")[3] = 0
    assert asked(model, X) == Asked(0, WEIGHTS, 27, 27, 0, 0)


def test_weights_that_hooks_compute_count_as_they_are_read() -> None:
    model = net()
    prune.ln_structured(model[0], "weight", 0.5, n=1, dim=0)
    found = asked(model, X)
    assert (found.masks, found.zero, found.sliced) == (0, 4 * 27, 4 * 27)


def test_weights_without_numbers_have_the_zeros_of_their_masks() -> None:
    keep = torch.arange(8).ge(3).reshape(8, 1, 1, 1)
    with torch.device("meta"):
        model = net()
    found = asked(model, torch.empty(X.shape, device="meta"), {"0.weight": keep})
    assert (found.zero, found.sliced) == (3 * 27, 3 * 27)


def test_masked_outputs_are_held_back_whole() -> None:
    keep = torch.tensor([1, 0, 1, 0, 1])[:, None]
    found = asked(net(), X, {"5.weight": keep})
    # Two rows and, as the layer's own, their biases.
    assert (found.parameters, found.macs) == (2 * 96 + 2, 2 * 96 * 2)


class Residual(nn.Module):
    """A branch of two layers beside its input, between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + self.down(torch.relu(self.up(x))))


def masks_of_rows(model: nn.Module, **gone: range) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path, rows in gone.items():
        layer: Any = model.get_submodule(path)
        keep = torch.ones(layer.out_features)
        keep[list(rows)] = 0
        found |= {f"{path}.weight": keep[:, None], f"{path}.bias": keep}
    return found


def test_rows_of_a_branch_that_its_stream_needs_are_held_back() -> None:
    model = Residual()
    found = asked(model, torch.randn(2, 4), masks_of_rows(model, down=range(3)), lowerings="none")
    assert (found.parameters, found.macs) == (3 * 16 + 3, 3 * 16 * 2)


def test_columns_that_others_read_are_held_back_too() -> None:
    masks = masks_of_rows(Residual(), first=range(3), up=range(4))
    found = asked(Residual(), torch.randn(2, 4), masks, lowerings="none")
    # The sum needs all of `first`, of which `up` then reads three columns for nothing in its twelve rows.
    assert (found.parameters, found.macs) == (3 * 4 + 3 + 12 * 3, (3 * 4 + 12 * 3) * 2)


def test_what_is_held_back_in_both_dimensions_counts_once() -> None:
    mask = torch.ones(4, 6)
    mask[:2], mask[:, :3] = 0, 0
    found = asked(nn.Linear(6, 4), torch.randn(2, 6), {"weight": mask})
    # Of four rows and six columns two and three are needed.
    assert (found.parameters, found.macs) == (24 - 2 * 3 + 2, (24 - 2 * 3) * 2)


def test_what_was_asked_is_what_layers_need_by_themselves() -> None:
    """Were nothing held back, as where all are masked alike, the plan is what was asked for."""
    model = net()
    masks = make_masks(model, X, Norm(), 0.5)
    plan = plan_speedup(model, X, masks)
    assert plan.report.asked is not None
    assert (plan.report.asked.parameters, plan.report.asked.macs) == (0, 0)
    assert plan.macs_after < plan.macs_before / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bytes_are_those_of_parameters_and_buffers(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 5)).to(dtype)
    x = X.to(dtype)
    plan = plan_speedup(model, x, make_masks(model, x, Norm(), 0.5))
    small = materialize(plan, verify="none")

    def size(of: nn.Module) -> int:
        return sum(t.nbytes for t in (*of.parameters(), *of.buffers()))

    assert plan.report.size == (size(model), size(small))
    assert size(small) < size(model)


def test_a_bias_that_is_made_counts_among_the_bytes() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3, bias=False))
    plan = plan_speedup(model, torch.randn(2, 4), {"0.weight": torch.arange(8).ge(3)[:, None]})
    small = materialize(plan)
    assert small.get_submodule("1").bias is not None
    assert plan.report.size == (4 * (32 + 8 + 24), sum(p.nbytes for p in small.parameters()))
