"""Calls of single layers at other widths than their own, to be timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from speedup.torch_api import ConvNd, ConvTransposeNd

_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, ConvNd) and 1 < module.groups == module.in_channels == module.out_channels


def is_measured(module: nn.Module) -> bool:
    """Whether it is a linear layer, or a convolution without groups or depthwise."""
    if isinstance(module, _CONVOLUTIONS):
        return module.groups == 1 or _is_depthwise(module)
    return isinstance(module, nn.Linear)


def width_of(module: nn.Module) -> int:
    """How many channels a layer that can be measured computes."""
    width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    return int(width)  # type: ignore[arg-type]


def signature(module: nn.Module) -> tuple[object, ...]:
    """What a layer's speed depends on besides its widths and its input."""
    if isinstance(module, nn.Linear):
        return nn.Linear, module.weight.dtype, module.bias is None
    names = ("kernel_size", "stride", "padding", "output_padding", "dilation", "groups", "padding_mode")
    hyper = tuple(getattr(module, name) for name in names)
    return (_convolution(module), module.weight.dtype, module.bias is None, *hyper)


def _convolution(module: nn.Module) -> Callable[..., nn.Module]:
    return next(kind for kind in _CONVOLUTIONS if isinstance(module, kind))


def call_of(module: nn.Module, data: Tensor, width: int) -> Callable[[], object]:
    """A call of a layer like `module` that computes `width` channels, with random weights."""
    weight: Any = module.weight
    made: dict[str, Any] = {"bias": module.bias is not None, "device": weight.device, "dtype": weight.dtype}
    if isinstance(module, nn.Linear):
        layer: nn.Module = nn.Linear(module.in_features, width, **made)
    else:
        layer, data = _convolving(module, data, width, made)
    return lambda: layer(data)


def _convolving(module: Any, data: Tensor, width: int, made: dict[str, Any]) -> tuple[nn.Module, Tensor]:
    names = ["kernel_size", "stride", "padding", "dilation", "padding_mode"]
    if isinstance(module, ConvTransposeNd):
        names.append("output_padding")
    made.update({name: getattr(module, name) for name in names})
    if not _is_depthwise(module):
        return _convolution(module)(module.in_channels, width, **made), data
    axis = data.ndim - module.weight.ndim + 1
    wide = torch.randn((*data.shape[:axis], width, *data.shape[axis + 1 :]), dtype=data.dtype).to(data.device)
    return _convolution(module)(width, width, groups=width, **made), wide
