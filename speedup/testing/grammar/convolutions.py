"""Convolutions of every rank: dense, grouped, depthwise, transposed, standardised, weight-normed."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st
from torch import nn

from speedup.testing.grammar.site import MOST_CHANNELS, BlockSite, Production, channel_counts, divisors, pick
from speedup.testing.modules import FunctionalConv, StandardizedConv, WeightNormed
from speedup.testing.spec import Spec

CONVOLUTION: Mapping[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: Mapping[int, type[nn.Module]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}

Window = tuple[int, ...]


def _dense(draw: st.DrawFn, site: BlockSite) -> Spec:
    return _convolution(draw, site, groups=1, out=draw(channel_counts()))


def _grouped(draw: st.DrawFn, site: BlockSite) -> Spec:
    groups = draw(st.sampled_from(divisors(site.shape.channels)[1:]))
    per_group = draw(st.integers(1, max(1, MOST_CHANNELS // groups)))
    return _convolution(draw, site, groups=groups, out=groups * per_group)


def _depthwise(draw: st.DrawFn, site: BlockSite) -> Spec:
    channels = site.shape.channels
    multiplier = pick(draw, 1, 1, 2) if channels <= MOST_CHANNELS else 1
    return _convolution(draw, site, groups=channels, out=channels * multiplier)


def _convolution(draw: st.DrawFn, site: BlockSite, groups: int, out: int) -> Spec:
    kernel, options = _geometry(draw, site)
    if groups > 1:
        options["groups"] = groups
    if draw(st.booleans()):
        options["bias"] = False
    return Spec.of(CONVOLUTION[site.rank], site.shape.channels, out, kernel, **options)


def _geometry(draw: st.DrawFn, site: BlockSite) -> tuple[int | Window, dict[str, object]]:
    """A kernel that fits without padding, and stride, dilation, padding, padding mode to go with it."""
    space = site.shape.space
    kernels = [kernel for kernel in _kernels(site.rank) if _fits(kernel, space)]
    kernel = draw(st.sampled_from(kernels))
    options: dict[str, object] = {}
    if all(2 * (k - 1) < size for k, size in zip(kernel, space, strict=True)) and pick(draw, 1, 1, 1, 2) == 2:
        options["dilation"] = 2
    padding: object = "same"
    if not site.keep_space:
        if pick(draw, 1, 1, 2) == 2 and min(space) > 2:
            options["stride"] = 2
            padding = pick(draw, 0, 1, tuple(k // 2 for k in kernel))
        else:
            padding = pick(draw, 0, 1, "same", 2)
    options["padding"] = padding
    if padding != 0 and min(space) > 2:
        mode = pick(draw, "zeros", "zeros", "zeros", "reflect", "replicate", "circular")
        # PyTorch has no reflecting padding of five-dimensional values that is exact in export.
        if mode != "zeros" and not (mode == "reflect" and site.rank == 3):
            options["padding_mode"] = mode
    return (kernel[0] if len(set(kernel)) == 1 else kernel), options


def _kernels(rank: int) -> list[Window]:
    square = [(size,) * rank for size in ((1, 3, 5, 2) if rank < 3 else (1, 3))]
    return [*square, (1, 3), (3, 1), (1, 5)] if rank == 2 else square


def _fits(kernel: Window, space: tuple[int, ...]) -> bool:
    return all(k <= size for k, size in zip(kernel, space, strict=True))


def _transposed(draw: st.DrawFn, site: BlockSite) -> Spec:
    channels = site.shape.channels
    groups = draw(st.sampled_from(divisors(channels)))
    out = groups * draw(st.integers(1, max(1, MOST_CHANNELS // groups)))
    options: dict[str, object] = {"groups": groups} if groups > 1 else {}
    if draw(st.booleans()):
        options["bias"] = False
    make = TRANSPOSED[site.rank]
    if site.keep_space:
        return Spec.of(make, channels, out, 3, padding=1, **options)
    if draw(st.booleans()):
        options |= {"stride": 2, "output_padding": pick(draw, 0, 1)}
    return Spec.of(make, channels, out, pick(draw, 2, 3), padding=pick(draw, 0, 1), **options)


def _functional(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(FunctionalConv, site.shape.channels, draw(channel_counts()), pick(draw, 1, 3))


def _standardized(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(StandardizedConv, site.shape.channels, draw(channel_counts()), 3, padding=1)


def _weight_normed(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(WeightNormed, _dense(draw, site))


def _is_splittable(site: BlockSite) -> bool:
    return site.shape.channels > 1


def _is_image(site: BlockSite) -> bool:
    return site.shape.layout == "image"


def _may_grow(site: BlockSite) -> bool:
    return site.keep_space or 1 < max(site.shape.space) <= (6 if site.rank < 3 else 4)


CONVOLUTIONS = (
    Production(_dense),
    Production(_dense),
    Production(_dense),
    Production(_dense),
    Production(_weight_normed),
    Production(_grouped, _is_splittable),
    Production(_depthwise, _is_splittable),
    Production(_transposed, _may_grow),
    Production(_functional, _is_image),
    Production(_standardized, _is_image),
)
