"""Normalisations, with and without affine parameters and running statistics."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st
from torch import nn

from speedup.testing.grammar.site import BlockSite, Production, divisors, pick
from speedup.testing.modules import FromTokens, ToTokens
from speedup.testing.spec import Spec, sequential

BATCH_NORM: Mapping[int, type[nn.Module]] = {
    0: nn.BatchNorm1d,
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
INSTANCE_NORM: Mapping[int, type[nn.Module]] = {
    1: nn.InstanceNorm1d,
    2: nn.InstanceNorm2d,
    3: nn.InstanceNorm3d,
}

# Small enough to leave the function alone, large enough not to blow rounding errors up.
EPS = 1e-3


def _batch_norm(draw: st.DrawFn, site: BlockSite) -> Spec:
    options: dict[str, object] = {} if pick(draw, True, True, False) else {"affine": False}
    return Spec.of(BATCH_NORM[site.rank], site.shape.channels, **options)


def _unrecorded_batch_norm(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(BATCH_NORM[site.rank], site.shape.channels, eps=EPS, track_running_stats=False)


def _group_norm(draw: st.DrawFn, site: BlockSite) -> Spec:
    channels = site.shape.channels
    # A group of one value would be normalised to a constant.
    groups = [count for count in divisors(channels) if channels // count * site.shape.positions > 1]
    affine: dict[str, object] = {} if pick(draw, True, True, False) else {"affine": False}
    return Spec.of(nn.GroupNorm, draw(st.sampled_from(groups)), channels, eps=EPS, **affine)


def _instance_norm(draw: st.DrawFn, site: BlockSite) -> Spec:
    options: dict[str, object] = {"affine": True} if draw(st.booleans()) else {}
    if pick(draw, False, False, True):
        options["track_running_stats"] = True
    return Spec.of(INSTANCE_NORM[site.rank], site.shape.channels, eps=EPS, **options)


def _layer_norm(draw: st.DrawFn, site: BlockSite) -> Spec:
    options: dict[str, object] = pick(draw, {}, {}, {"elementwise_affine": False}, {"bias": False})
    return Spec.of(nn.LayerNorm, site.shape.channels, eps=EPS, **options)


def _whole_layer_norm(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(nn.LayerNorm, site.shape.sizes, eps=EPS)


def _channels_last_layer_norm(draw: st.DrawFn, site: BlockSite) -> Spec:
    norm = _layer_norm(draw, site)
    return sequential(Spec.of(ToTokens), norm, Spec.of(FromTokens, site.shape.space[0]))


def _rms_norm(draw: st.DrawFn, site: BlockSite) -> Spec:
    # The default eps is the dtype's, which a planner that folds a count into it must resolve.
    options: dict[str, object] = pick(draw, {"eps": EPS}, {}, {"eps": EPS, "elementwise_affine": False})
    return Spec.of(nn.RMSNorm, site.shape.channels, **options)


def _local_response_norm(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(nn.LocalResponseNorm, 2)


def _has_channels(site: BlockSite) -> bool:
    return site.shape.channels > 1


def _has_positions(site: BlockSite) -> bool:
    return site.shape.positions > 1


def _has_either(site: BlockSite) -> bool:
    return _has_channels(site) or _has_positions(site)


def _is_wide_image(site: BlockSite) -> bool:
    return site.shape.layout == "image" and _has_channels(site)


SPATIAL_NORMS = (
    Production(_batch_norm),
    Production(_batch_norm),
    Production(_batch_norm),
    Production(_unrecorded_batch_norm, _has_positions),
    Production(_group_norm, _has_either),
    Production(_instance_norm, _has_positions),
    Production(_whole_layer_norm, _has_either),
    Production(_channels_last_layer_norm, _is_wide_image),
    Production(_local_response_norm, _is_wide_image),
)
TOKEN_NORMS = (
    Production(_layer_norm, _has_channels),
    Production(_layer_norm, _has_channels),
    Production(_rms_norm, _has_channels),
)
VECTOR_NORMS = (
    Production(_batch_norm),
    Production(_batch_norm),
    Production(_layer_norm, _has_channels),
    Production(_rms_norm, _has_channels),
    Production(_group_norm, _has_channels),
)
