"""Convolutions in groups, alone and beside a residual stream: whatever is masked, what is left fits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.support.measure import check_exact

CHANNELS = 8


class Grouped(nn.Module):
    """Images through a convolution in groups, to whose result something else may be added."""

    def __init__(self, groups: int, padding: int, transposed: bool, residual: bool) -> None:
        super().__init__()
        kind = nn.ConvTranspose2d if transposed else nn.Conv2d
        self.enter = nn.Conv2d(3, CHANNELS, 1)
        self.grouped = kind(CHANNELS, CHANNELS, 3, padding=padding, groups=groups)
        self.beside = kind(3, CHANNELS, 3, padding=padding)
        self.leave = nn.Conv2d(CHANNELS, 2, 1)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.grouped(torch.relu(self.enter(x)))
        return self.leave(y + self.beside(x) if self.residual else y)


def rows_masked(model: Grouped, generator: torch.Generator) -> dict[str, Tensor]:
    """Masks of random channels of each layer's results, and of what reads them; biases live on, or go too."""
    masks = {}
    for name in ("enter", "grouped", "beside"):
        weight = model.get_parameter(f"{name}.weight")
        keep = torch.rand(weight.shape[0], generator=generator) > 0.4
        masks[f"{name}.weight"] = keep.double().reshape(-1, 1, 1, 1).expand(weight.shape)
        if torch.rand((), generator=generator) > 0.5 and weight.shape[0] == CHANNELS:
            masks[f"{name}.bias"] = keep.double()
    read = torch.rand(CHANNELS, generator=generator) > 0.3
    masks["leave.weight"] = read.double().reshape(1, -1, 1, 1).expand(model.leave.weight.shape)
    return masks


def images(batch: int, seed: int) -> tuple[Tensor]:
    return (torch.randn(batch, 3, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),)


@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
@pytest.mark.parametrize("groups", [2, CHANNELS], ids=["groups", "depthwise"])
def test_whatever_channels_are_masked_the_small_model_is_exact(
    groups: int, transposed: bool, residual: bool
) -> None:
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        model = Grouped(groups, seed % 2, transposed, residual).double().eval()
        check_exact(model, rows_masked(model, generator), images, name=f"seed {seed}").require_exact(1e-9)
