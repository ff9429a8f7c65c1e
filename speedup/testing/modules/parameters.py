"""Modules with bare parameters, functional calls on them, and weights that several calls share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class ScaleShift(nn.Module):
    """`x * scale + shift` with parameters of shape `sizes`, as in a layer scale."""

    def __init__(self, *sizes: int, shifted: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(sizes))
        self.shift = nn.Parameter(torch.zeros(sizes)) if shifted else None

    def forward(self, x: Tensor) -> Tensor:
        scaled = x * self.scale
        return scaled if self.shift is None else scaled + self.shift


class BufferShift(nn.Module):
    """`x + offset` where the offset, of shape `sizes`, is a buffer and so cannot be masked."""

    offset: Tensor

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.register_buffer("offset", torch.linspace(-1.0, 1.0, sizes[0]).view(sizes))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offset


class FunctionalLinear(nn.Module):
    """`F.linear` on bare parameters that are not called weight and bias."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(out, features))
        self.offset = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.matrix, self.offset)


class FunctionalConv(nn.Module):
    """`F.conv2d` on a bare parameter, the offset added by hand."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.zeros(out, channels, kernel, kernel))
        self.offset = nn.Parameter(torch.zeros(out, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filters, padding="same") + self.offset


class StandardizedConv(nn.Conv2d):
    """A convolution whose filters are standardised in the forward (Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        deviation = self.weight.std(dim=(1, 2, 3), keepdim=True)
        filters = (self.weight - mean) / (deviation + 0.1)
        result: Tensor = self._conv_forward(x, filters, self.bias)
        return result


class WeightNormed(nn.Module):
    """A layer whose weight has lengths and directions apart (Salimans & Kingma 2016)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = weight_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result


class TiedLinears(nn.Module):
    """Down with a matrix and up again with its transpose, as in a tied autoencoder."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(features, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(self.down(x)), self.down.weight.t())


class SharedWeight(nn.Module):
    """Two linear layers, each with its own bias, that hold one and the same weight."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, features)
        self.second = nn.Linear(features, features)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(torch.tanh(self.first(x)))
        return result


class ClassToken(nn.Module):
    """(N, L, features) -> (N, 1 + L, features): a learned token expanded over the batch."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, features))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)


class PositionEmbedding(nn.Module):
    """Adds a learned (length, features) table, looked up by position, to (N, length, features)."""

    def __init__(self, length: int, features: int) -> None:
        super().__init__()
        self.table = nn.Embedding(length, features)

    def forward(self, x: Tensor) -> Tensor:
        positions: Tensor = self.table(torch.arange(x.shape[1], device=x.device))
        return x + positions


class TiedLanguageModel(nn.Module):
    """Token ids (N, L) -> logits (N, L, vocabulary), the embedding being the output layer too."""

    def __init__(self, vocabulary: int, features: int, body: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, features)
        self.body = body
        self.head = nn.Linear(features, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.embedding(ids)))
        return logits
