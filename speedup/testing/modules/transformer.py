"""Blocks around a residual stream that layer norms read, and pairs of an encoder and a decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speedup.testing.modules.attention import Attention, CrossAttention


class TransformerBlock(nn.Module):
    """Attention and a feed-forward layer on (B, L, features), the norm before each or after it."""

    def __init__(self, features: int, heads: int, hidden: int, norm_first: bool = True) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = Attention(features, heads, 2)
        self.up = nn.Linear(features, hidden)
        self.down = nn.Linear(hidden, features)
        self.norm1 = nn.LayerNorm(features)
        self.norm2 = nn.LayerNorm(features)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            x = x + self.attention(self.norm1(x))
            result: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        else:
            x = self.norm1(x + self.attention(x))
            result = self.norm2(x + self.down(F.gelu(self.up(x))))
        return result


class SharedKeys(nn.Module):
    """Grouped queries, the groups resolved by `scaled_dot_product_attention`; inputs (B, L, features)."""

    def __init__(self, features: int, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.q_proj = nn.Linear(features, num_heads * head_dim)
        self.k_proj = nn.Linear(features, num_kv_heads * head_dim)
        self.v_proj = nn.Linear(features, num_kv_heads * head_dim)
        self.o_proj = nn.Linear(num_heads * head_dim, features)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query = self.q_proj(x).view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)
        key = self.k_proj(x).view(batch, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
        value = self.v_proj(x).view(batch, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        merged = mixed.transpose(1, 2).reshape(batch, length, self.num_heads * self.head_dim)
        result: Tensor = self.o_proj(merged)
        return result


class EncoderDecoder(nn.Module):
    """A block encodes `memory` (B, M, memory_features); another, for `x` (B, L, features), attends to it."""

    def __init__(self, features: int, memory_features: int, heads: int) -> None:
        super().__init__()
        self.encoder = TransformerBlock(memory_features, heads, 6)
        self.decoder = TransformerBlock(features, heads, 6)
        self.cross = CrossAttention(features, memory_features, heads, 2)
        self.norm = nn.LayerNorm(features)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        result: Tensor = self.norm(self.cross(self.decoder(x), self.encoder(memory)))
        return result


class SkipLevel(nn.Module):
    """One level of a U-Net: (N, channels, H, W) down by two, up again, beside what it came from."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, inner, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(inner)
        self.up = nn.Conv2d(inner, channels, 3, padding=1)
        self.out = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = F.relu(self.norm(self.down(x)))
        high = self.up(F.interpolate(low, size=x.shape[-2:], mode="nearest"))
        result: Tensor = self.out(torch.cat([x, high], dim=1))
        return result
