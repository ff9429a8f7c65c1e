"""Activations, dropout, bare scales and shifts, and odd functions of single values."""

from __future__ import annotations

from hypothesis import strategies as st
from torch import nn

from speedup.testing.grammar.site import BlockSite, Production, pick
from speedup.testing.modules import BufferShift, Map, ScaleShift
from speedup.testing.modules.functions import POINTWISE
from speedup.testing.spec import Spec

ACTIVATIONS: tuple[Spec, ...] = (
    Spec.of(nn.ReLU),
    Spec.of(nn.GELU),
    Spec.of(nn.SiLU),
    Spec.of(nn.Sigmoid),
    Spec.of(nn.Hardswish),
    Spec.of(nn.LeakyReLU, 0.2),
    Spec.of(nn.ELU),
    Spec.of(nn.Tanh),
    Spec.of(nn.Softplus),
    Spec.of(nn.GELU, "tanh"),
    Spec.of(nn.ReLU6),
    Spec.of(nn.Hardsigmoid),
    Spec.of(nn.Mish),
    Spec.of(nn.Threshold, 0.125, -0.5),
)
IN_PLACE: tuple[Spec, ...] = (
    Spec.of(nn.ReLU, inplace=True),
    Spec.of(nn.Hardswish, inplace=True),
    Spec.of(nn.LeakyReLU, 0.1, inplace=True),
    Spec.of(nn.ELU, inplace=True),
)


def _activation(draw: st.DrawFn, site: BlockSite) -> Spec:
    return draw(st.sampled_from(ACTIVATIONS))


def _in_place(draw: st.DrawFn, site: BlockSite) -> Spec:
    return draw(st.sampled_from(IN_PLACE))


def _prelu(draw: st.DrawFn, site: BlockSite) -> Spec:
    # PReLU counts its weights along dimension 1, which for tokens is the position.
    return Spec.of(nn.PReLU, pick(draw, 1, site.shape.sizes[0]))


def _dropout(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(nn.Dropout, 0.5)


def _scale_shift(draw: st.DrawFn, site: BlockSite) -> Spec:
    options: dict[str, object] = {} if draw(st.booleans()) else {"shifted": False}
    return Spec.of(ScaleShift, *_channel_sizes(site), **options)


def _buffer_shift(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(BufferShift, *_channel_sizes(site))


def _map(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(Map, draw(st.sampled_from(sorted(POINTWISE))))


def _channel_sizes(site: BlockSite) -> tuple[int, ...]:
    """The shape of a parameter that broadcasts along everything but the channels."""
    if site.shape.layout == "tokens":
        return (site.shape.channels,)
    return (site.shape.channels, *(1 for _ in site.shape.space))


def _is_writable(site: BlockSite) -> bool:
    return site.writable


POINTWISES = (
    Production(_activation),
    Production(_activation),
    Production(_activation),
    Production(_in_place, _is_writable),
    Production(_in_place, _is_writable),
    Production(_prelu),
    Production(_scale_shift),
    Production(_map),
    Production(_dropout),
    Production(_buffer_shift),
)
