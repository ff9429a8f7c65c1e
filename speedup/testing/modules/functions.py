"""Modules around one call of a torch function, most of them such as no pruning tool has a rule for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

POINTWISE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "square": torch.square,
    "cos": torch.cos,
    "one minus": lambda x: 1.0 - x,
    "half of sum with self": lambda x: (x + x) / 2.0,
    "clamp": lambda x: x.clamp(min=-0.25, max=2.0),
    "where positive": lambda x: torch.where(x > 0.125, x, -0.5 * x.new_ones(())),
    "maximum": lambda x: torch.maximum(x, 0.3 * x),
}

ALONG: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "cumsum": torch.cumsum,
    "flip": lambda x, dim: torch.flip(x, (dim,)),
    "roll": lambda x, dim: torch.roll(x, 1, dim),
    "softmax": torch.softmax,
    "log_softmax": torch.log_softmax,
    "sort": lambda x, dim: torch.sort(x, dim).values,
    "subtract mean": lambda x, dim: x - x.mean(dim, keepdim=True),
}

FOLDS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "sum": lambda x, dim: x.sum(dim, keepdim=True),
    "amax": lambda x, dim: x.amax(dim, keepdim=True),
    "mean": lambda x, dim: x.mean(dim, keepdim=True),
    "logsumexp": lambda x, dim: torch.logsumexp(x, dim, keepdim=True),
    "var": lambda x, dim: x.var(dim, unbiased=False, keepdim=True),
}


class Map(nn.Module):
    """One of `POINTWISE`; several of them make a non-zero constant out of zero."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return POINTWISE[self.name](x)


class Along(nn.Module):
    """One of `ALONG`: a function along a dimension that keeps the shape."""

    def __init__(self, name: str, dim: int) -> None:
        super().__init__()
        self.name = name
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return ALONG[self.name](x, self.dim)


class Fold(nn.Module):
    """`x` plus one of `FOLDS`: a reduction over a dimension, broadcast back into it."""

    def __init__(self, name: str, dim: int) -> None:
        super().__init__()
        self.name = name
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x + FOLDS[self.name](x, self.dim)


class Normalize(nn.Module):
    """`F.normalize` along a dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=self.dim, eps=1e-2)
