"""What a score is: a function from a model to the importance of each output channel of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from attrs import frozen
from torch import Tensor, nn

from speedup.pruners.channels import ScoredLayer


class Scores(Protocol):
    """Importance of channels; those of least importance go first.

    Called with a copy of the model in eval mode, whose tensors are its own to use, and its layers. Returned
    is, by the name of the weight, a tensor of `layer.channels` finite numbers on any device; a layer that
    cannot be scored is left out. The same arguments give the same scores.
    """

    def __call__(self, model: nn.Module, layers: Sequence[ScoredLayer]) -> Mapping[str, Tensor]: ...


def rows_of(model: nn.Module, layer: ScoredLayer) -> Tensor:
    """(channels, weights per channel) the weights of a layer by output channel, in float64."""
    return model.get_parameter(layer.weight).detach().double().transpose(0, layer.dim).flatten(1)


@frozen
class Norm:
    """The p-norm of each filter: L1 as in Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017."""

    p: float = 1.0

    def __call__(self, model: nn.Module, layers: Sequence[ScoredLayer]) -> Mapping[str, Tensor]:
        return {layer.weight: rows_of(model, layer).norm(self.p, dim=1) for layer in layers}


@frozen
class GeometricMedian:
    """The sum of each filter's distances to all others of its layer: small where others can replace it.

    FPGM: He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
    Acceleration", CVPR 2019.
    """

    def __call__(self, model: nn.Module, layers: Sequence[ScoredLayer]) -> Mapping[str, Tensor]:
        return {layer.weight: _distances(rows_of(model, layer)).sum(1) for layer in layers}


def _distances(rows: Tensor) -> Tensor:
    # Through products of rows, large ones lose the small distances that count here.
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


@frozen
class Slimming:
    """The size of the BatchNorm scale behind each channel; layers without such a BatchNorm have no score.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, who train
    with an L1 penalty on the scales and rank them over all layers (`scope="global"`).
    """

    def __call__(self, model: nn.Module, layers: Sequence[ScoredLayer]) -> Mapping[str, Tensor]:
        scales = {layer.weight: layer.norm for layer in layers if layer.norm}
        return {name: model.get_parameter(norm).detach().double().abs() for name, norm in scales.items()}


@frozen
class Random:
    """Random numbers from [0, 1), the same for the same seed, model and layers."""

    seed: int = 0

    def __call__(self, model: nn.Module, layers: Sequence[ScoredLayer]) -> Mapping[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        return {
            layer.weight: torch.rand(layer.channels, generator=generator, dtype=torch.float64)
            for layer in layers
        }


@frozen
class Normalized:
    """Other scores, those of each layer divided by their L2 norm, so that layers can be compared.

    Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017.
    """

    scores: Scores

    def __call__(self, model: nn.Module, layers: Sequence[ScoredLayer]) -> Mapping[str, Tensor]:
        tiny = torch.finfo(torch.float64).tiny
        found = self.scores(model, layers)
        return {name: one.double() / one.double().norm().clamp(min=tiny) for name, one in found.items()}
