"""The layers that stand around an operator: along one dimension of a tensor of any rank."""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from torch import Tensor, nn

from speedup.testing.modules import ScaleShift

Kind = Literal["scale", "mix", "deep", "nothing"]
Shape = tuple[int, ...]

HIDDEN = 6


@attrs.frozen
class Layer:
    """A layer along dimension `dim`: a scale and a shift per index, a linear map, or two of them."""

    kind: Kind
    dim: int = 0

    def build(self, shape: Shape) -> nn.Module:
        """The layer for tensors of `shape`, which it keeps."""
        if not shape or self.kind == "nothing":
            return nn.Identity()
        dim = self.dim % len(shape)
        match self.kind:
            case "scale":
                return ScaleShift(*(n if d == dim else 1 for d, n in enumerate(shape)))
            case "mix":
                return AlongDim(dim, nn.Linear(shape[dim], shape[dim]))
            case "deep":
                return AlongDim(dim, perceptron(shape[dim], shape[dim]))


class AlongDim(nn.Module):
    """A layer that works on the last dimension, applied to dimension `dim`.

    The result is a copy without gaps: some operators take no other, not even where extents of one hide it.
    """

    def __init__(self, dim: int, layer: nn.Module) -> None:
        super().__init__()
        self.dim = dim
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = self.layer(x.movedim(self.dim, -1))
        return moved.movedim(-1, self.dim).clone(memory_format=torch.contiguous_format)


class Head(nn.Module):
    """All that a sample holds through two linear layers; of a vector or a number, all of it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layers = perceptron(torch.Size(shape[1:] if len(shape) > 1 else shape).numel(), 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers(x.flatten(1) if x.ndim > 1 else x.reshape(-1))
        return scores


def perceptron(features: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, out))
