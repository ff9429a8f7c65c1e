"""Distances and angles between vectors: zeros in both do not count, constants do."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from speedup.engine.constraints import Constraint, Pinned
from speedup.engine.lattice import Fact, any_along, any_over, broadcast, fact, fold_to, spread
from speedup.ir.graph import Op, Value
from speedup.rules.rule import Facts, Lives, Rule, equal, pinned, reason_for
from speedup.rules.site import Site


def _all_indices_count(site: Site, members: tuple[tuple[Value, int], ...]) -> Iterable[Constraint]:
    """Two dimensions that are summed over correspond; where either is a constant other than 0, they stay."""
    (first, dim), (second, other) = members
    reason = site.because(reason_for(site.op, "counts constants that are not zero"))
    if first.shape[dim] != second.shape[other]:
        yield from pinned(first, [dim], reason)
        yield from pinned(second, [other], reason)
        return
    yield from equal(site.because(reason_for(site.op, "compares element by element")), *members)
    if first.shape[dim] != 1:
        counts = [any_along(site.fact(v).known_nonzero & site.live(v), d, v.shape[d]) for v, d in members]
        yield Pinned((first.index, dim), reason, counts[0] | counts[1])


def _couple_pairs(site: Site, rank: int, free: Iterable[tuple[int, int]]) -> Iterable[Constraint]:
    """`free` are pairs of a dimension of the operands, aligned in `rank` dimensions, and of the result."""
    reason = site.because(reason_for(site.op, "ties the dimensions it does not sum over"))
    for dim, result in free:
        members = [(site.op.result, result)]
        for value in site.op.operands:
            own = dim - (rank - value.ndim)
            if own >= 0 and value.shape[own] == site.op.result.shape[result]:
                members.append((value, own))
        yield from equal(reason, *members)


def _rank(op: Op) -> int:
    return max(v.ndim for v in op.operands)


def angle_couple(site: Site) -> Iterable[Constraint]:
    """cosine_similarity along `dim`, which the result lacks."""
    op, rank = site.op, _rank(site.op)
    axis = op["dim"] % rank
    yield from _couple_pairs(site, rank, ((d, d - (d > axis)) for d in range(rank) if d != axis))
    first, second = op.operands
    own = [axis - (rank - v.ndim) for v in (first, second)]
    if min(own) < 0:
        reason = site.because(reason_for(op, "repeats one of its operands"))
        for value, dim in zip((first, second), own, strict=True):
            yield from pinned(value, [dim] if dim >= 0 else [], reason)
        return
    yield from _all_indices_count(site, ((first, own[0]), (second, own[1])))


def angle_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    reads = live[0].unsqueeze(op["dim"] % _rank(op))
    return tuple(fold_to(reads, v.shape) for v in op.operands)


def cdist_couple(site: Site) -> Iterable[Constraint]:
    """Distances (.., P, R) between rows of (.., P, M) and rows of (.., R, M)."""
    op = site.op
    first, second, result = *op.operands, op.result
    reason = site.because("cdist has a row or a column for each vector")
    yield from _couple_pairs(site, result.ndim, ((d, d) for d in range(result.ndim - 2)))
    yield from equal(reason, (result, result.ndim - 2), (first, first.ndim - 2))
    yield from equal(reason, (result, result.ndim - 1), (second, second.ndim - 2))
    yield from _all_indices_count(site, ((first, first.ndim - 1), (second, second.ndim - 1)))


def cdist_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    ndim = op.result.ndim
    first, second = op.operands
    by_column = any_over(live[0], [ndim - 2]).transpose(-1, -2)
    return fold_to(any_over(live[0], [ndim - 1]), first.shape), fold_to(by_column, second.shape)


def pairwise_couple(site: Site) -> Iterable[Constraint]:
    """pairwise_distance adds a small number to each difference, so that even zeros count."""
    op, rank = site.op, _rank(site.op)
    yield from _couple_pairs(site, rank, ((d, d) for d in range(rank - 1)))
    reason = site.because(reason_for(op, "reads the whole dimension"))
    for value in op.operands:
        yield from pinned(value, [value.ndim - 1], reason)


def pairwise_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    reads = live[0] if op["keepdim"] else live[0][..., None]
    return tuple(fold_to(reads, v.shape) for v in op.operands)


def cross_couple(site: Site) -> Iterable[Constraint]:
    op, result = site.op, site.op.result
    if op["dim"] is None:
        reason = site.because("cross looks for the first dimension of extent 3")
        for value in (*op.operands, result):
            yield from pinned(value, range(value.ndim), reason)
        return
    axis = op["dim"] % result.ndim
    yield from _couple_pairs(site, result.ndim, ((d, d) for d in range(result.ndim) if d != axis))
    reason = site.because(reason_for(op, "works on vectors of three"))
    for value in (*op.operands, result):
        yield from pinned(value, [axis - (result.ndim - value.ndim)], reason)


def _crossed_axis(op: Op) -> int:
    """The dimension of vectors of three: the first of that extent where none is named."""
    return op["dim"] % op.result.ndim if op["dim"] is not None else op.result.shape.index(3)


def _turned(tensor: Tensor, axis: int, by: int) -> Tensor:
    """Along the vectors, at each place what lies `by` places further on."""
    return torch.roll(spread(tensor, (3,) * tensor.ndim, [axis]), -by, axis)


def cross_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """Each component is the difference of two products; of two zeros the first has to hold."""
    axis = _crossed_axis(op)
    first, second = (_aligned(f.maybe_nonzero, op.result.ndim) for f in facts)
    ours, theirs = torch.zeros((), dtype=torch.bool), torch.zeros((), dtype=torch.bool)
    for own, other in ((1, 2), (2, 1)):
        one, two = _turned(first, axis, own), _turned(second, axis, other)
        ours = ours | _turned(live[0] & (two | ~one), axis, -own)
        theirs = theirs | _turned(live[0] & one, axis, -other)
    return tuple(fold_to(r, v.shape) for r, v in zip((ours, theirs), op.operands, strict=True))


def _aligned(tensor: Tensor, ndim: int) -> Tensor:
    return tensor.reshape((1,) * (ndim - tensor.ndim) + tuple(tensor.shape))


def cross_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Known where both products of a component are: both factors, or one that is 0."""
    axis, ndim = _crossed_axis(op), op.result.ndim
    parts = [[_aligned(t, ndim) for t in (f.known, f.value)] for f in facts]
    known, value = torch.ones((), dtype=torch.bool), torch.zeros((), dtype=op.result.dtype)
    for own, other, sign in ((1, 2, 1), (2, 1, -1)):
        (a, x), (b, y) = (
            [_turned(t, axis, by) for t in one] for one, by in zip(parts, (own, other), strict=True)
        )
        known = known & ((a & b) | (a & (x == 0)) | (b & (y == 0)))
        value = value + sign * x * y
    return (fact(*broadcast(known, value)),)


CROSS = Rule(couple=cross_couple, known=cross_known, live=cross_live)

RULES: dict[str, Rule] = {
    "cosine_similarity": Rule(couple=angle_couple, live=angle_live),
    "cdist": Rule(couple=cdist_couple, live=cdist_live),
    "pairwise_distance": Rule(couple=pairwise_couple, live=pairwise_live),
    "cross": CROSS,
    "linalg_cross": CROSS,
}
