"""A small classifier of images: two residual stages and a head that flattens by a literal."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Stage(nn.Module):
    """A residual block with batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


class ShapeNet(nn.Module):
    """Images (batch, 1, 8, 8) to three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.stages = nn.Sequential(Stage(6), Stage(6))
        self.widen = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(torch.relu(self.stem(x)))
        x = torch.relu(self.widen(x))
        return self.head(x.view(-1, 8 * 4 * 4))
