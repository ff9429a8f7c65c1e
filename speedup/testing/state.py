"""Lively weights: random, with exact zeros and constants that a careless planner would lose.

PyTorch's own initialisation is too tame for a test of equivalence: BatchNorm is the identity,
scales are one, shifts are zero, and no unit is ever dead.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from speedup.torch_api import BatchNorm, InstanceNorm

_NORMS = (BatchNorm, InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

Inputs = tuple[Tensor, ...]


def enliven(model: nn.Module, inputs: Inputs, generator: torch.Generator) -> None:
    """Redraw every parameter in place and fit the running statistics, roughly, to the inputs."""
    seen: set[nn.Parameter] = set()
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter not in seen:
                    seen.add(parameter)
                    parameter.copy_(_draw(module, name, parameter.shape, generator))
        _calibrate(model, inputs, generator)


def _draw(module: nn.Module, name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, dtype=torch.float64, generator=generator)
    if isinstance(module, nn.PReLU):
        return 0.2 * noise
    if isinstance(module, nn.Embedding):
        return noise
    if isinstance(module, _NORMS) and name == "weight":
        return (1.0 + 0.3 * noise) * _signs(shape, generator) * _survivors(shape, 0.15, generator)
    if len(shape) < 2:
        return 0.5 * noise
    if name == "original1":
        # A direction of zeros has none: weight_norm makes it NaN.
        return noise
    fan_in = math.prod(shape[1:])
    # A layer of one or two rows would too often be dead altogether.
    rows = _survivors((shape[0], *(1 for _ in shape[1:])), 0.06 if shape[0] > 2 else 0.0, generator)
    return noise * math.sqrt(1.5 / fan_in) * rows * _survivors(shape, 0.08, generator)


def _survivors(shape: tuple[int, ...], zeros: float, generator: torch.Generator) -> Tensor:
    """Ones, but for a fraction `zeros` of zeros."""
    return (torch.rand(shape, dtype=torch.float64, generator=generator) >= zeros).double()


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Mostly +1, sometimes -1."""
    return 1.0 - 2.0 * (1.0 - _survivors(shape, 0.2, generator))


def _calibrate(model: nn.Module, inputs: Inputs, generator: torch.Generator) -> None:
    """Run the model once, each norm with running statistics taking them from what it is about to read."""

    def observe(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(module, BatchNorm | InstanceNorm)
        assert module.running_mean is not None and module.running_var is not None
        by_channel = args[0].detach().transpose(0, 1).flatten(1)
        mean, variance = by_channel.mean(1), by_channel.var(1, unbiased=False)
        jitter = torch.randn(mean.shape, dtype=torch.float64, generator=generator)
        stretch = torch.rand(mean.shape, dtype=torch.float64, generator=generator)
        module.running_mean.copy_(mean + 0.3 * jitter)
        module.running_var.copy_(variance * (0.5 + stretch) + 0.1)

    handles = [
        module.register_forward_pre_hook(observe)
        for module in model.modules()
        if isinstance(module, BatchNorm | InstanceNorm) and module.running_mean is not None
    ]
    model(*inputs)
    for handle in handles:
        handle.remove()
