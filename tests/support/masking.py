"""Masks as users bring them: {module path: {"weight": mask of its shape}}, ones kept, zeros removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Masks: TypeAlias = dict[str, dict[str, Tensor]]
Recipe: TypeAlias = Callable[[nn.Module], Masks]
Select: TypeAlias = Callable[[str, nn.Module], bool]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# The dimension of the weight that holds a layer's outputs, by class.
_OUTPUT_DIMS: Mapping[type[nn.Module], int] = dict.fromkeys((*_CONVOLUTIONS, nn.Linear), 0)


def rows(layer: nn.Module, *masked: int, dim: int = 0) -> dict[str, Tensor]:
    """Masks of `masked` in all own parameters of a layer, in matrices and the like along `dim`."""
    masks = {name: torch.ones_like(p) for name, p in layer.named_parameters(recurse=False)}
    for mask in masks.values():
        mask.index_fill_(dim if mask.ndim > 1 else 0, torch.tensor(masked, dtype=torch.long), 0)
    return masks


def filters(layer: Any, *masked: int) -> dict[str, Tensor]:
    """Masks of `masked` in the weight of a layer; biases stay alive."""
    return {"weight": _row_mask(layer.weight, torch.tensor(masked, dtype=torch.long))}


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


def random_row_and_bias_masks(
    model: nn.Module, seed: int, more: Mapping[type[nn.Module], int] = MappingProxyType({})
) -> Masks:
    """Three to five tenths of the output rows masked, at random, in every convolution and linear layer.

    Grouped convolutions count too, and layers that only lend their weight to a functional call; not those
    whose weight is computed. Of the masked rows' biases a random half is masked, the others stay alive.
    `more` maps further classes of layers to the dimension of their `weight` that holds the outputs.
    """
    generator = torch.Generator().manual_seed(seed)
    dims = {**_OUTPUT_DIMS, **more}
    masks: Masks = {}
    for name, module in model.named_modules():
        dim = next((dims[kind] for kind in type(module).__mro__ if kind in dims), None)
        weight, bias = (module._parameters.get(local) for local in ("weight", "bias"))
        if dim is None or weight is None:
            continue
        rows = weight.transpose(0, dim)
        fraction = 0.3 + 0.2 * float(torch.rand((), generator=generator))
        masked = _random_rows(rows, fraction, generator)
        masks[name] = {"weight": _row_mask(rows, masked).transpose(0, dim)}
        if bias is not None:
            coins = torch.rand(len(masked), generator=generator).to(masked.device)
            masks[name]["bias"] = _row_mask(bias, masked[coins < 0.5])
    return masks


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
