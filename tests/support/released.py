"""The models whose plans and small models releases have written: `tests/data/version_*` hold them.

Never change these, and never write the files again: they stand for those that users keep.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from speedup import Plan, plan_speedup


class Branching(nn.Module):
    """Large images are pooled, a second input scales what is returned; some sizes cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        if x.shape[-2] % 3 == 1 and x.sum() > 0:
            x = x + 1
        x = torch.relu(self.first(x))
        if x.shape[-1] > 10:
            x = torch.max_pool2d(x, 2)
        x = self.last(x)
        return x if gain is None else x * gain


class Inverted(nn.Module):
    """A depthwise convolution with padding, in front of which channels are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.look = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=8)
        self.narrow = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.narrow(torch.sigmoid(self.look(self.widen(x))))
        return result


class Adding(nn.Module):
    """A branch whose masked channels are constants, added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.branch = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.narrow = nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.widen(x))
        out = self.norm(self.branch(x))
        out += x
        result: Tensor = self.narrow(out)
        return result


class Filling(nn.Module):
    """A norm over groups of channels of which some are constants."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.branch = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 32, 3, padding=1)
        self.norm, self.narrow = nn.GroupNorm(4, 32), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.narrow(torch.relu(self.norm(self.branch(torch.relu(self.widen(x))))))
        return result


class Counting(nn.Module):
    """Counts along rows, on the device that it is on; a buffer is in no state dict, another in each."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Conv2d(3, 48, 1), nn.Conv2d(48, 4, 1)
        self.register_buffer("scale", torch.full((48, 1, 1), 2.0), persistent=False)
        self.register_buffer("shift", torch.full((4, 1, 1), 3.0))

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[-1], device=x.device)
        scale, shift = self.get_buffer("scale"), self.get_buffer("shift")
        result: Tensor = self.narrow(torch.relu(self.widen(x)) * scale * places) + shift
        return result


def model_of(version: int) -> nn.Module:
    """The model of a version, with the weights that it was planned with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if version == 1:
            return nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 5)
            )
        models: dict[int, type[nn.Module]] = {2: Branching, 3: Inverted, 4: Adding, 5: Filling, 6: Counting}
        return models[version]()


def masks_of(version: int) -> dict[str, Tensor]:
    """The masks of a version."""
    rows = torch.tensor([1, 0, 1, 1, 0, 1, 1, 1])
    if version == 1:
        return {"0.weight": rows.reshape(8, 1, 1, 1)}
    if version == 4:
        kept = torch.tensor([1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 1])
        return {"branch.weight": kept.reshape(16, 1, 1, 1)}
    if version == 5:
        kept = torch.tensor([1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 1]).repeat(2)
        return {"branch.weight": kept.reshape(32, 1, 1, 1)}
    if version == 6:
        kept = torch.tensor([1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 1]).repeat(3)
        return {"widen.weight": kept.reshape(48, 1, 1, 1), "widen.bias": kept}
    if version == 3:
        return {"widen.weight": torch.tensor([0, 0, 0, 1, 0, 1, 0, 0]).reshape(8, 1, 1, 1)}
    return {"first.weight": rows.reshape(8, 1, 1, 1), "first.bias": rows}


def calls_of(version: int) -> tuple[Any, ...]:
    """The example of a version, then the others."""
    shape = (2, 3, 8, 8) if version < 4 else (2, 3, 32, 32)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return (
        (x,) if version != 2 else (x, {"x": x, "gain": torch.tensor([1.0, 2.0, 0.5, -1.0]).reshape(4, 1, 1)})
    )


def planned_today(version: int) -> Plan:
    """The plan that this release makes for a version's model."""
    x, *others = calls_of(version)
    return plan_speedup(model_of(version), x, masks_of(version), others=others)


class Normed(nn.Module):
    """A LayerNorm over features some of which are constant: its forward is rewritten, with a helper."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.norm(self.first(x).view(-1, 8)))
        return result


class Attending(nn.Module):
    """Attention in heads that need not fill the embedding once some of them went."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return result


PICKLED = ("normed", "attending")


def pickled_model(name: str) -> nn.Module:
    """The model whose small one was pickled, with the weights that it was planned with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Normed() if name == "normed" else Attending()
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        return model.eval()


def pickled_masks(name: str) -> dict[str, Tensor]:
    """The masks whose small model was pickled."""
    if name == "normed":
        rows = torch.tensor([1, 0, 1, 1, 0, 1, 1, 1])
        return {"first.weight": rows.reshape(8, 1), "first.bias": rows, "norm.weight": rows}
    kept = torch.tensor([1, 1, 0, 0, 1, 1, 1, 0]).repeat(3)
    return {"attention.in_proj_weight": kept.reshape(24, 1), "attention.in_proj_bias": kept}


def pickled_example(name: str) -> Tensor:
    """What it was planned with."""
    shape = (2, 4) if name == "normed" else (2, 5, 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
