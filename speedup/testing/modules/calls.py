"""Modules that are called in several ways: with a second argument or without, for one task or another."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OptionalInput(nn.Module):
    """`left(x)`, and where there is a second input, what `right` makes of it added or multiplied."""

    def __init__(self, left: nn.Module, right: nn.Module, gate: bool = False) -> None:
        super().__init__()
        self.left = left
        self.right = right
        self.gate = gate

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        left: Tensor = self.left(x)
        if y is None:
            return left
        right: Tensor = self.right(y)
        return left * torch.sigmoid(right) if self.gate else left + right


class Tasks(nn.Module):
    """One trunk, and behind it a module for each task, which the second argument names."""

    def __init__(self, trunk: nn.Module, **tasks: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.tasks = nn.ModuleDict(tasks)

    def forward(self, x: Tensor, y: str = "first") -> Tensor:
        result: Tensor = self.tasks[y](self.trunk(x))
        return result
