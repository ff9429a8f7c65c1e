"""Normalization layers: affine per channel, and statistics over what they normalize."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn

from speedup.engine.constraints import Constraint, Unbroken
from speedup.engine.lattice import (
    Fact,
    all_over,
    any_over,
    broadcast,
    fact,
    indicator,
    split_runs,
    spread,
    uniform_along,
    uniform_fact,
    vector,
)
from speedup.ir.expressions import Derived
from speedup.ir.graph import Op
from speedup.rules.borders import channel_by_channel
from speedup.rules.pointwise import couple_elements
from speedup.rules.rule import Facts, Lives, Rule, Sizes, equal, named_fact, nothing_known, pinned, reason_for
from speedup.rules.site import Site
from speedup.rules.weights import Attributes, normalization_weight
from speedup.torch_api import NormBase


def _per_channel(op: Op, facts: Facts, name: str, otherwise: float) -> Fact:
    """The fact of a (C,) operand as (1, C, 1, ...), or a constant when it is not given."""
    found, ndim = named_fact(op, facts, name), op.result.ndim
    if found is None:
        return Fact(indicator(True, ndim), torch.full((1,) * ndim, otherwise, dtype=op.result.dtype))
    return Fact(vector(found.known.reshape(-1), 1, ndim), vector(found.value.reshape(-1), 1, ndim))


def _reads(op: Op, data: Tensor, rest: Tensor) -> tuple[Tensor, ...]:
    """`data` for the first operand, the or of `rest` over all but channels for the (C,) ones."""
    channels = any_over(rest, (d for d in range(rest.ndim) if d != 1)).reshape(-1)
    return tuple(
        data if n == 0 else (channels if channels.numel() in (1, v.shape[0]) else indicator(True, 1))
        for n, v in enumerate(op.operands)
    )


def couple_channels(site: Site) -> Iterable[Constraint]:
    """Result, data and all per-channel operands keep the same channels; other dims correspond."""
    op, data = site.op, site.op.operands[0]
    yield from couple_elements(op, op.results[0], [data], site)
    per_channel = [(v, 0) for v in op.operands[1:] if v.ndim == 1]
    yield from equal(site.because(reason_for(op, "has one entry per channel")), (data, 1), *per_channel)


def _has_batch_statistics(op: Op) -> bool:
    return bool(op.get("training")) or op.position("running_mean") is None


def _bias_of_constants(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """A channel that is one constant throughout is its own mean: only the bias is left."""
    data = uniform_fact(facts[0], (d for d in range(facts[0].ndim) if d != 1))
    weight, bias = _per_channel(op, facts, "weight", 1.0), _per_channel(op, facts, "bias", 0.0)
    zero = weight.known & (weight.value == 0)
    known = (data.known | zero) & weight.known & bias.known
    return (fact(*broadcast(known, bias.value)),)


def batch_norm_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Affine with the running statistics; a zero weight leaves the bias whatever the input."""
    if _has_batch_statistics(op) and facts[0].ndim >= 2:
        return _bias_of_constants(op, facts)
    mean, variance = named_fact(op, facts, "running_mean"), named_fact(op, facts, "running_var")
    if mean is None or variance is None or facts[0].ndim < 2:
        return nothing_known(op, facts)
    weight = _per_channel(op, facts, "weight", 1.0)
    zero = weight.known & (weight.value == 0)
    if facts[0].is_unknown and not bool(zero.any()):
        return nothing_known(op, facts)
    bias = _per_channel(op, facts, "bias", 0.0)
    center, spread_ = (_per_channel(op, facts, n, 0.0) for n in ("running_mean", "running_var"))
    centered = facts[0].known & center.known & spread_.known
    known = weight.known & bias.known & (centered | zero)
    scale = weight.value * torch.rsqrt(spread_.value + op["eps"])
    value = torch.where(zero, bias.value, (facts[0].value - center.value) * scale + bias.value)
    return (fact(known, value),)


def batch_norm_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    data = live[0] & _per_channel(op, facts, "weight", 1.0).maybe_nonzero
    if _has_batch_statistics(op):
        data = any_over(data, (d for d in range(data.ndim) if d != 1))
    return _reads(op, data, live[0])


def batch_norm_couple(site: Site) -> Iterable[Constraint]:
    yield from couple_channels(site)
    if _has_batch_statistics(site.op):
        data = site.op.operands[0]
        reason = site.because("batch statistics are taken over these dimensions")
        yield from pinned(data, (d for d in range(data.ndim) if d != 1), reason)


def instance_norm_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """A channel that is constant over space is its own mean: only the bias is left."""
    data = facts[0]
    weight, bias = _per_channel(op, facts, "weight", 1.0), _per_channel(op, facts, "bias", 0.0)
    zero = weight.known & (weight.value == 0)
    if not op.get("use_input_stats", True) or (data.is_unknown and not bool(zero.any())):
        return nothing_known(op, facts)
    space = range(2, data.ndim)
    flat = data.known if uniform_along(data.value, space) else indicator(False, data.ndim)
    known = (all_over(flat, space) | zero) & weight.known & bias.known
    return (fact(*broadcast(known, bias.value)),)


def instance_norm_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    weight = _per_channel(op, facts, "weight", 1.0)
    data = any_over(live[0] & weight.maybe_nonzero, range(2, op.result.ndim))
    return _reads(op, data, live[0])


def instance_norm_couple(site: Site) -> Iterable[Constraint]:
    yield from couple_channels(site)
    data = site.op.operands[0]
    reason = site.because("statistics are taken over space")
    yield from pinned(data, range(2, data.ndim), reason)


def _groups(op: Op) -> int:
    return int(op["num_groups"])


def group_norm_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    data, groups = facts[0], _groups(op)
    weight, bias = _per_channel(op, facts, "weight", 1.0), _per_channel(op, facts, "bias", 0.0)
    zero = weight.known & (weight.value == 0)
    if data.is_unknown and not bool(zero.any()):
        return nothing_known(op, facts)
    shape, ndim = op.operands[0].shape, data.ndim
    space = range(2, ndim)
    flat = all_over(data.known, space) if uniform_along(data.value, space) else indicator(False, ndim)
    flat = spread(flat, shape, [1])
    whole = split_runs(flat, 1, groups).all(2, keepdim=True)
    whole = whole.expand(-1, -1, shape[1] // groups, *[-1] * (ndim - 2)).flatten(1, 2)
    value = spread(data.value, shape, [1])
    for dim in space:
        value = value.narrow(dim, 0, 1)
    per_group = split_runs(value, 1, groups)
    mean = per_group.mean(2, keepdim=True)
    variance = per_group.var(2, unbiased=False, keepdim=True)
    normal = ((per_group - mean) * torch.rsqrt(variance + op["eps"])).flatten(1, 2)
    result = torch.where(zero, bias.value, normal * weight.value + bias.value)
    return (fact((whole | zero) & weight.known & bias.known, result),)


def group_norm_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    groups, shape = _groups(op), op.result.shape
    weight = _per_channel(op, facts, "weight", 1.0)
    data = any_over(live[0] & weight.maybe_nonzero, range(2, op.result.ndim))
    if data.shape[1] != 1:
        run = split_runs(data, 1, groups).any(2, keepdim=True)
        data = run.expand(-1, -1, shape[1] // groups, *[-1] * (len(shape) - 2)).flatten(1, 2)
    return _reads(op, data, live[0])


def group_norm_couple(site: Site) -> Iterable[Constraint]:
    yield from couple_channels(site)
    op, data = site.op, site.op.operands[0]
    reason = site.because("group_norm takes statistics over whole groups")
    if isinstance(op.arguments["num_groups"], Derived):
        yield Unbroken((data.index, 1), _groups(site.op), reason)
    else:
        yield from pinned(data, [1], reason)
    yield from pinned(data, range(2, data.ndim), reason)


def group_norm_needs(op: Op, sizes: Sizes) -> Mapping[str, Any]:
    data = op.operands[0]
    return {"num_groups": _groups(op) * sizes(data)[1] // data.shape[1]}


def _features(op: Op, sizes: Sizes) -> Attributes:
    return {"num_features": sizes(op.operands[0])[1]}


def _channels(op: Op, sizes: Sizes) -> Attributes:
    return {"num_channels": sizes(op.operands[0])[1], **group_norm_needs(op, sizes)}


_BY_FEATURE = evolve(normalization_weight(last=False), attributes=MappingProxyType({NormBase: _features}))
_BY_GROUP = evolve(normalization_weight(last=False), attributes=MappingProxyType({nn.GroupNorm: _channels}))

RULES: dict[str, Rule] = {
    "batch_norm": Rule(
        couple=batch_norm_couple,
        known=batch_norm_known,
        live=batch_norm_live,
        at_borders=channel_by_channel(batch_norm_known),
        weight=_BY_FEATURE,
        is_local=True,
    ),
    "instance_norm": Rule(
        couple=instance_norm_couple,
        known=instance_norm_known,
        live=instance_norm_live,
        weight=_BY_FEATURE,
    ),
    "group_norm": Rule(
        couple=group_norm_couple,
        known=group_norm_known,
        live=group_norm_live,
        weight=_BY_GROUP,
        needs=lambda site, sizes, kept: group_norm_needs(site.op, sizes),
    ),
}
