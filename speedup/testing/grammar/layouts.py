"""Blocks that permute, select, copy or pad channels, and functions along the channels."""

from __future__ import annotations

from hypothesis import strategies as st
from torch import nn

from speedup.testing.grammar.site import MOST_CHANNELS, BlockSite, Production, divisors, pick
from speedup.testing.modules import Along, ChannelPad, ChannelSlice, Fold, Normalize, Shuffle
from speedup.testing.modules.functions import ALONG, FOLDS
from speedup.testing.spec import Spec


def _shuffle(draw: st.DrawFn, site: BlockSite) -> Spec:
    groups = draw(st.sampled_from(divisors(site.shape.channels)[1:]))
    return Spec.of(pick(draw, Shuffle, nn.ChannelShuffle), groups)


def _channel_slice(draw: st.DrawFn, site: BlockSite) -> Spec:
    channels = site.shape.channels
    start = draw(st.integers(0, channels - 1))
    stop = draw(st.integers(start + 1, channels))
    options: dict[str, object] = {"last": True} if site.shape.layout == "tokens" else {}
    if draw(st.booleans()):
        options["step"] = 2
    return Spec.of(ChannelSlice, start, stop, **options)


def _channel_pad(draw: st.DrawFn, site: BlockSite) -> Spec:
    before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    value = pick(draw, 0.0, 0.5)
    return Spec.of(ChannelPad, before, after, value) if value else Spec.of(ChannelPad, before, after)


def _glu(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(nn.GLU, site.shape.channel_dim)


def _along(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(Along, draw(st.sampled_from(sorted(ALONG))), site.shape.channel_dim)


def _fold(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(Fold, draw(st.sampled_from(sorted(FOLDS))), site.shape.channel_dim)


def _normalize(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(Normalize, site.shape.channel_dim)


def _has_channels(site: BlockSite) -> bool:
    return site.shape.channels > 1


def _is_even(site: BlockSite) -> bool:
    return site.shape.channels % 2 == 0


def _is_image(site: BlockSite) -> bool:
    return site.shape.layout == "image" and _has_channels(site)


def _may_widen(site: BlockSite) -> bool:
    return site.shape.layout == "image" and site.shape.channels <= MOST_CHANNELS


LAYOUTS = (
    Production(_shuffle, _is_image),
    Production(_shuffle, _is_image),
    Production(_channel_slice, _has_channels),
    Production(_channel_pad, _may_widen),
    Production(_glu, _is_even),
    Production(_along, _has_channels),
    Production(_fold, _has_channels),
    Production(_normalize, _has_channels),
)
