"""Blocks that change or blur positions: pools, paddings, crops."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st
from torch import nn

from speedup.testing.grammar.site import BlockSite, Production, pick
from speedup.testing.modules import Pad, SwapSpace
from speedup.testing.spec import Spec

MAX_POOL: Mapping[int, type[nn.Module]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOL: Mapping[int, type[nn.Module]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
ADAPTIVE_AVERAGE: Mapping[int, type[nn.Module]] = {
    1: nn.AdaptiveAvgPool1d,
    2: nn.AdaptiveAvgPool2d,
    3: nn.AdaptiveAvgPool3d,
}
ADAPTIVE_MAX: Mapping[int, type[nn.Module]] = {
    1: nn.AdaptiveMaxPool1d,
    2: nn.AdaptiveMaxPool2d,
    3: nn.AdaptiveMaxPool3d,
}


def _max_pool(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(MAX_POOL[site.rank], *_window(draw, site))


def _average_pool(draw: st.DrawFn, site: BlockSite) -> Spec:
    kernel, stride, padding = _window(draw, site)
    options: dict[str, object] = {"count_include_pad": False} if padding and draw(st.booleans()) else {}
    if not site.keep_space and draw(st.booleans()):
        options["ceil_mode"] = True
    return Spec.of(AVERAGE_POOL[site.rank], kernel, stride, padding, **options)


def _window(draw: st.DrawFn, site: BlockSite) -> tuple[int, int, int]:
    """Kernel, stride and padding that fit the site."""
    if site.keep_space:
        return 3, 1, 1
    kernel = pick(draw, 2, 3) if min(site.shape.space) > 2 else 2
    return kernel, pick(draw, 2, 1), pick(draw, 0, 1)


def _adaptive_average(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(ADAPTIVE_AVERAGE[site.rank], pick(draw, 1, 2, 3))


def _adaptive_max(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(ADAPTIVE_MAX[site.rank], pick(draw, 1, 2))


def _pad(draw: st.DrawFn, site: BlockSite) -> Spec:
    smallest = -1 if min(site.shape.space) > 3 else 0
    widths = draw(st.lists(st.integers(smallest, 1), min_size=2 * site.rank, max_size=2 * site.rank))
    value = pick(draw, 0.0, -0.75)
    return Spec.of(Pad, *widths, value=value) if value else Spec.of(Pad, *widths)


def _reflection_pad(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(pick(draw, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d), 1)


def _swap_space(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(SwapSpace)


def _has_window(site: BlockSite) -> bool:
    # avg_pool3d wants a kernel no larger than its input even where padding would make up for it.
    smallest = min(site.shape.space)
    return smallest > 1 if not site.keep_space else smallest > 2 or site.rank < 3


def _may_change(site: BlockSite) -> bool:
    return not site.keep_space


def _may_pad(site: BlockSite) -> bool:
    return _may_change(site) and max(site.shape.space) <= 8


def _is_padding_image(site: BlockSite) -> bool:
    return _may_pad(site) and site.shape.layout == "image" and min(site.shape.space) > 1


def _may_swap(site: BlockSite) -> bool:
    return _may_change(site) and site.rank == 2


POOLS = (
    Production(_max_pool, _has_window),
    Production(_average_pool, _has_window),
    Production(_average_pool, _has_window),
    Production(_adaptive_average, _may_change),
    Production(_adaptive_max, _may_change),
    Production(_pad, _may_pad),
    Production(_reflection_pad, _is_padding_image),
    Production(_swap_space, _may_swap),
)
