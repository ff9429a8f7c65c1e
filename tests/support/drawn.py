"""Inputs in float64, drawn anew at every call from the global generator, which each test finds seeded."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Draw(Protocol):
    """From a batch size to an input."""

    def __call__(self, batch: int = 2) -> Tensor: ...


def doubles(*shape: int) -> Draw:
    """Draws normal numbers of shape (batch, *shape)."""

    def draw(batch: int = 2) -> Tensor:
        return torch.randn(batch, *shape, dtype=torch.float64)

    return draw


def images(batch: int = 2, size: int = 8) -> Tensor:
    """Normal numbers of shape (batch, 3, size, size)."""
    return doubles(3, size, size)(batch)
