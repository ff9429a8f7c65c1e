"""Operators that read whole dimensions: reductions, softmax, scans, pools, interpolation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from math import prod
from operator import or_

import torch
from attrs import evolve
from torch import Tensor

from speedup.engine.borders import Bordered
from speedup.engine.bounds import Bounds
from speedup.engine.constraints import Constraint, Pinned
from speedup.engine.keepsets import KeepSets
from speedup.engine.lattice import (
    Fact,
    all_over,
    any_along,
    any_over,
    broadcast,
    fact,
    indicator,
    spread,
    uniform_fact,
    unknown,
)
from speedup.ir.evaluation import evaluate
from speedup.ir.graph import Op
from speedup.lowerings import Alternative, MeanOfTotal
from speedup.rules.borders import average
from speedup.rules.bounded import AT_LEAST_0, UP_TO_1, always, as_given, as_given_or_0, keeps_sign
from speedup.rules.rule import (
    BoundsOf,
    Facts,
    Lives,
    Rule,
    Sizes,
    any_of,
    equal,
    keep_instead,
    matched,
    no_bounds,
    nothing_known,
    pinned,
    reason_for,
)
from speedup.rules.site import Site


def _dims(op: Op) -> tuple[int, ...]:
    """The dimensions an op reduces or runs along; all of them when it names none."""
    ndim = op.operands[0].ndim
    given = 0 if op.name == "msort" else op.get("dim", op.get("axis"))
    if given is None or given == () or ndim == 0:
        return tuple(range(ndim))
    return tuple(d % ndim for d in (given if isinstance(given, tuple) else (given,)))


def _kept_dims(op: Op) -> list[tuple[int, int]]:
    """(operand dim, result dim) of the dimensions that are not reduced."""
    data, gone = op.operands[0], set(_dims(op))
    if op.results[0].ndim == data.ndim:
        return [(d, d) for d in range(data.ndim) if d not in gone]
    return [(d, n) for n, d in enumerate(d for d in range(data.ndim) if d not in gone)]


def _shaped(op: Op, tensor: Tensor) -> Tensor:
    """A compressed tensor of the operand's rank, reduced dims being 1, in the result's rank."""
    if op.results[0].ndim == tensor.ndim:
        return tensor
    gone = set(_dims(op))
    return tensor.reshape([n for d, n in enumerate(tensor.shape) if d not in gone])


def reduce_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Known where all that is reduced is known."""
    data = facts[0]
    if data.is_unknown or len(op.operands) > 1:
        return nothing_known(op, facts)
    dims = _dims(op)
    known = _shaped(op, all_over(data.known, dims))
    if not bool(known.any()):
        return nothing_known(op, facts)
    # On an expanded view torch's median comes out as another number.
    values = evaluate(op, [spread(data.value, op.operands[0].shape, dims).contiguous()])
    return tuple(fact(known, v) for v in values)


def counting_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Like `reduce_known`, but how much adds up depends on how many there are, such as the batch."""
    if facts[0].is_given(op.operands[0].shape):
        return reduce_known(op, facts)
    return tuple(fact(f.known & (f.value == 0), f.value) for f in reduce_known(op, facts))


def ranked_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Like `reduce_known`, but which of equal numbers is taken depends on how many there are."""
    found = reduce_known(op, facts)
    return (found[0], *nothing_known(op, facts)[1:]) if _is_uniform(op, facts) else found


def _is_uniform(op: Op, facts: Facts) -> bool:
    """Whether what is reduced is the same at every index of a dimension, however many there are."""
    return any(facts[0].value.shape[d] == 1 for d in _dims(op))


def constants_only(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Known only for tensors that are constants as a whole, given element by element."""
    given = facts[0].is_given(op.operands[0].shape)
    return reduce_known(op, facts) if given else nothing_known(op, facts)


def _spread_back(op: Op, live: Tensor) -> Tensor:
    data, gone = op.operands[0], _dims(op)
    if live.ndim == data.ndim:
        return any_over(live, gone)
    shape = [1] * data.ndim
    for own, result in _kept_dims(op):
        shape[own] = live.shape[result]
    return live.reshape(shape)


def reduce_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    return (reduce(or_, (_spread_back(op, one) for one in live)),)


def reduce_couple(site: Site) -> Iterable[Constraint]:
    op, data = site.op, site.op.operands[0]
    reason = site.because(reason_for(op, "reads the whole dimension"))
    for own, result in _kept_dims(op):
        yield from equal(reason, (data, own), *((r, result) for r in op.results))
    yield from pinned(data, _dims(op), reason)


def sum_couple(site: Site) -> Iterable[Constraint]:
    """Zeros do not count in a sum or a norm; constants do."""
    op, data = site.op, site.op.operands[0]
    if op.get("ord", 1) <= 0:
        yield from reduce_couple(site)
        return
    reason = site.because(reason_for(op, "adds up constants that are not zero"))
    for own, result in _kept_dims(op):
        yield from equal(reason, (data, own), *((r, result) for r in op.results))
    counts = site.fact(data).known_nonzero & site.live(data)
    for dim in _dims(op):
        if data.shape[dim] != 1:
            yield Pinned((data.index, dim), reason, any_along(counts, dim, data.shape[dim]))


def largest_couple(site: Site) -> Iterable[Constraint]:
    """Zeros do not count among numbers of one sign, of which they are the least of all in magnitude, and
    some other number is left.
    """
    op, bounds = site.op, site.fact(site.op.operands[0]).bounds
    counts_zeros = bounds.low < 0 if op.name.startswith(("amax", "max")) else bounds.high > 0
    has_places = any(bool(site.live(r).any()) for r in op.results[1:])
    yield from reduce_couple(site) if counts_zeros or has_places else sum_couple(site)


def mean_couple(site: Site) -> Iterable[Constraint]:
    """Zeros add nothing to a mean; they only count, and the source can be told how many there were."""
    yield from reduce_couple(site) if len(_dims(site.op)) > 1 else sum_couple(site)


def _mean_holds(site: Site, sizes: Sizes, kept: KeepSets) -> bool:
    data = site.op.operands[0]
    return all(kept.is_full((data.index, d)) for d in _dims(site.op))


def mean_of_total(site: Site, sizes: Sizes, kept: KeepSets) -> Iterable[Alternative]:
    """A mean over what is left, divided by what there was."""
    (dim,) = _dims(site.op)
    yield Alternative(MeanOfTotal(site.op.operands[0].shape[dim]), cost=prod(sizes(site.op.result)))


def _mean_at_borders(op: Op, found: Sequence[Bordered | Fact]) -> Bordered | None:
    """The mean over one dimension may lose some of it, which would mix otherwise."""
    return average(_dims)(op, found) if len(_dims(op)) > 1 else None


def along_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Softmax, scans, sorts: known where everything along the dimension is.

    Where it is uniform along it, most outcomes depend on the extent, such as the batch.
    """
    if _is_uniform(op, facts):
        return _uniform_known(op, facts)
    return reduce_known(op, facts)


def _uniform_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """A row of equal numbers, sorted or differentiated, at every extent; zeros add up to 0."""
    nothing = nothing_known(op, facts)
    if len(facts) > 1 or not op.name.startswith(("diff", "cumsum", *_ORDERING)):
        return nothing
    known, value = all_over(facts[0].known, _dims(op)), facts[0].value
    if op.name.startswith("cumsum"):
        known = known & (value == 0)
    elif op.name.startswith("diff"):
        value = torch.zeros_like(value)
    return (fact(known, value.to(op.results[0].dtype)), *nothing[1:])


def along_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    reads = reduce(or_, (any_over(one, _dims(op)) for one in live))
    return (reads,) * len(op.operands)


def _neighbours(op: Op) -> int | None:
    """The dimension along which each element is the difference of two; None where it is of more."""
    return _dims(op)[0] if op["n"] == 1 and len(op.operands) == 1 else None


def _without(tensor: Tensor, dim: int, first: bool) -> Tensor:
    """All but the first or last index of a dimension, unless all are alike."""
    extent = tensor.shape[dim]
    return tensor if extent == 1 else tensor.narrow(dim, int(first), extent - 1)


def difference_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Known where two neighbours are."""
    dim, data = _neighbours(op), facts[0]
    if dim is None or _is_uniform(op, facts):
        return along_known(op, facts)
    known = _without(data.known, dim, True) & _without(data.known, dim, False)
    after, before = (
        spread(_without(data.value, dim, first), op.result.shape, [dim]) for first in (True, False)
    )
    value = after ^ before if after.dtype is torch.bool else after - before
    return (fact(*broadcast(known, value)),)


def difference_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """What either of the two differences that an element is in is read for."""
    dim = _neighbours(op)
    if dim is None:
        return along_live(op, facts, live)
    reads = spread(live[0], op.result.shape, [dim])
    nothing = torch.zeros_like(reads.narrow(dim, 0, min(1, reads.shape[dim])))
    return (torch.cat([reads, nothing], dim) | torch.cat([nothing, reads], dim),)


def along_couple(site: Site) -> Iterable[Constraint]:
    op, data = site.op, site.op.operands[0]
    reason = site.because(reason_for(op, "runs along the whole dimension"))
    gone, values = _dims(op), (*op.operands, *op.results)
    yield from matched(reason, values, (d for d in range(data.ndim) if d not in gone))
    for value in values:
        yield from pinned(value, gone, reason)


def _slice_dims(op: Op) -> tuple[int, ...]:
    """The dimensions of one slice of `renorm`, which scales each index of its own dimension by its norm."""
    ndim = op.result.ndim
    return tuple(d for d in range(ndim) if d != op["dim"] % ndim)


def renorm_couple(site: Site) -> Iterable[Constraint]:
    """Slices are independent of one another; in each, zeros do not count, and constants do."""
    op, data = site.op, site.op.operands[0]
    reason = site.because(reason_for(op, "ties the dimensions of what it scales"))
    yield from matched(reason, (data, op.result), range(data.ndim))
    counts = site.live(data) & site.fact(data).known_nonzero
    adds = site.because(reason_for(op, "adds up constants that are not zero"))
    for dim in _slice_dims(op):
        if data.shape[dim] != 1:
            yield Pinned((data.index, dim), adds, any_along(counts, dim, data.shape[dim]))


def renorm_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Zeros stay zeros."""
    zero = facts[0].known & (facts[0].value == 0)
    return (fact(zero, torch.zeros_like(facts[0].value)),)


def renorm_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    return (any_over(live[0], _slice_dims(op)),)


def _space(op: Op, rank: int) -> range:
    ndim = op.operands[0].ndim
    return range(ndim - rank, ndim)


def _pool_known(op: Op, facts: Facts, rank: int, keeps_constants: Callable[[Op], bool]) -> tuple[Fact, ...]:
    # Of each channel by itself: others may be tables of positions, which are another number at each place.
    data = uniform_fact(facts[0], _space(op, rank))
    if data.is_unknown:
        return nothing_known(op, facts)
    known, value = data.known, data.value
    if not keeps_constants(op):
        known = known & (value == 0)
    rest = tuple(unknown(r.ndim, r.dtype) for r in op.results[1:])
    return (fact(known, value), *rest)


def _padded(op: Op) -> bool:
    padding = op.get("padding") or (0,)
    return any(padding if isinstance(padding, tuple) else (padding,))


def _averages_only_inside(op: Op) -> bool:
    if op.get("divisor_override") is not None:
        return False
    return not op.get("count_include_pad", False) or not (_padded(op) or op.get("ceil_mode", False))


def _pool(
    rank: int, keeps_constants: Callable[[Op], bool], *, averages: bool = False, bounds: BoundsOf = as_given
) -> Rule:
    def known(op: Op, facts: Facts) -> tuple[Fact, ...]:
        return _pool_known(op, facts, rank, keeps_constants)

    def live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
        reads = reduce(or_, (any_over(one, _space(op, rank)) for one in live))
        return (reads, *(indicator(True, v.ndim) for v in op.operands[1:]))

    def couple(site: Site) -> Iterable[Constraint]:
        op, data = site.op, site.op.operands[0]
        reason = site.because(reason_for(op, "works on windows of space"))
        for dim in range(data.ndim - rank):
            yield from equal(reason, (data, dim), *((r, dim) for r in op.results))
        for value in (data, *op.results):
            yield from pinned(value, _space(op, rank), reason)

    def at_borders(op: Op, found: Sequence[Bordered | Fact]) -> Bordered | None:
        return average(lambda op: _space(op, rank))(op, found) if averages and keeps_constants(op) else None

    return Rule(
        couple=couple,
        known=known,
        live=live,
        bounds=bounds,
        at_borders=at_borders,
        reads_sizes=True,
    )


def _average_bounds(op: Op, facts: Facts) -> Sequence[Bounds]:
    """Averages over windows in which zeros may lie."""
    return keeps_sign(op, facts) if op.get("divisor_override") is not None else as_given_or_0(op, facts)


def _always(op: Op) -> bool:
    return True


REDUCTION = Rule(couple=reduce_couple, known=reduce_known, live=reduce_live)
LARGEST = Rule(couple=largest_couple, known=reduce_known, live=reduce_live, bounds=as_given)
RANKED = Rule(couple=reduce_couple, known=ranked_known, live=reduce_live, bounds=as_given)
COUNTING = Rule(couple=reduce_couple, known=constants_only, live=reduce_live)
NORM = evolve(COUNTING, bounds=always(AT_LEAST_0))
MEAN = Rule(
    couple=mean_couple,
    known=reduce_known,
    live=reduce_live,
    holds=_mean_holds,
    alternatives=any_of(mean_of_total, keep_instead(reduce_couple)),
    at_borders=_mean_at_borders,
    bounds=as_given,
)
SUM = Rule(couple=sum_couple, known=counting_known, live=reduce_live, bounds=keeps_sign)
ALONG = Rule(couple=along_couple, known=along_known, live=along_live)
SOFTMAX = evolve(ALONG, bounds=always(UP_TO_1))
ORDERED = evolve(ALONG, bounds=as_given)
ADDED_UP = evolve(ALONG, bounds=keeps_sign)

_LARGEST = "amax amin max.dim max.default min.dim min.default".split()
_REDUCTIONS = "aminmax argmax argmin any all quantile.scalar nanquantile.scalar".split()
_RANKED = "median nanmedian kthvalue mode".split()
_COUNTING = "prod logsumexp".split()
_NORMS = "norm linalg_norm linalg_matrix_norm".split()
_SPREADS = "var std var_mean std_mean".split()
_ALONG = "log_softmax _log_softmax logcumsumexp argsort".split()
_ORDERED = "cummax cummin sort msort topk".split()
_ORDERING = ("sort", "msort", "topk", "cummax", "cummin")
_UPSAMPLE = {
    "nearest1d": 1,
    "nearest2d": 2,
    "nearest3d": 3,
    "linear1d": 1,
    "bilinear2d": 2,
    "bicubic2d": 2,
    "trilinear3d": 3,
}
_UPSAMPLES = {
    **{f"upsample_{kind}": rank for kind, rank in _UPSAMPLE.items()},
    **{f"_upsample_nearest_exact{n}d": n for n in (1, 2, 3)},
    **{f"_upsample_{kind}_aa": 2 for kind in ("bilinear2d", "bicubic2d")},
}

RULES: dict[str, Rule] = {
    **dict.fromkeys(_REDUCTIONS, REDUCTION),
    **dict.fromkeys(_LARGEST, LARGEST),
    "mean": MEAN,
    **dict.fromkeys(_RANKED, RANKED),
    **dict.fromkeys(_COUNTING, COUNTING),
    **dict.fromkeys(_NORMS, evolve(NORM, known=counting_known)),
    **dict.fromkeys(_SPREADS, NORM),
    **dict.fromkeys(("sum", "nansum", "count_nonzero"), SUM),
    "linalg_vector_norm": evolve(SUM, bounds=always(AT_LEAST_0)),
    **dict.fromkeys(_ALONG, ALONG),
    "renorm": Rule(couple=renorm_couple, known=renorm_known, live=renorm_live),
    "diff": evolve(ALONG, known=difference_known, live=difference_live),
    **dict.fromkeys(_ORDERED, ORDERED),
    **dict.fromkeys(("softmax", "_softmax"), SOFTMAX),
    **dict.fromkeys(("cumsum", "cumprod"), ADDED_UP),
    "topk": evolve(ORDERED, is_monotone=True),
    **{f"max_pool{n}d": _pool(n, _always) for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": _pool(n, _always) for n in (2, 3)},
    **{
        f"avg_pool{n}d": _pool(n, _averages_only_inside, averages=True, bounds=_average_bounds)
        for n in (1, 2, 3)
    },
    **{f"adaptive_avg_pool{n}d": _pool(n, _always, averages=True) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": _pool(n, _always) for n in (1, 2, 3)},
    **{
        name: _pool(rank, _always, averages=True, bounds=no_bounds if "bicubic" in name else as_given)
        for name, rank in _UPSAMPLES.items()
    },
}
