"""Operators that weave several channels into one; no product of independent blocks describes them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from speedup.constraints import Constraint, Mapped, Pinned
from speedup.graph import Op
from speedup.lattice import Fact, fact, runs, spread, unknown
from speedup.rules.rule import Facts, Lives, Rule, Site, equal


def shuffle_blocks_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """`pixel_shuffle` of channels that are constant everywhere, to the same constant."""
    data = facts[0]
    axis = op.result.ndim - 3
    if data.is_unknown or any(n != 1 for d, n in enumerate(data.known.shape) if d > axis):
        return (unknown(op.result.ndim, op.result.dtype),)
    if any(n != 1 for d, n in enumerate(data.value.shape) if d > axis):
        return (unknown(op.result.ndim, op.result.dtype),)
    shape, channels = op.operands[0].shape, op.result.shape[axis]
    known = runs(spread(data.known, shape, [axis]), axis, channels)
    value = runs(spread(data.value, shape, [axis]), axis, channels)
    same = (value == value.narrow(axis + 1, 0, 1)).all(axis + 1)
    return (fact(known.all(axis + 1) & same, value.select(axis + 1, 0)),)


def shuffle_blocks_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    axis = op.result.ndim - 3
    reads = live[0]
    for dim in (axis + 1, axis + 2):
        reads = reads.any(dim, keepdim=True)
    if reads.shape[axis] != 1:
        reads = reads.repeat_interleave(op["upscale_factor"] ** 2, axis)
    return (reads,)


def shuffle_blocks_couple(site: Site) -> Iterable[Constraint]:
    """Each result channel is woven from `factor ** 2` operand channels, all or none of which stay."""
    op = site.op
    source, target = op.operands[0], op.result
    axis, square = target.ndim - 3, op["upscale_factor"] ** 2
    cause = site.because("pixel_shuffle weaves runs of channels into one")
    every = torch.arange(source.shape[axis])
    # Seen from the operand: its channel c belongs to result channel c // square.
    yield Mapped(
        ((target.index, axis),),
        ((source.index, axis),),
        every // square,
        (target.shape[axis],),
        (source.shape[axis],),
        cause,
    )
    for dim in range(axis):
        yield from equal(cause, (target, dim), (source, dim))
    for value in (source, target):
        for dim in (axis + 1, axis + 2):
            if value.shape[dim] != 1:
                yield Pinned((value.index, dim), cause)


RULES: dict[str, Rule] = {
    "pixel_shuffle": Rule(couple=shuffle_blocks_couple, known=shuffle_blocks_known, live=shuffle_blocks_live),
}
