"""Rules to make others of: for operators that work channel by channel, or move channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from speedup.engine.constraints import Constraint
from speedup.engine.lattice import Fact, any_along, fact, indicator, vector
from speedup.engine.layout import IndexMap, Shape, same_dims
from speedup.ir.graph import Op
from speedup.rules.layout import layout_rule
from speedup.rules.rule import Facts, Lives, Rule, equal, nothing_known, pinned, reason_for
from speedup.rules.site import Site


def channelwise(
    dims: Mapping[str, int],
    result: int,
    *,
    others: Mapping[int, int] = MappingProxyType({}),
    keeps_zero: bool = False,
) -> Rule:
    """The rule of an operator whose result's channel c depends on the operands' channel c only.

    Args:
        dims: operand, by its name in the operator's schema -> its dimension of channels. What is
            not named is read by every channel, and keeps its size.
        result: the first result's dimension of channels.
        others: further results that have such a channel too, by number -> their dimension of channels. What
            is not named keeps its size.
        keeps_zero: where a channel of the first operand named is 0 throughout, so is the result's.
    """

    def couple(site: Site) -> Iterable[Constraint]:
        axes = {n: axis % site.op.results[n].ndim for n, axis in {0: result, **others}.items()}
        return _couple(site, _channels(site.op, dims), axes)

    def known(op: Op, facts: Facts) -> tuple[Fact, ...]:
        channels = _channels(op, dims)
        return _zeros(op, facts, channels, result) if keeps_zero and channels else nothing_known(op, facts)

    def live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
        channels = _channels(op, dims)
        reads = _live(op, live, channels, result)
        if not keeps_zero or not channels:
            return reads
        # A channel that comes out 0 because the first operand is 0 reads nothing else.
        (held, dim), *others = channels.items()
        extent = op.operands[held].shape[dim]
        open_ = any_along(facts[held].maybe_nonzero, dim, extent)
        chosen = {n: reads[n] & vector(open_, d, op.operands[n].ndim) for n, d in others}
        return tuple(chosen.get(n, one) for n, one in enumerate(reads))

    return Rule(couple=couple, known=known, live=live, reads_sizes=True)


def _channels(op: Op, dims: Mapping[str, int]) -> dict[int, int]:
    """Position among the operands -> dimension of channels, of those that were given."""
    found = {op.position(name): dim for name, dim in dims.items()}
    return {n: dim % op.operands[n].ndim for n, dim in found.items() if n is not None}


def _couple(site: Site, channels: Mapping[int, int], axes: Mapping[int, int]) -> Iterable[Constraint]:
    op = site.op
    reason = site.because(reason_for(op, "works channel by channel"))
    whole = site.because(reason_for(op, "reads the whole dimension"))
    results = ((op.results[n], axis) for n, axis in axes.items())
    yield from equal(reason, *results, *((op.operands[n], d) for n, d in channels.items()))
    for number, value in enumerate(op.operands):
        yield from pinned(value, (d for d in range(value.ndim) if d != channels.get(number)), whole)
    for number, value in enumerate(op.results):
        yield from pinned(value, (d for d in range(value.ndim) if d != axes.get(number)), whole)


def _zeros(op: Op, facts: Facts, channels: Mapping[int, int], result: int) -> tuple[Fact, ...]:
    """Channels of the first result that are 0 because they are in the operand of `channels` named first."""
    number, dim = next(iter(channels.items()))
    target, extent = op.results[0], op.operands[number].shape[dim]
    zero = vector(~any_along(facts[number].maybe_nonzero, dim, extent), result % target.ndim, target.ndim)
    value = torch.zeros((1,) * target.ndim, dtype=target.dtype)
    return (fact(zero, value), *nothing_known(op, facts)[1:])


def _live(op: Op, live: Lives, channels: Mapping[int, int], result: int) -> tuple[Tensor, ...]:
    target = op.results[0]
    reads = any_along(live[0], result % target.ndim, target.shape[result])
    if any(bool(one.any()) for one in live[1:]):
        reads = torch.ones_like(reads)
    return tuple(
        vector(reads, channels[n], v.ndim) if n in channels else indicator(bool(reads.any()), v.ndim)
        for n, v in enumerate(op.operands)
    )


def rearranging(dim: int, index: Callable[[Mapping[str, Any], int], Tensor]) -> Rule:
    """The rule of an operator that moves the indices of dimension `dim` of its first operand.

    `index(arguments, extent)` is an int64 vector: result index t holds operand index `index[t]`,
    or 0 where that is -1, when the operator's arguments are `arguments` by name and the operand
    has `extent` indices.
    """

    def moves(
        arguments: Mapping[str, Any], sources: Sequence[Shape], targets: Sequence[Shape]
    ) -> tuple[IndexMap, ...]:
        source = sources[0]
        axis = dim % len(source)
        return (IndexMap(0, 0, same_dims(len(source), {axis: index(arguments, source[axis])})),)

    return layout_rule(moves)
