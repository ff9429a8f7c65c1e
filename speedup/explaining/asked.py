"""What the masks ask for, and what of it stays: totals over the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod

import torch
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.engine.lattice import any_along
from speedup.explaining.axes import axes_of
from speedup.explaining.reasons import Withheld
from speedup.ir.graph import Shape, Value
from speedup.ir.report import Asked

# By the index of a weight or an op, the shares of it that are withheld, one for each axis.
_Shares = dict[int, dict[str, float]]


def asked_of(analysis: Analysis, found: Iterable[Withheld], masks: int) -> Asked:
    """The zeros in the weights of layers, and what would go besides were `found` not withheld.

    `masks` is the number of parameters with a mask.
    """
    weights = zero = sliced = 0
    for weight in _weights(analysis):
        live = analysis.facts[weight.index].maybe_nonzero
        weights += prod(weight.shape)
        zero += prod(weight.shape) - _count(live, weight.shape)
        sliced += prod(weight.shape) - _box(live, weight.shape)
    parameters, macs = _held_back(analysis, found)
    return Asked(masks, weights, zero, sliced, parameters, macs)


def _weights(analysis: Analysis) -> Iterator[Value]:
    """The weights of all layers but their biases, each once, as the layers get them."""
    seen: set[int] = set()
    for op in analysis.graph.ops:
        for axis in axes_of(op, analysis):
            for weight in axis.weights:
                if weight.ndim >= 2 and weight.index not in seen:
                    seen.add(weight.index)
                    yield weight


def _count(live: Tensor, shape: Shape) -> int:
    """How many elements of a tensor of `shape` are True, of which `live` is the compressed form."""
    # A sum of bools takes seventeen times as long.
    return int(torch.count_nonzero(live)) * (prod(shape) // max(live.numel(), 1))


def _box(live: Tensor, shape: Shape) -> int:
    """How many elements are in no slice, along any dimension, that is False throughout."""
    kept = 1
    for dim, extent in enumerate(shape):
        kept *= int(torch.count_nonzero(any_along(live, dim, extent)))
    return kept


def _held_back(analysis: Analysis, found: Iterable[Withheld]) -> tuple[int, int]:
    """Parameters and MACs that the small model has more than its layers need, each by itself."""
    sizes: dict[int, int] = {}
    work: dict[int, int] = {}
    weights: _Shares = {}
    calls: _Shares = {}
    for one in found:
        axis, op = one.axis, one.axis.op
        share = sum(int(hold.indices.sum()) for hold in one.holds) / analysis.kept.count(axis.dim)
        for weight in axis.weights:
            sizes[weight.index] = prod(analysis.sizes(weight))
            own = weights.setdefault(weight.index, {})
            own[axis.label] = max(own.get(axis.label, 0.0), share)
        if analysis.graph.is_counted(op) and axis.weights:
            work[op.index] = analysis.macs(op)
            calls.setdefault(op.index, {})[axis.label] = axis.share * share
    return _unneeded(sizes, weights), _unneeded(work, calls)


def _unneeded(amounts: Mapping[int, int], shares: _Shares) -> int:
    """What goes of `amounts` where each is left without its shares, one axis after the other."""
    lost = (
        amount * (1 - prod(1 - share for share in shares[key].values())) for key, amount in amounts.items()
    )
    return round(sum(lost))
