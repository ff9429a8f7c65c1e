"""Masks as users bring them: {module path: {"weight": mask of its shape}}, ones kept, zeros removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

Masks: TypeAlias = dict[str, dict[str, Tensor]]
Recipe: TypeAlias = Callable[[nn.Module], Masks]
Select: TypeAlias = Callable[[str, nn.Module], bool]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def l1_half_masks(model: nn.Module, fraction: float = 0.5) -> Masks:
    """The recipe R1: in every ungrouped convolution, each on its own, the filters of least L1 norm masked.

    `fraction` of the filters is masked, rounded down; biases stay alive. Masks are in the weight's dtype
    and device.
    """
    return {
        name: {"weight": _row_mask(module.weight, _least_l1_rows(module.weight, fraction))}
        for name, module in model.named_modules()
        if isinstance(module, _CONVOLUTIONS) and module.groups == 1
    }


def random_row_masks(model: nn.Module, fraction: float, seed: int, select: Select | None = None) -> Masks:
    """Random output rows masked in every convolution, grouped ones too, and every linear layer.

    `fraction` of the rows is masked, rounded down; biases stay alive. `select(path, module)` narrows the
    choice.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        name: {"weight": _row_mask(module.weight, _random_rows(module.weight, fraction, generator))}
        for name, module in model.named_modules()
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear)) and (select is None or select(name, module))
    }


def _row_mask(weight: Tensor, masked_rows: Tensor) -> Tensor:
    mask = torch.ones_like(weight, requires_grad=False)
    mask[masked_rows] = 0
    return mask


def _least_l1_rows(weight: Tensor, fraction: float) -> Tensor:
    norms = weight.detach().abs().flatten(1).sum(1)
    return torch.argsort(norms, stable=True)[: int(fraction * len(norms))]


def _random_rows(weight: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    rows = len(weight)
    return torch.randperm(rows, generator=generator)[: int(fraction * rows)].to(weight.device)
