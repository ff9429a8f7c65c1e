"""Norms over the features of each position: LayerNorm and RMSNorm.

Features that are the same for every input can go although the statistics count them: LayerNorm
is told what they add up to, RMSNorm's weight and epsilon take them over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn

from speedup.engine.constraints import Constraint
from speedup.engine.keepsets import KeepSets
from speedup.engine.lattice import Fact, all_over, any_along, any_over, fact, indicator, spread
from speedup.ir.edits import AddToParameter, ConstantTensor, Edit, SetAttribute
from speedup.ir.evaluation import evaluate
from speedup.ir.graph import Op
from speedup.lowerings import Alternative, PartialLayerNorm
from speedup.rules.pointwise import couple_elements
from speedup.rules.rule import (
    Facts,
    Lives,
    Rule,
    Sizes,
    any_of,
    equal,
    keep_instead,
    named_fact,
    nothing_known,
    pinned,
    reason_for,
)
from speedup.rules.site import Site
from speedup.rules.weights import Attributes, normalization_weight

_PASSES = 4
"""How often the norm that is told what is gone reads or writes its data more than LayerNorm does."""


def _last(op: Op) -> range:
    ndim = op.results[0].ndim
    return range(ndim - len(op["normalized_shape"]), ndim)


def layer_norm_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    data, weight = facts[0], named_fact(op, facts, "weight")
    bias = named_fact(op, facts, "bias")
    dims = _last(op)
    lead = (1,) * (data.ndim - len(dims))

    def per_feature(tensor: Tensor) -> Tensor:
        return tensor.reshape(lead + tuple(tensor.shape))

    zero = indicator(False, data.ndim)
    if weight is not None:
        zero = per_feature(weight.known & (weight.value == 0))
    affine_known = indicator(True, data.ndim)
    for found in (weight, bias):
        if found is not None:
            affine_known = affine_known & per_feature(found.known)
    known = (all_over(data.known, dims) | zero) & affine_known
    if not bool(known.any()) or op.follows_sizes("eps"):
        return nothing_known(op, facts)
    affine = [f.value.expand(v.shape) for f, v in zip(facts[1:], op.operands[1:], strict=True)]
    value = evaluate(op, [spread(data.value, op.operands[0].shape, dims), *affine])[0]
    return (fact(known, value),)


def layer_norm_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    weight, dims = named_fact(op, facts, "weight"), _last(op)
    reads = live[0]
    if weight is not None:
        nonzero = weight.maybe_nonzero
        reads = reads & nonzero.reshape((1,) * (reads.ndim - nonzero.ndim) + tuple(nonzero.shape))
    rest = any_over(live[0], range(live[0].ndim - len(dims)))
    affine = rest.reshape(rest.shape[live[0].ndim - len(dims) :])
    return tuple(any_over(reads, dims) if n == 0 else affine for n in range(len(op.operands)))


def _constant(site: Site) -> Tensor:
    """Bool per index of the one normalized dimension: the same for every input at every position."""
    data = site.op.operands[0]
    found, extent = site.fact(data), data.shape[-1]
    value = found.value
    first = value[(slice(0, 1),) * (data.ndim - 1)]
    return ~any_along(~found.known, data.ndim - 1, extent) & ~any_along(value != first, data.ndim - 1, extent)


def _is_read(site: Site) -> bool:
    """Whether anything reads what is normalized: not where nothing reads the result, or the weight is 0.

    Without an epsilon the norm of a single index is no number, and 0 times that is none either.
    """
    return site.op["eps"] == 0 or bool(site.live(site.op.operands[0]).any())


def layer_norm_couple(site: Site) -> Iterable[Constraint]:
    """What differs between inputs, or between positions, counts in the statistics and stays."""
    op, data = site.op, site.op.operands[0]
    yield from couple_elements(op, op.results[0], [data], site)
    reason = site.because(reason_for(op, "takes statistics over this dimension"))
    dims = _last(op)
    for value in op.operands[1:]:
        for own, dim in zip(range(value.ndim), dims, strict=True):
            yield from equal(reason, (data, dim), (value, own))
    if len(dims) > 1:
        yield from pinned(data, dims, reason)
    elif _is_read(site):
        yield from pinned(data, dims, reason, ~_constant(site))


def _statistics_kept(site: Site) -> Iterable[Constraint]:
    """A norm that cannot be told what is gone must find all of it."""
    if _is_read(site):
        reason = site.because(reason_for(site.op, "takes statistics over this dimension"))
        yield from pinned(site.op.operands[0], _last(site.op), reason)


def _dropped(site: Site, kept: KeepSets) -> Tensor:
    """The values of the constants that are gone, in float64."""
    data = site.op.operands[0]
    gone = ~kept[(data.index, data.ndim - 1)]
    value = site.fact(data).value[(slice(0, 1),) * (data.ndim - 1)].reshape(-1)
    return value.expand(data.shape[-1])[gone].double()


def _statistics_hold(site: Site, kept: KeepSets) -> bool:
    """Whether the statistics of what is left will do as they are."""
    data = site.op.operands[0].index
    return not _is_read(site) or all(kept.is_full((data, d)) for d in _last(site.op))


def tell_what_is_gone(site: Site, sizes: Sizes, kept: KeepSets) -> Iterable[Alternative]:
    """LayerNorm of what is left, told what the rest adds up to."""
    gone = _dropped(site, kept)
    total = site.op["normalized_shape"][0]
    told = PartialLayerNorm(gone.numel(), total, float(gone.sum()), float(gone.square().sum()))
    yield Alternative(told, cost=_PASSES * prod(sizes(site.op.operands[0])))


def norm_needs(site: Site, sizes: Sizes, kept: KeepSets) -> Mapping[str, Any]:
    """`normalized_shape` lists the sizes of the dimensions that are left."""
    return {"normalized_shape": tuple(sizes(site.op.results[0])[d] for d in _last(site.op))}


LAYER_NORM = Rule(
    couple=layer_norm_couple,
    known=layer_norm_known,
    live=layer_norm_live,
    needs=norm_needs,
    holds=lambda site, sizes, kept: _statistics_hold(site, kept),
    alternatives=any_of(tell_what_is_gone, keep_instead(_statistics_kept)),
    reads_sizes=True,
)


def _is_foldable(site: Site) -> bool:
    """Whether weight and epsilon are the module's own, so that they can take constants over."""
    own = getattr(site.op.owner.type, "forward", None) is nn.RMSNorm.forward
    together = site.counterparts(site.operand("weight"))
    if not own or not together or len(_last(site.op)) != 1:
        return False
    return all(_drops_alike(site, site.at(other)) for other in together)


def _drops_alike(site: Site, other: Site) -> bool:
    """Whether the same features, if any, are the same constants in two calls."""
    one, two = (_constants(each) for each in (site, other))
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def _constants(site: Site) -> tuple[Tensor, Tensor]:
    """Which features are constant, and the constants."""
    constant, data = _constant(site), site.op.operands[0]
    value = site.fact(data).value[(slice(0, 1),) * (data.ndim - 1)].reshape(-1).expand(data.shape[-1])
    return constant, torch.where(constant, value, torch.zeros((), dtype=value.dtype))


def rms_norm_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """As LayerNorm; and what is not centred is 0 where it was."""
    (found,), data = layer_norm_known(op, facts), facts[0]
    if op["eps"] == 0:
        return (found,)
    nil = data.known & (data.value == 0)
    return (fact(found.known | nil, torch.where(nil, torch.zeros_like(found.value), found.value)),)


def rms_norm_couple(site: Site) -> Iterable[Constraint]:
    """As LayerNorm, where the module can make up for what is gone."""
    yield from layer_norm_couple(site)
    weight = site.operand("weight")
    if not _is_foldable(site):
        yield from _statistics_kept(site)
    elif weight is not None and not site.fact(weight).is_all_known() and _is_read(site):
        reason = site.because(f"the numbers of {weight.name}, to be scaled, are not at hand")
        yield from pinned(site.op.operands[0], _last(site.op), reason)


def _epsilon(op: Op) -> float:
    given = op["eps"]
    return float(torch.finfo(op.result.dtype).eps if given is None else given)


def folded_epsilon(site: Site, kept: KeepSets) -> float:
    """The mean over k of N squares is the mean over N, times N / k, less what the dropped ones add."""
    total, left = site.op["normalized_shape"][0], kept.count(_features(site))
    squares = float(_dropped(site, kept).square().sum())
    return float(squares + total * _epsilon(site.op)) / left


def _features(site: Site) -> tuple[int, int]:
    data = site.op.operands[0]
    return data.index, data.ndim - 1


def rms_norm_compensate(site: Site, kept: KeepSets) -> Iterable[Edit]:
    """Scale the weight by sqrt(N / k) and set the epsilon that goes with it."""
    weight = site.operand("weight")
    if weight is None or site.counterparts(weight)[:1] != (site.op.index,) or _statistics_hold(site, kept):
        return
    total, left = weight.shape[0], kept.count(_features(site))
    value = site.fact(weight).value.expand(weight.shape).double()
    why = f"statistics of {total} features from {left}"
    yield AddToParameter(weight.name, ConstantTensor(value * (math.sqrt(total / left) - 1)), why)
    yield SetAttribute(site.op.owner.path, "eps", site.op["eps"], folded_epsilon(site, kept))


def rms_norm_needs(site: Site, sizes: Sizes, kept: KeepSets) -> Mapping[str, Any]:
    """The sizes that are left, and the epsilon that goes with them."""
    found = dict(norm_needs(site, sizes, kept))
    return found if _statistics_hold(site, kept) else {**found, "eps": folded_epsilon(site, kept)}


def _shape(op: Op, sizes: Sizes) -> Attributes:
    rank = len(op["normalized_shape"])
    return {"normalized_shape": tuple(sizes(op.operands[0])[-rank:])}


_LAST = evolve(
    normalization_weight(last=True),
    attributes=MappingProxyType({nn.LayerNorm: _shape, nn.RMSNorm: _shape}),
    settable=MappingProxyType({nn.RMSNorm: frozenset({"eps"})}),
)

RMS_NORM = Rule(
    couple=rms_norm_couple,
    known=rms_norm_known,
    live=layer_norm_live,
    needs=rms_norm_needs,
    compensate=rms_norm_compensate,
    weight=_LAST,
    reads_sizes=True,
)

RULES: dict[str, Rule] = {"layer_norm": evolve(LAYER_NORM, weight=_LAST), "rms_norm": RMS_NORM}
