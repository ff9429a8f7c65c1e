"""`nn.MultiheadAttention` with heads, and head widths, that need not fill the embedding.

`nn.MultiheadAttention` computes the width of a head as embed_dim / num_heads and insists on an
`in_proj_weight` of 3 * embed_dim rows. This class has the same parameters under the same names
and computes the same, but takes the numbers from attributes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speedup._stable import stable
from speedup.torch_api import QKV_SAME_EMBED_DIM

IN_PROJ, OUT_PROJ = "in_proj", "out_proj"
"""Layers of attention that another may take the place of."""


class MultiheadAttention(nn.MultiheadAttention):
    """Multi-head attention of `num_heads` heads, `head_dim` wide for queries and keys and
    `value_head_dim` for values; `scale` multiplies the products of queries and keys.

    `in_proj_weight` has the rows of queries, keys and values, in this order, head by head.
    Made by `adopt`, from a module that exists. After `unpack` a linear layer `in_proj` has that weight and
    its bias, and can be another kind of layer.
    """

    # torch.fx takes it for a layer of torch's own, which it does not look into.
    __module__ = nn.MultiheadAttention.__module__

    in_proj_weight: nn.Parameter | None  # type: ignore[assignment]
    value_head_dim: int
    scale: float

    @staticmethod
    def can_adopt(module: nn.Module) -> bool:
        """Whether `adopt` takes `module`: a plain one without extra keys."""
        if not isinstance(module, nn.MultiheadAttention) or module.add_zero_attn:
            return False
        return type(module) is nn.MultiheadAttention and module.bias_k is None and module.bias_v is None

    @classmethod
    def adopt(cls, module: nn.Module) -> None:
        """Make `module`, in place, one of this class that computes what it did."""
        module.__class__ = cls
        state = vars(module)
        # torch.nn.TransformerEncoderLayer takes its fused path only when this is set.
        state[QKV_SAME_EMBED_DIM] = False
        state["value_head_dim"] = state["head_dim"]
        state["scale"] = state["head_dim"] ** -0.5

    def unpack(self) -> None:
        """Hold the packed projection of queries, keys and values as a layer `in_proj`, in place."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        assert weight is not None
        rows, columns = weight.shape
        layer = nn.Linear(columns, rows, bias=bias is not None, device="meta").train(self.training)
        layer.weight, layer.bias = weight, bias
        self.in_proj_weight = self.in_proj_bias = None  # type: ignore[assignment]
        self.in_proj = layer

    @classmethod
    def release(cls, module: nn.Module) -> None:
        """Undo `unpack`, and `adopt` where heads fill the embedding, in place."""
        if not isinstance(module, cls):
            return
        state = vars(module)
        layer = state["_modules"].pop(IN_PROJ, None)
        if layer is not None:
            module.in_proj_weight, module.in_proj_bias = layer.weight, layer.bias
        if type(module.out_proj) is nn.Linear:
            # As in attention of torch; the two compute the same.
            module.out_proj.__class__ = nn.modules.linear.NonDynamicallyQuantizableLinear
        width = module.embed_dim // module.num_heads
        natural = (width, width, width**-0.5)
        if (module.head_dim, module.value_head_dim, module.scale) == natural:
            del module.value_head_dim, module.scale
            state[QKV_SAME_EMBED_DIM] = module.in_proj_weight is not None
            module.__class__ = nn.MultiheadAttention  # type: ignore[assignment]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """By a function, since the class is not where its `__module__` says."""
        return restore_attention, (), self.__getstate__()  # type: ignore[no-untyped-call]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`."""
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal needs an attn_mask; nn.Transformer makes one")
        is_batched, first = query.dim() == 3, self.batch_first
        queries, keys, values = self._projected(query, key, value)
        if not is_batched:
            queries, keys, values = (t.unsqueeze(0) for t in (queries, keys, values))
        elif not first:
            queries, keys, values = (t.transpose(0, 1) for t in (queries, keys, values))
        queries = torch.unflatten(queries, -1, (self.num_heads, self.head_dim)).transpose(1, 2)
        keys = torch.unflatten(keys, -1, (self.num_heads, self.head_dim)).transpose(1, 2)
        values = torch.unflatten(values, -1, (self.num_heads, self.value_head_dim)).transpose(1, 2)
        mask = self._mask(attn_mask, key_padding_mask, queries)
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = (queries * self.scale) @ keys.transpose(-2, -1)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            found = weights @ values
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            found = F.scaled_dot_product_attention(queries, keys, values, mask, dropout, scale=self.scale)
        result = self.out_proj(found.transpose(1, 2).flatten(2))
        if not is_batched:
            return result.squeeze(0), None if weights is None else weights.squeeze(0)
        return result if first else result.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        inner, wide = self.num_heads * self.head_dim, self.num_heads * self.value_head_dim
        layer = getattr(self, IN_PROJ, None)
        if layer is not None:
            given = {id(x): x for x in (query, key, value)}
            parts = {name: torch.split(layer(x), [inner, inner, wide], -1) for name, x in given.items()}
            return tuple(parts[id(x)][which] for which, x in enumerate((query, key, value)))
        if self.in_proj_weight is not None and query is key and key is value:
            packed = F.linear(query, self.in_proj_weight, self.in_proj_bias)
            return torch.split(packed, [inner, inner, wide], -1)
        if self.in_proj_weight is not None:
            weights = torch.split(self.in_proj_weight, [inner, inner, wide])
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases: tuple[Tensor | None, ...] = (None, None, None)
        if self.in_proj_bias is not None:
            biases = torch.split(self.in_proj_bias, [inner, inner, wide])
        return tuple(F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, queries: Tensor) -> Tensor | None:
        """Both masks as one to add to (batch, heads, queries, keys)."""
        masks: list[Tensor] = []
        if attn_mask is not None:
            # Three dimensions are (batch * heads, queries, keys).
            wide = attn_mask if attn_mask.dim() == 2 else torch.unflatten(attn_mask, 0, (-1, self.num_heads))
            masks.append(_additive(wide, queries.dtype))
        if padding is not None:
            masks.append(_additive(padding, queries.dtype).reshape(-1, 1, 1, padding.shape[-1]))
        return sum(masks[1:], masks[0]) if masks else None


@stable
def restore_attention() -> MultiheadAttention:
    """A module of the class without state."""
    return MultiheadAttention.__new__(MultiheadAttention)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask, True for what must not be attended to, as numbers to add."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
