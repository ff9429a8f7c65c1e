"""Blocks that contain blocks: residual adds, branches, split paths, gates, a module called twice."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from hypothesis import strategies as st
from torch import nn

from speedup.testing.grammar.convolutions import CONVOLUTION
from speedup.testing.grammar.site import BlockSite, Production, Shape, pick
from speedup.testing.modules import (
    BothWays,
    ChannelConvGate,
    Concat,
    Gated,
    Residual,
    SkipLevel,
    SpatialGate,
    SplitPaths,
    SqueezeExcite,
    Twice,
)
from speedup.testing.spec import Spec, sequential

Chain = Callable[[st.DrawFn, BlockSite, int], tuple[Spec, Shape]]
"""Draws at most so many blocks for a site and says what shape they make."""

MOST_JOINED_CHANNELS = 16


def compositions(chain: Chain) -> tuple[Production, ...]:
    """The productions whose inner blocks are drawn by `chain`."""

    def inner(draw: st.DrawFn, site: BlockSite, longest: int = 3) -> tuple[Spec, Shape]:
        return chain(draw, attrs.evolve(site, depth=site.depth - 1, keep_space=True), longest)

    def residual(draw: st.DrawFn, site: BlockSite) -> Spec:
        body, shape = inner(draw, site)
        in_place: dict[str, object] = {}
        if site.writable and pick(draw, False, False, True):
            in_place["in_place"] = True
        if shape == site.shape and draw(st.booleans()):
            return Spec.of(Residual, body, **in_place)
        if draw(st.booleans()):
            shortcut = adapter(site.shape, shape.channels)
            return Spec.of(Residual, body, shortcut, **in_place)
        return Spec.of(Residual, sequential(body, adapter(shape, site.shape.channels)), **in_place)

    def concat(draw: st.DrawFn, site: BlockSite) -> Spec:
        branches = [Spec.of(nn.Identity), *(inner(draw, site, 2)[0] for _ in range(pick(draw, 1, 2)))]
        if draw(st.booleans()):
            branches = branches[1:]
        return Spec.of(Concat, *branches, **_dim(site))

    def concat_itself(draw: st.DrawFn, site: BlockSite) -> Spec:
        return Spec.of(Concat, Spec.of(nn.Identity), Spec.of(nn.Identity), **_dim(site))

    def split(draw: st.DrawFn, site: BlockSite) -> Spec:
        channels = site.shape.channels
        sizes, options = _pieces(draw, channels)
        add = len(set(sizes)) == 1 and pick(draw, False, False, True)
        paths = []
        for size in sizes:
            piece = attrs.evolve(site, shape=_with_channels(site.shape, size), writable=False)
            path, shape = inner(draw, piece, 2)
            if add and shape.channels != channels:
                path = sequential(path, adapter(shape, channels))
            paths.append(pick(draw, path, Spec.of(nn.Identity)) if not add else path)
        if add:
            options["add"] = True
        return Spec.of(SplitPaths, *paths, **options, **_dim(site))

    def gated(draw: st.DrawFn, site: BlockSite) -> Spec:
        body, shape = inner(draw, site, 2)
        return Spec.of(Gated, body, adapter(site.shape, shape.channels))

    def twice(draw: st.DrawFn, site: BlockSite) -> Spec:
        body, shape = inner(draw, site, 2)
        return Spec.of(Twice, sequential(body, adapter(shape, site.shape.channels)))

    def both_ways(draw: st.DrawFn, site: BlockSite) -> Spec:
        body, _ = inner(draw, site, 2)
        return Spec.of(BothWays, body, **_dim(site))

    return (
        Production(residual, _may_nest),
        Production(residual, _may_nest),
        Production(residual, _may_nest),
        Production(concat, _may_join),
        Production(concat, _may_join),
        Production(split, _may_split),
        Production(split, _may_split),
        Production(concat_itself, _may_double),
        Production(gated, _may_nest),
        Production(twice, _may_nest),
        Production(both_ways, _may_join),
    )


def adapter(shape: Shape, channels: int) -> Spec:
    """The plainest block that gives a value of `shape` so many channels."""
    if shape.layout in ("tokens", "vector"):
        return Spec.of(nn.Linear, shape.channels, channels)
    return Spec.of(CONVOLUTION[len(shape.space)], shape.channels, channels, 1)


def _squeeze_excite(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(SqueezeExcite, site.shape.channels, draw(st.integers(1, 4)))


def _channel_conv_gate(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(ChannelConvGate, 3)


def _spatial_gate(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(SpatialGate, 3)


def _skip_level(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(SkipLevel, site.shape.channels, draw(st.integers(2, 6)))


def _pieces(draw: st.DrawFn, channels: int) -> tuple[tuple[int, ...], dict[str, object]]:
    """The sizes of the pieces and the options that ask for them."""
    if channels % 2 == 0 and draw(st.booleans()):
        return (channels // 2, channels // 2), {}
    if channels % 3 == 0 and draw(st.booleans()):
        return (channels // 3,) * 3, {}
    first = draw(st.integers(1, channels - 1))
    return (first, channels - first), {"sizes": (first, channels - first)}


def _with_channels(shape: Shape, channels: int) -> Shape:
    if shape.layout == "tokens":
        return attrs.evolve(shape, sizes=(*shape.sizes[:-1], channels))
    return attrs.evolve(shape, sizes=(channels, *shape.sizes[1:]))


def _dim(site: BlockSite) -> dict[str, object]:
    return {"dim": -1} if site.shape.layout == "tokens" else {}


def _may_nest(site: BlockSite) -> bool:
    return site.depth > 0


def _may_double(site: BlockSite) -> bool:
    return site.shape.channels <= MOST_JOINED_CHANNELS // 2


def _may_join(site: BlockSite) -> bool:
    return _may_nest(site) and _may_double(site)


def _may_split(site: BlockSite) -> bool:
    return _may_nest(site) and site.shape.channels > 1


GATES = (
    Production(_squeeze_excite),
    Production(_squeeze_excite),
    Production(_channel_conv_gate),
    Production(_spatial_gate),
    Production(_skip_level),
)
