"""Operators that weave runs of channels: several channels become one, or one becomes several.

No product of independent blocks describes them, but all are one thing here: on the *wide* side
run c of the channels belongs to channel c of the *narrow* side, and space is rearranged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from attrs import frozen
from torch import Tensor

from speedup.engine.constraints import Constraint, Mapped
from speedup.engine.lattice import Fact, any_over, fact, split_runs, spread, uniform_along
from speedup.ir.graph import Op
from speedup.rules.rule import Facts, Lives, Rule, matched, nothing_known, pinned, reason_for
from speedup.rules.site import Site


@frozen
class Weave:
    """How an op weaves: the dimension of channels on both sides and the length of a run.

    `into_one`: the operand is the wide side. `constants`: a constant channel gives that constant.
    """

    axis: int
    run: int
    into_one: bool
    constants: bool


def _square(factor: int) -> int:
    return factor * factor


def _window(op: Op) -> int:
    height, width = op["kernel_size"]
    return int(height * width)


def pixel_shuffle(op: Op) -> Weave:
    return Weave(op.result.ndim - 3, _square(op["upscale_factor"]), True, True)


def pixel_unshuffle(op: Op) -> Weave:
    return Weave(op.result.ndim - 3, _square(op["downscale_factor"]), False, True)


def im2col(op: Op) -> Weave:
    return Weave(op.result.ndim - 2, _window(op), False, not any(op["padding"]))


def col2im(op: Op) -> Weave:
    """Where windows overlap they add up, and where none lies there is 0."""
    return Weave(op.result.ndim - 3, _window(op), True, False)


def _uniform(tensor: Tensor, axis: int, ndim: int) -> Tensor:
    """A tensor that is uniform after `axis`, in rank `ndim`."""
    for dim in range(axis + 1, tensor.ndim):
        tensor = tensor.narrow(dim, 0, 1)
    return tensor.reshape(*tensor.shape[: axis + 1], *(1,) * (ndim - axis - 1))


def woven_known(op: Op, facts: Facts, weave: Weave) -> tuple[Fact, ...]:
    """Constant channels; where several become one, they have to agree."""
    data, axis = facts[0], weave.axis
    space = range(axis + 1, data.ndim)
    if data.is_unknown or not (uniform_along(data.known, space) and uniform_along(data.value, space)):
        return nothing_known(op, facts)
    shape, ndim = op.operands[0].shape, op.result.ndim
    known = _uniform(spread(data.known, shape, [axis]), axis, ndim)
    value = _uniform(spread(data.value, shape, [axis]), axis, ndim)
    if weave.into_one:
        channels = op.result.shape[axis]
        known, value = split_runs(known, axis, channels), split_runs(value, axis, channels)
        agreed = (value == value.narrow(axis + 1, 0, 1)).all(axis + 1)
        known, value = known.all(axis + 1) & agreed, value.select(axis + 1, 0)
    else:
        known, value = (t.repeat_interleave(weave.run, axis) for t in (known, value))
    return (fact(known if weave.constants else known & (value == 0), value),)


def woven_live(op: Op, facts: Facts, live: Lives, weave: Weave) -> tuple[Tensor, ...]:
    axis, source = weave.axis, op.operands[0]
    reads = _uniform(any_over(live[0], range(axis + 1, op.result.ndim)), axis, source.ndim)
    if reads.shape[axis] == 1:
        return (reads,)
    if weave.into_one:
        return (reads.repeat_interleave(weave.run, axis),)
    return (split_runs(reads, axis, source.shape[axis]).any(axis + 1),)


def woven_couple(site: Site, weave: Weave) -> Iterable[Constraint]:
    """All of a run stays or none of it, with the channel it belongs to."""
    op, axis = site.op, weave.axis
    source, target = op.operands[0], op.result
    narrow, wide = (target, source) if weave.into_one else (source, target)
    reason = site.because(reason_for(op, "weaves runs of channels"))
    yield Mapped(
        ((narrow.index, axis),),
        ((wide.index, axis),),
        torch.arange(wide.shape[axis]) // weave.run,
        (narrow.shape[axis],),
        (wide.shape[axis],),
        reason,
    )
    yield from matched(reason, (target, source), range(axis))
    for value in (source, target):
        yield from pinned(value, range(axis + 1, value.ndim), reason)


def weaving_rule(weave: Callable[[Op], Weave]) -> Rule:
    """The rule of an operator that weaves as `weave` tells of each call."""
    return Rule(
        couple=lambda site: woven_couple(site, weave(site.op)),
        known=lambda op, facts: woven_known(op, facts, weave(op)),
        live=lambda op, facts, live: woven_live(op, facts, live, weave(op)),
    )


RULES: dict[str, Rule] = {
    "pixel_shuffle": weaving_rule(pixel_shuffle),
    "pixel_unshuffle": weaving_rule(pixel_unshuffle),
    "im2col": weaving_rule(im2col),
    "col2im": weaving_rule(col2im),
}
