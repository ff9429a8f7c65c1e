"""Modules that read numbers from tensors: of the model's state, or of what they are given."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

How = Literal["scale", "bound", "shift"]


class ItemNumber(nn.Module):
    """`x` times, above, or plus a number that a buffer holds, or with `trained` a parameter."""

    number: Tensor

    def __init__(self, how: How, value: float, trained: bool = False) -> None:
        super().__init__()
        self.how = how
        if trained:
            self.number = nn.Parameter(torch.full((1,), value))
        else:
            self.register_buffer("number", torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        number = self.number.item()
        match self.how:
            case "scale":
                return x * number
            case "bound":
                return x.clamp(min=number)
            case "shift":
                return x + number


class PeakScale(nn.Module):
    """Divided by the largest size of any of its values, which is read as a number."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.abs().max().item() + 1.0)
