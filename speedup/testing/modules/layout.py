"""Modules that only move, copy, cut or pad values, and those that cross between layouts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Shuffle(nn.Module):
    """Channel shuffle (ShuffleNet) with every size but the groups taken from `x.shape`."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        grouped = x.view(batch, self.groups, channels // self.groups, height, width)
        return grouped.transpose(1, 2).reshape(batch, -1, height, width)


class ChannelSlice(nn.Module):
    """`x[:, start:stop:step]`, or the same of the last dimension."""

    def __init__(self, start: int, stop: int, step: int = 1, last: bool = False) -> None:
        super().__init__()
        self.index = slice(start, stop, step)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.index] if self.last else x[:, self.index]


class ChannelPad(nn.Module):
    """New constant channels before and after those of (N, C, H, W), as in ResNet's option A."""

    def __init__(self, before: int, after: int, value: float = 0.0) -> None:
        super().__init__()
        self.widths = (0, 0, 0, 0, before, after)
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, self.widths, value=self.value)


class Pad(nn.Module):
    """`F.pad` of the trailing dimensions; a negative width crops."""

    def __init__(self, *widths: int, value: float = 0.0) -> None:
        super().__init__()
        self.widths = widths
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, self.widths, value=self.value)


class Focus(nn.Module):
    """YOLO's space-to-depth: four strided slices of (N, C, 2h, 2w) side by side."""

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return torch.cat(corners, dim=1)


class SwapSpace(nn.Module):
    """The last two dimensions exchanged."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(-2, -1)


class View(nn.Module):
    """A reshape to sizes known when the module was written: (N, ...) -> (N, *sizes)."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.sizes)


class GlobalMean(nn.Module):
    """(N, C, H, W) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class ToTokens(nn.Module):
    """(N, C, ...) -> (N, positions, C), as a vision transformer does."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class FromTokens(nn.Module):
    """(N, L, C) -> (N, C, L), or (N, C, height, L // height) where a height is given."""

    def __init__(self, height: int | None = None) -> None:
        super().__init__()
        self.height = height

    def forward(self, x: Tensor) -> Tensor:
        signal = x.permute(0, 2, 1)
        if self.height is None:
            return signal
        return signal.reshape(x.shape[0], x.shape[2], self.height, -1)


class TokenMean(nn.Module):
    """(N, L, C) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


class FirstToken(nn.Module):
    """(N, L, C) -> (N, C): what a classifier reads of a class token."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


class TokenMixing(nn.Module):
    """A linear layer over the positions of (N, L, C), as in MLP-Mixer."""

    def __init__(self, length: int, mixed: int) -> None:
        super().__init__()
        self.linear = nn.Linear(length, mixed)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.linear(x.transpose(1, 2)).transpose(1, 2)
        return mixed
