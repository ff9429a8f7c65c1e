"""Convolutions and norms in groups, alone and beside others: whatever is masked, what is left fits."""

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


class CalledTwice(nn.Module):
    """One convolution in groups for the results of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.beside = nn.Conv2d(3, CHANNELS, 1), nn.Conv2d(3, CHANNELS, 1)
        self.grouped = nn.Conv2d(CHANNELS, CHANNELS, 3, groups=2)
        self.leave = nn.Conv2d(CHANNELS, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.grouped(torch.relu(self.enter(x)))
        return self.leave(torch.relu(y) * self.grouped(self.beside(x)))


class ScaledByWeight(nn.Module):
    """A convolution in groups whose weight is read by something else too."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, CHANNELS, 1)
        self.grouped = nn.Conv2d(CHANNELS, CHANNELS, 3, groups=2)
        self.leave = nn.Conv2d(CHANNELS, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.grouped(torch.relu(self.enter(x))) / self.grouped.weight.norm()
        return self.leave(torch.relu(y))


class NormedInGroups(nn.Module):
    """A norm of channels in groups between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, CHANNELS, 1)
        self.grouped = nn.GroupNorm(2, CHANNELS)
        self.leave = nn.Conv2d(CHANNELS, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.relu(self.grouped(self.enter(x))))


def rows_masked(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Masks of random channels of each layer's results, and of what reads them; biases live on, or go too."""
    masks = {}
    for name in (n for n in ("enter", "grouped", "beside") if hasattr(model, n)):
        weight = model.get_parameter(f"{name}.weight")
        keep = torch.rand(weight.shape[0], generator=generator) > 0.4
        masks[f"{name}.weight"] = keep.double().reshape(-1, *[1] * (weight.ndim - 1)).expand(weight.shape)
        if torch.rand((), generator=generator) > 0.5 and weight.shape[0] == CHANNELS:
            masks[f"{name}.bias"] = keep.double()
    read = torch.rand(CHANNELS, generator=generator) > 0.3
    masks["leave.weight"] = (
        read.double().reshape(1, -1, 1, 1).expand(model.get_parameter("leave.weight").shape)
    )
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


@pytest.mark.parametrize("kind", [CalledTwice, ScaledByWeight, NormedInGroups])
def test_groups_that_are_shared_or_normed_stay_exact(kind: type[nn.Module]) -> None:
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        model = kind().double().eval()
        if isinstance(model, NormedInGroups):
            nn.init.uniform_(model.grouped.weight, 0.5, 2.0)
            nn.init.normal_(model.grouped.bias)
        check_exact(model, rows_masked(model, generator), images, name=f"seed {seed}").require_exact(1e-9)
