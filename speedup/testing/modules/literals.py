"""Modules whose forward states sizes as literals, as scripts written for one model do."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LiteralFlatten(nn.Module):
    """(N, channels, H, W) -> (N, 5) by pooling to 2 x 2 and a reshape of six channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 2 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(F.relu(self.conv(x)), 2)
        x = x.reshape(-1, 6 * 2 * 2)
        result: Tensor = self.fc(x)
        return result


class LiteralChunk(nn.Module):
    """(..., features) -> (..., 5): a gate and a value that `chunk(2)` takes apart."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.both = nn.Linear(features, 10)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.both(x).chunk(2, dim=-1)
        result: Tensor = torch.sigmoid(gate) * value
        return result


class LiteralSplit(nn.Module):
    """(..., features) -> (..., 4): pieces of sizes that stand in the source, one of them sliced."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.pieces = nn.Linear(features, 9)
        self.out = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(self.pieces(x), [4, 5], dim=-1)
        result: Tensor = self.out(second) + first[..., :4]
        return result


class LiteralHeads(nn.Module):
    """Self-attention of (N, L, features) in two heads of four, neither of which is an attribute."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(features, 24)
        self.out = nn.Linear(8, features)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).split(8, dim=-1)
        query = query.view(x.size(0), -1, 2, 4).transpose(1, 2)
        key = key.view(x.size(0), -1, 2, 4).transpose(1, 2)
        value = value.view(x.size(0), -1, 2, 4).transpose(1, 2)
        weights = F.softmax(query @ key.transpose(-2, -1) * 0.5, dim=-1)
        result: Tensor = self.out((weights @ value).transpose(1, 2).reshape(x.size(0), -1, 8))
        return result
