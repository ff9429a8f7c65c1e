"""Gated linear units in one operator: one half of a dimension gates the other."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from speedup.engine.constraints import Constraint, Mapped
from speedup.engine.lattice import Fact, broadcast, fact, spread
from speedup.ir.graph import Op
from speedup.rules.rule import Facts, Lives, Rule, equal, nothing_known
from speedup.rules.site import Site


def glu_couple(site: Site) -> Iterable[Constraint]:
    """Both halves of the operand pair up with the result."""
    op, data = site.op, site.op.operands[0]
    axis = op["dim"] % data.ndim
    reason = site.because("glu multiplies one half with the other")
    for dim in range(data.ndim):
        if dim != axis:
            yield from equal(reason, (data, dim), (op.result, dim))
    half = torch.arange(data.shape[axis]) % op.result.shape[axis]
    yield Mapped(
        ((op.result.index, axis),),
        ((data.index, axis),),
        half,
        (op.result.shape[axis],),
        (data.shape[axis],),
        reason,
    )


def glu_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """A first half that is 0 stays 0 whatever gates it."""
    data, axis = facts[0], op["dim"] % op.operands[0].ndim
    if data.is_unknown:
        return nothing_known(op, facts)
    known, gate_known = spread(data.known, op.operands[0].shape, [axis]).chunk(2, axis)
    value, gate = spread(data.value, op.operands[0].shape, [axis]).chunk(2, axis)
    return (fact(known & (gate_known | (value == 0)), value * torch.sigmoid(gate)),)


def glu_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """What gates a 0 is not read."""
    axis, data = op["dim"] % op.operands[0].ndim, facts[0]
    if data.is_unknown and live[0].shape[axis] == 1:
        return (live[0],)
    nonzero = spread(data.maybe_nonzero, op.operands[0].shape, [axis]).chunk(2, axis)[0]
    gated, gating = broadcast(spread(live[0], op.result.shape, [axis]), live[0] & nonzero)
    return (torch.cat([gated, gating], axis),)


RULES: dict[str, Rule] = {"glu": Rule(couple=glu_couple, known=glu_known, live=glu_live)}
