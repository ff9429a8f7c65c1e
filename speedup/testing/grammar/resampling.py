"""Blocks that trade channels for positions or make positions up: pixel shuffles and upsampling."""

from __future__ import annotations

from hypothesis import strategies as st
from torch import nn

from speedup.testing.grammar.site import MOST_CHANNELS, BlockSite, Production, pick
from speedup.testing.modules import Focus
from speedup.testing.spec import Spec


def _upsample(draw: st.DrawFn, site: BlockSite) -> Spec:
    smooth: dict[str, object] = pick(
        draw, {}, {"mode": "bilinear"}, {"mode": "bilinear", "align_corners": True}
    )
    return Spec.of(nn.Upsample, scale_factor=2, **smooth)


def _pixel_shuffle(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(nn.PixelShuffle, 2)


def _pixel_unshuffle(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(nn.PixelUnshuffle, 2)


def _focus(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(Focus)


def _may_grow(site: BlockSite) -> bool:
    return not site.keep_space and 1 < max(site.shape.space) <= 6


def _has_fours(site: BlockSite) -> bool:
    return _may_grow(site) and site.shape.channels % 4 == 0


def _has_even_space(site: BlockSite) -> bool:
    few = site.shape.channels <= MOST_CHANNELS
    return not site.keep_space and few and all(size % 2 == 0 for size in site.shape.space)


IMAGE_RESAMPLINGS = (
    Production(_upsample, _may_grow),
    Production(_pixel_shuffle, _has_fours),
    Production(_pixel_shuffle, _has_fours),
    Production(_pixel_unshuffle, _has_even_space),
    Production(_focus, _has_even_space),
)
