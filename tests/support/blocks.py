"""Small models that use one feature each, and a table of masks and shapes to expect."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from attrs import field, frozen
from torch import Tensor, nn
from torch.nn.utils import prune

Kept = Mapping[str, tuple[int, tuple[int, ...]]]


@frozen
class Case:
    """A model, its input, dropped (dimension, indices) by parameter, and shapes afterwards."""

    name: str
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    drop: Kept
    shapes: Mapping[str, tuple[int, ...]]
    other: tuple[int, ...] | None = None
    vocabulary: int = 0
    report: str = field(default="")


def rows(*indices: int) -> tuple[int, tuple[int, ...]]:
    """Rows (dimension 0) to drop."""
    return 0, indices


def columns(*indices: int) -> tuple[int, tuple[int, ...]]:
    """Columns (dimension 1) to drop."""
    return 1, indices


def seq(*layers: nn.Module) -> Callable[[], nn.Module]:
    """A sequential model; the layers are made once and get their values from the test."""
    return lambda: nn.Sequential(*layers)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(10, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.embed(x)
        return self.head(F.relu(self.mix(embedded)) + embedded)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = self.narrow(F.relu(self.wide(x)))
        return x


@dataclasses.dataclass
class Output:
    logits: Tensor
    extra: dict[str, Any]


class Structured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Output:
        logits = self.head(self.body(x).relu())
        return Output(logits, {"pair": (logits * 2, None), "count": 3})


class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.mix = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=2, padding=1)
        self.leave = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.enter(x).chunk(2, 1)
        x = self.mix(torch.cat([second, F.relu(first)], 1))
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return self.leave(x.reshape(batch, channels, height, width))


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.leave(x * gate)


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.scale = nn.Parameter(torch.empty(8, 4)), nn.Parameter(torch.empty(8))
        self.leave = nn.Parameter(torch.empty(2, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, self.enter) * self.scale), self.leave)


class FunctionalDepthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.kernel = nn.Parameter(torch.empty(8, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        return self.leave(F.conv2d(x, self.kernel, padding=1, groups=x.shape[1]))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.leave = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.leave(F.relu(x + self.norm(self.inner(x))))


class Attention(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 12) for _ in range(3))
        self.leave, self.fused = nn.Linear(12, 8), fused

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = (
            layer(x).view(batch, length, -1, 4).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query @ key.transpose(-1, -2) * 0.5).softmax(-1) @ value
        return self.leave(mixed.transpose(1, 2).flatten(2))


class Twin(nn.Module):
    """`cat([x, x])`."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).tanh()
        return self.leave(torch.cat([x, x], -1))


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class Cut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(x)
        half = x.shape[1] // 2
        left, right = x.split(half, 1)
        return self.left(left), self.right(right)


def pruned() -> nn.Module:
    """A convolution under `torch.nn.utils.prune`; the masks are in the model."""
    model: Any = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 3, 3, 3) + 1)
    prune.ln_structured(model[0], "weight", 0.5, 2, 0)
    return model


_FOUR = rows(0, 1, 2, 3)
_IMAGE = (2, 3, 9, 9)


def _padded(mode: Literal["zeros", "reflect", "replicate", "circular"]) -> Callable[[], nn.Module]:
    first = nn.Conv2d(3, 8, 3, padding=1, padding_mode=mode)
    return seq(first, nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1, padding_mode=mode))


CASES = (
    Case(
        "conv1d",
        seq(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.SiLU(), nn.Conv1d(8, 4, 3)),
        (2, 3, 20),
        {"0.weight": _FOUR},
        {"0.weight": (4, 3, 3), "1.weight": (4,), "3.weight": (4, 4, 3)},
        (2, 3, 11),
    ),
    Case(
        "conv1d, padded",
        seq(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.SiLU(), nn.Conv1d(8, 4, 3, padding=1)),
        (2, 3, 20),
        {"0.weight": _FOUR},
        {"0.weight": (5, 3, 3), "3.weight": (4, 5, 3)},
        (2, 3, 11),
        report="carry",
    ),
    Case(
        "conv3d",
        seq(nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.SiLU(), nn.Conv3d(8, 4, 3, padding=1)),
        (2, 3, 6, 6, 6),
        {"0.weight": _FOUR},
        {"0.weight": (5, 3, 3, 3, 3)},
    ),
    Case(
        "transposed 1d",
        seq(nn.ConvTranspose1d(3, 8, 3), nn.BatchNorm1d(8), nn.SiLU(), nn.ConvTranspose1d(8, 4, 3)),
        (2, 3, 5),
        {"0.weight": columns(0, 1, 2)},
        {"0.weight": (3, 6, 3), "3.weight": (6, 4, 3)},
        (2, 3, 9),
    ),
    Case(
        "transposed 2d",
        seq(
            nn.ConvTranspose2d(3, 8, 3, stride=2),
            nn.SiLU(),
            nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1),
        ),
        (2, 3, 5, 5),
        {"0.weight": columns(0, 1, 2)},
        {"0.weight": (3, 6, 3, 3)},
        (2, 3, 7, 4),
    ),
    Case(
        "transposed 3d, grouped",
        seq(nn.ConvTranspose3d(4, 8, 3, groups=2), nn.SiLU(), nn.Conv3d(8, 4, 3)),
        (2, 4, 5, 5, 5),
        {"0.weight": columns(0, 1)},
        {"0.weight": (4, 2, 3, 3, 3)},
    ),
    Case(
        "zero padding",
        _padded("zeros"),
        _IMAGE,
        {"0.weight": _FOUR},
        {"0.weight": (5, 3, 3, 3)},
        (2, 3, 12, 7),
    ),
    Case(
        "reflect padding",
        _padded("reflect"),
        _IMAGE,
        {"0.weight": _FOUR},
        {"0.weight": (4, 3, 3, 3)},
        (2, 3, 12, 7),
    ),
    Case(
        "replicate padding",
        _padded("replicate"),
        _IMAGE,
        {"0.weight": _FOUR},
        {"0.weight": (4, 3, 3, 3)},
        (2, 3, 12, 7),
    ),
    Case(
        "circular padding",
        _padded("circular"),
        _IMAGE,
        {"0.weight": _FOUR},
        {"0.weight": (4, 3, 3, 3)},
        (2, 3, 12, 7),
    ),
    Case(
        "F.pad with zeros",
        seq(nn.Conv2d(3, 8, 3), nn.ZeroPad2d(1), nn.Conv2d(8, 4, 3)),
        _IMAGE,
        {"0.weight": _FOUR},
        {"0.weight": (5, 3, 3, 3)},
        (2, 3, 12, 7),
    ),
    Case(
        "instance norm",
        seq(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.SiLU(), nn.Conv2d(8, 4, 3)),
        _IMAGE,
        {"0.weight": _FOUR},
        {"0.weight": (4, 3, 3, 3), "1.weight": (4,)},
    ),
    Case(
        "group norm, whole groups",
        seq(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.SiLU(), nn.Conv2d(8, 4, 3)),
        _IMAGE,
        {"0.weight": _FOUR},
        {"0.weight": (4, 3, 3, 3), "1.weight": (4,)},
    ),
    Case(
        "group norm, half a group",
        seq(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.SiLU(), nn.Conv2d(8, 4, 3)),
        _IMAGE,
        {"0.weight": rows(0, 1, 2)},
        {"0.weight": (6, 3, 3, 3)},
        report="group_norm",
    ),
    Case(
        "layer norm and feed-forward",
        seq(nn.LayerNorm(6), nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6)),
        (2, 5, 6),
        {"1.weight": _FOUR},
        {"0.weight": (6,), "1.weight": (8, 6), "3.weight": (6, 8)},
        (2, 9, 6),
    ),
    Case(
        "rms norm keeps its width",
        seq(nn.Linear(4, 8), nn.RMSNorm(8), nn.Linear(8, 3)),
        (2, 4),
        {"0.weight": rows(0, 1)},
        {"0.weight": (8, 4)},
        report="rms_norm",
    ),
    Case(
        "prelu",
        seq(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 4, 3)),
        _IMAGE,
        {"0.weight": rows(0, 1, 2)},
        {"1.weight": (5,), "2.weight": (4, 5, 3, 3)},
    ),
    Case(
        "prelu with one slope",
        seq(nn.Conv2d(3, 8, 3), nn.PReLU(), nn.Conv2d(8, 4, 3)),
        _IMAGE,
        {"0.weight": rows(0, 1, 2)},
        {"1.weight": (1,), "2.weight": (4, 5, 3, 3)},
    ),
    Case(
        "pixel shuffle",
        seq(nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.Conv2d(2, 4, 3)),
        _IMAGE,
        {"0.weight": _FOUR, "0.bias": _FOUR},
        {"0.weight": (4, 3, 3, 3), "2.weight": (4, 1, 3, 3)},
    ),
    Case(
        "max pool",
        seq(nn.Conv2d(3, 8, 3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 4, 3)),
        (2, 3, 12, 12),
        {"0.weight": _FOUR},
        {"0.weight": (4, 3, 3, 3)},
    ),
    Case(
        "average pool that counts its padding",
        seq(nn.Conv2d(3, 8, 3), nn.AvgPool2d(3, 1, 1), nn.Conv2d(8, 4, 3)),
        _IMAGE,
        {"0.weight": _FOUR},
        {"0.weight": (8, 3, 3, 3)},
        report="avg_pool2d",
    ),
    Case(
        "average pool inside only",
        seq(nn.Conv2d(3, 8, 3), nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.Conv2d(8, 4, 3)),
        _IMAGE,
        {"0.weight": _FOUR},
        {"0.weight": (4, 3, 3, 3)},
    ),
    Case(
        "upsampling",
        seq(nn.Conv2d(3, 8, 3), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 4, 3)),
        _IMAGE,
        {"0.weight": _FOUR},
        {"0.weight": (4, 3, 3, 3)},
    ),
    Case(
        "embedding columns",
        seq(nn.Embedding(10, 8), nn.Linear(8, 4)),
        (2, 5),
        {"0.weight": columns(0, 1)},
        {"0.weight": (10, 6), "1.weight": (4, 6)},
        vocabulary=10,
    ),
    Case(
        "tied embedding",
        Tied,
        (2, 5),
        {"embed.weight": columns(0, 1), "mix.weight": rows(0, 1), "mix.bias": rows(0, 1)},
        {"embed.weight": (10, 6), "mix.weight": (6, 6)},
        vocabulary=10,
    ),
    Case(
        "module called twice",
        Twice,
        (2, 4, 5, 5),
        {"wide.weight": rows(0, 1), "wide.bias": rows(0, 1)},
        {"wide.weight": (6, 4, 1, 1), "narrow.weight": (4, 6, 1, 1)},
    ),
    Case(
        "structured output",
        Structured,
        (2, 4),
        {"body.weight": rows(0, 1, 2)},
        {"body.weight": (5, 4), "head.weight": (2, 5)},
    ),
    Case(
        "chunk, concat, groups and shuffle",
        Shuffle,
        (2, 4, 6, 6),
        {"enter.weight": rows(0, 1, 4, 5), "enter.bias": rows(0, 1, 4, 5)},
        {"enter.weight": (4, 4, 1, 1), "mix.weight": (8, 2, 3, 3)},
        (2, 4, 7, 9),
    ),
    Case(
        "multiplication gate",
        Gate,
        (2, 3, 6, 6),
        {"enter.weight": rows(0, 1, 4, 5), "enter.bias": rows(0, 1, 4, 5)},
        {"enter.weight": (4, 3, 3, 3), "excite.weight": (4, 2, 1, 1)},
        (2, 3, 9, 9),
    ),
    Case(
        "residual add of conflicting masks",
        Residual,
        (2, 3, 7, 7),
        {"enter.weight": rows(0, 1, 2), "inner.weight": rows(1, 2, 3)},
        {"enter.weight": (7, 3, 3, 3), "inner.weight": (7, 7, 3, 3)},
        (2, 3, 9, 5),
        report="coupled",
    ),
    Case(
        "depthwise with a multiplier",
        seq(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=8, padding=1), nn.Conv2d(16, 4, 1)),
        (2, 3, 6, 6),
        {"0.weight": rows(0, 1, 4), "0.bias": rows(0, 1, 4)},
        {"2.weight": (10, 1, 3, 3)},
    ),
    Case(
        "depthwise",
        seq(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.Conv2d(8, 4, 1)),
        (2, 3, 6, 6),
        {"0.weight": rows(0, 1, 4), "0.bias": rows(0, 1, 4), "2.bias": rows(0, 1, 4)},
        {"2.weight": (5, 1, 3, 3), "3.weight": (4, 5, 1, 1)},
    ),
    Case(
        "depthwise as a function",
        FunctionalDepthwise,
        (2, 3, 6, 6),
        {"enter.weight": rows(0, 1, 4), "enter.bias": rows(0, 1, 4)},
        {"kernel": (5, 1, 3, 3)},
    ),
    Case(
        "grouped, one group goes",
        seq(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.Conv2d(6, 4, 1)),
        (2, 4, 6, 6),
        {"0.weight": _FOUR, "0.bias": _FOUR, "2.weight": rows(0, 1, 2)},
        {"2.weight": (3, 4, 3, 3)},
    ),
    Case(
        "grouped, balanced counts",
        seq(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.Conv2d(6, 4, 1)),
        (2, 4, 6, 6),
        {"0.weight": rows(0, 4, 5), "0.bias": rows(0, 4, 5)},
        {"0.weight": (6, 4, 1, 1), "2.weight": (6, 3, 3, 3)},
        report="equal counts",
    ),
    Case(
        "bare parameters",
        Bare,
        (2, 4),
        {"enter": rows(0, 3)},
        {"enter": (6, 4), "scale": (6,), "leave": (2, 6)},
    ),
    Case(
        "concat of a tensor with itself",
        Twin,
        (2, 4),
        {"enter.weight": rows(0, 1)},
        {"enter.weight": (4, 4), "leave.weight": (2, 8)},
    ),
    Case(
        "split by half of the channels",
        Cut,
        (2, 3, 5, 5),
        {"enter.weight": rows(0, 4), "enter.bias": rows(0, 4)},
        {"enter.weight": (6, 3, 1, 1), "left.weight": (3, 3, 1, 1)},
    ),
    Case(
        "attention heads",
        lambda: Attention(False),
        (2, 5, 8),
        {"leave.weight": columns(4, 5, 6, 7)},
        {"query.weight": (8, 8), "value.weight": (8, 8), "leave.weight": (8, 8)},
        (2, 7, 8),
    ),
    Case(
        "fused attention heads",
        lambda: Attention(True),
        (2, 5, 8),
        {"leave.weight": columns(4, 5, 6, 7)},
        {"query.weight": (8, 8), "value.weight": (8, 8), "leave.weight": (8, 8)},
        (2, 7, 8),
    ),
    Case(
        "all masked",
        seq(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)),
        _IMAGE,
        {"0.weight": rows(*range(8)), "2.weight": rows(*range(4))},
        {"0.weight": (1, 3, 3, 3), "2.weight": (4, 1, 3, 3)},
    ),
    Case("torch.nn.utils.prune", pruned, _IMAGE, {}, {"0.weight": (4, 3, 3, 3), "2.weight": (4, 4, 3, 3)}),
    Case(
        "unknown operator",
        lambda: nn.Sequential(nn.Linear(4, 6), Bessel()),
        (2, 7, 4),
        {"0.weight": rows(0, 1)},
        {"0.weight": (6, 4)},
        report="no rule",
    ),
)
