"""A small masked network for each lowering, in which that one is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from tests.support.masked_model import MaskedModel, masked_model, normal
from tests.support.masking import random_row_masks

_WIDE = 32


class Residual(nn.Module):
    """A branch that is added to its input, in place as torchvision does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(_WIDE, _WIDE, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(_WIDE)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.second(torch.relu(self.first(x))))
        out += x
        return torch.relu(out)


class Shuffle(nn.Module):
    """Channels of groups in turn, as ShuffleNet writes it."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, 4, c // 4, h, w).transpose(1, 2).contiguous().view(b, c, h, w)


def _around(channels: int, groups: int = 1) -> nn.Module:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=groups)


def _is_masked(layers: tuple[str, ...], name: str, layer: nn.Module) -> bool:
    return name in layers


def _network(*layers: nn.Module, masked: tuple[str, ...], wide: int = _WIDE) -> MaskedModel:
    """`layers` between two others; half of the rows of those `masked` are."""
    model = nn.Sequential(
        nn.Conv2d(3, wide, 1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 5)
    )
    recipe = partial(random_row_masks, fraction=0.5, seed=3, select=partial(_is_masked, masked))
    return masked_model(model, recipe, normal(3, 32, 32))


def _bordered(stride: int) -> MaskedModel:
    wide = 2 * _WIDE
    first, last = nn.Conv2d(wide, wide, 1), nn.Conv2d(wide, wide, 1)
    around = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide)
    return _network(first, nn.SiLU(), around, nn.SiLU(), last, masked=("1",), wide=wide)


def _shuffled() -> MaskedModel:
    return _network(_around(_WIDE), nn.ReLU(), Shuffle(), _around(_WIDE), masked=("1",))


def _summed() -> MaskedModel:
    return _network(Residual(), masked=("1.first", "1.second"))


class Timed(nn.Module):
    """A layer, to which is added what diffusion models know of the time, and a norm over groups."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = _around(_WIDE), nn.GroupNorm(4, _WIDE)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.layer(x) + x.mean((2, 3), keepdim=True).tanh())
        return result


def _normed() -> MaskedModel:
    return _network(Timed(), nn.SiLU(), _around(_WIDE), masked=("1.layer",))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(wide, 8, 1), nn.Conv2d(8, wide, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return scale * x


def _gated() -> MaskedModel:
    wide = 6 * _WIDE
    first, last = nn.Conv2d(_WIDE, wide, 1), nn.Conv2d(wide, _WIDE, 1)
    return _network(first, nn.SiLU(), _around(wide, wide), nn.SiLU(), Gate(wide), last, masked=("1",))


LOWERED: Mapping[str, Callable[[], MaskedModel]] = {
    "carriers": partial(_bordered, 2),
    "shuffles": _shuffled,
    "rows": _summed,
    "fills": _normed,
    "gates": _gated,
    "maps": partial(_bordered, 1),
}
"""By lowering, what makes the network."""
