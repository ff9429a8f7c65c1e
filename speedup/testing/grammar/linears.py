"""Linear layers of tokens and vectors, attention, and other mixers of tokens."""

from __future__ import annotations

from hypothesis import strategies as st
from torch import nn

from speedup.testing.grammar.site import MOST_CHANNELS, BlockSite, Production, channel_counts, divisors, pick
from speedup.testing.modules import (
    Attention,
    ClassToken,
    FunctionalLinear,
    FusedAttention,
    GatedUnit,
    GroupedQueryAttention,
    LiteralChunk,
    LiteralHeads,
    LiteralSplit,
    PackedAttention,
    PositionEmbedding,
    SharedKeys,
    SharedWeight,
    TiedLinears,
    TokenMixing,
    TransformerBlock,
    WeightNormed,
)
from speedup.testing.spec import Spec


def _linear(draw: st.DrawFn, site: BlockSite) -> Spec:
    bias: dict[str, object] = {} if draw(st.booleans()) else {"bias": False}
    return Spec.of(nn.Linear, site.shape.channels, draw(channel_counts()), **bias)


def _functional_linear(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(FunctionalLinear, site.shape.channels, draw(channel_counts()))


def _tied(draw: st.DrawFn, site: BlockSite) -> Spec:
    if draw(st.booleans()):
        return Spec.of(SharedWeight, site.shape.channels)
    return Spec.of(TiedLinears, site.shape.channels, draw(channel_counts()))


def _gated_unit(draw: st.DrawFn, site: BlockSite) -> Spec:
    bias: dict[str, object] = {"bias": True} if draw(st.booleans()) else {}
    return Spec.of(GatedUnit, site.shape.channels, draw(channel_counts()), **bias)


def _attention(draw: st.DrawFn, site: BlockSite) -> Spec:
    features, heads, head_dim = site.shape.channels, pick(draw, 2, 1, 3), pick(draw, 2, 3, 4)
    bias: dict[str, object] = {} if draw(st.booleans()) else {"bias": False}
    return Spec.of(Attention, features, heads, head_dim, **bias)


def _fused_attention(draw: st.DrawFn, site: BlockSite) -> Spec:
    features, heads, head_dim = site.shape.channels, pick(draw, 2, 1, 3), pick(draw, 2, 3, 4)
    options: dict[str, object] = pick(draw, {}, {"chunked": True}, {"causal": True})
    return Spec.of(FusedAttention, features, heads, head_dim, **options)


def _grouped_query_attention(draw: st.DrawFn, site: BlockSite) -> Spec:
    heads, kv_heads = pick(draw, (4, 2), (2, 1), (2, 2))
    norm: dict[str, object] = {"norm": True} if draw(st.booleans()) else {}
    return Spec.of(GroupedQueryAttention, site.shape.channels, heads, kv_heads, pick(draw, 2, 4), **norm)


def _packed_attention(draw: st.DrawFn, site: BlockSite) -> Spec:
    features = site.shape.channels
    return Spec.of(PackedAttention, features, draw(st.sampled_from(divisors(features))))


def _shared_keys(draw: st.DrawFn, site: BlockSite) -> Spec:
    heads, kv_heads = pick(draw, (4, 2), (3, 1))
    return Spec.of(SharedKeys, site.shape.channels, heads, kv_heads, pick(draw, 2, 3))


def _transformer_block(draw: st.DrawFn, site: BlockSite) -> Spec:
    order: dict[str, object] = pick(draw, {}, {"norm_first": False})
    return Spec.of(TransformerBlock, site.shape.channels, pick(draw, 2, 3), draw(channel_counts()), **order)


def _literal(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(pick(draw, LiteralChunk, LiteralSplit), site.shape.channels)


def _literal_heads(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(LiteralHeads, site.shape.channels)


def _token_mixing(draw: st.DrawFn, site: BlockSite) -> Spec:
    length = site.shape.space[0]
    return Spec.of(TokenMixing, length, length if site.keep_space else draw(st.integers(1, 6)))


def _position_embedding(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(PositionEmbedding, *site.shape.sizes)


def _class_token(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(ClassToken, site.shape.channels)


def _weight_normed(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(WeightNormed, _linear(draw, site))


def _may_lengthen(site: BlockSite) -> bool:
    return not site.keep_space and site.shape.space[0] <= MOST_CHANNELS


LINEARS = (
    Production(_linear),
    Production(_linear),
    Production(_linear),
    Production(_functional_linear),
    Production(_tied),
    Production(_gated_unit),
    Production(_weight_normed),
    Production(_literal),
    Production(_literal),
)
TOKEN_MIXERS = (
    Production(_attention),
    Production(_fused_attention),
    Production(_grouped_query_attention),
    Production(_packed_attention),
    Production(_shared_keys),
    Production(_transformer_block),
    Production(_transformer_block),
    Production(_literal_heads),
    Production(_token_mixing),
    Production(_position_embedding),
    Production(_class_token, _may_lengthen),
)
