"""Attention as people write it, with heads counted by an attribute or by the shape of `x`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """Separate projections, `view(B, L, heads, -1)`, softmax and matmul; inputs (B, L, features)."""

    def __init__(self, features: int, heads: int, head_dim: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.scale = 1.0 / math.sqrt(head_dim)
        self.query = nn.Linear(features, heads * head_dim, bias=bias)
        self.key = nn.Linear(features, heads * head_dim, bias=bias)
        self.value = nn.Linear(features, heads * head_dim, bias=bias)
        self.out = nn.Linear(heads * head_dim, features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query = self.query(x).view(batch, length, self.heads, -1).transpose(1, 2)
        key = self.key(x).view(batch, length, self.heads, -1).transpose(1, 2)
        value = self.value(x).view(batch, length, self.heads, -1).transpose(1, 2)
        weights = torch.softmax(query @ key.transpose(-2, -1) * self.scale, dim=-1)
        merged = (weights @ value).transpose(1, 2).reshape(batch, length, -1)
        result: Tensor = self.out(merged)
        return result


class FusedAttention(nn.Module):
    """One projection for query, key and value, split by shape or by `chunk`; inputs (B, L, features).

    The reshape names `head_dim` and the scale of `scaled_dot_product_attention` is its default.
    """

    def __init__(
        self, features: int, heads: int, head_dim: int, chunked: bool = False, causal: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.chunked = chunked
        self.causal = causal
        self.qkv = nn.Linear(features, 3 * heads * head_dim)
        self.out = nn.Linear(heads * head_dim, features)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        if self.chunked:
            pieces = self.qkv(x).chunk(3, dim=-1)
            query, key, value = (
                piece.view(batch, length, self.heads, self.head_dim).transpose(1, 2) for piece in pieces
            )
        else:
            qkv = self.qkv(x).reshape(batch, length, 3, self.heads, self.head_dim)
            query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result


class GroupedQueryAttention(nn.Module):
    """Several query heads read one key-value head, which is repeated; inputs (B, L, features)."""

    def __init__(self, features: int, heads: int, kv_heads: int, head_dim: int, norm: bool = False) -> None:
        super().__init__()
        self.repeats = heads // kv_heads
        self.head_dim = head_dim
        self.query = nn.Linear(features, heads * head_dim, bias=False)
        self.key = nn.Linear(features, kv_heads * head_dim, bias=False)
        self.value = nn.Linear(features, kv_heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, features, bias=False)
        self.norm = nn.RMSNorm(head_dim, eps=1e-3) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        shape = (batch, length, -1, self.head_dim)
        query = self.norm(self.query(x).view(shape)).transpose(1, 2)
        key = self.norm(self.key(x).view(shape)).transpose(1, 2)
        value = self.value(x).view(shape).transpose(1, 2)
        key = key.repeat_interleave(self.repeats, dim=1)
        value = value.repeat_interleave(self.repeats, dim=1)
        mixed = scaled_dot_product_attention(query, key, value)
        result: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        return result


class PackedAttention(nn.Module):
    """Self-attention by `nn.MultiheadAttention`; inputs (B, L, features)."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(features, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return mixed


class CrossAttention(nn.Module):
    """Queries from `x` (B, L, features), keys and values from `memory` (B, M, memory_features)."""

    def __init__(self, features: int, memory_features: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(features, heads * head_dim)
        self.key_value = nn.Linear(memory_features, 2 * heads * head_dim)
        self.out = nn.Linear(heads * head_dim, features)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query = self.query(x).view(batch, length, self.heads, -1).transpose(1, 2)
        key, value = self.key_value(memory).chunk(2, dim=-1)
        key = key.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        value = value.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = scaled_dot_product_attention(query, key, value)
        result: Tensor = x + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        return result
