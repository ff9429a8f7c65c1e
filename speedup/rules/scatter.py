"""Operators that pick or place elements at positions that are data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from attrs import evolve, frozen
from torch import Tensor

from speedup.engine.constraints import Constraint
from speedup.engine.lattice import Fact, any_over, broadcast, fact, fold_to, indicator, uniform_fact
from speedup.ir.graph import Op, Value
from speedup.rules.bounded import as_given
from speedup.rules.rule import (
    Facts,
    Lives,
    Rule,
    equal,
    everything_read,
    matched,
    nothing_known,
    pinned,
    reason_for,
)
from speedup.rules.site import Site

# What lies in the first operand stays where it is.
_PLACING = frozenset({"scatter", "scatter_add", "scatter_reduce"}) | {
    f"index_{name}" for name in ("add", "copy", "fill", "reduce")
}
# Arguments that hold what is moved; all others say where.
_DATA = ("self", "input", "src", "source", "value", "values")


def _axis(op: Op) -> int | None:
    """The dimension along which positions are data; None when the op flattens its operand."""
    dim = op.get("dim")
    return None if dim is None else dim % max(op.result.ndim, 1)


def _ranked(op: Op) -> list[Value]:
    """Operands and result that correspond dimension by dimension."""
    return [v for v in (*op.operands, op.result) if v.ndim == op.result.ndim]


def _uneven(op: Op) -> set[int]:
    """Dimensions along which only a part of some operand takes part."""
    return {d for d in range(op.result.ndim) if len({v.shape[d] for v in _ranked(op)}) > 1}


def picked_couple(site: Site) -> Iterable[Constraint]:
    """Dimensions other than the one of positions correspond."""
    op, axis = site.op, _axis(site.op)
    reason = site.because(reason_for(op, "refers to positions"))
    ranked, uneven = _ranked(op), _uneven(op)
    free = [d for d in range(op.result.ndim) if d != axis and d not in uneven] if axis is not None else []
    yield from matched(reason, ranked, free)
    for value in (*op.operands, op.result):
        own = free if value in ranked else ()
        yield from pinned(value, (d for d in range(value.ndim) if d not in own), reason)


def _agreed(contents: Sequence[Fact], only_zero: bool) -> tuple[Tensor, Tensor]:
    """Where all `contents`, compressed to one shape's terms, are Known to be one and the same constant."""
    known, value = contents[0].known, contents[0].value
    for other in contents[1:]:
        known, value = broadcast(known & other.known & (value == other.value.to(value.dtype)), value)
    return (known & (value == 0) if only_zero else known), value


def picked_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """What is the same constant at every position stays it wherever it goes."""
    axis = _axis(op)
    if axis is None or not op.result.ndim:
        whole = uniform_fact(facts[0], range(facts[0].ndim))
        shape = (1,) * op.result.ndim
        return (Fact(whole.known.reshape(shape), whole.value.reshape(shape)),)
    dims = {axis, *_uneven(op)}
    contents: list[Fact] = []
    for name in _DATA:
        position, given = op.position(name), op.get(name)
        if position is not None and not facts[position].ndim:
            if not facts[position].is_all_known():
                return nothing_known(op, facts)
            contents.append(_number(facts[position].value.item(), op.result))
        elif position is not None and facts[position].ndim == op.result.ndim:
            found = uniform_fact(facts[position], dims)
            if found.is_unknown:
                return nothing_known(op, facts)
            contents.append(found)
        elif position is not None:
            return nothing_known(op, facts)
        elif given is not None:
            contents.append(_number(given, op.result))
    return (fact(*_agreed(contents, "reduce" in op.arguments or "add" in op.name)),)


def _number(given: float, result: Value) -> Fact:
    return Fact(indicator(True, result.ndim), torch.full((1,) * result.ndim, given, dtype=result.dtype))


def picked_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    axis, ranked = _axis(op), _ranked(op)
    if axis is None:
        return everything_read(op, facts, live)
    reads = any_over(live[0], {axis, *_uneven(op)} if op.result.ndim else ())
    # Where it is one constant that is picked, it does not matter from where.
    chosen = reads & ~picked_known(op, facts)[0].known
    data = [op.position(name) for name in _DATA]
    flag = bool(chosen.any())
    found = [
        (reads if n in data else chosen) if v in ranked else indicator(flag, v.ndim)
        for n, v in enumerate(op.operands)
    ]
    return (live[0], *found[1:]) if op.name in _PLACING else tuple(found)


@frozen
class Placing:
    """How `index_put` lays out its values: for each dimension of them the result's, None for a position.

    `taken` are the result's dimensions that the indices speak of.
    """

    taken: tuple[int, ...]
    layout: tuple[int | None, ...]


def _placing(op: Op) -> Placing:
    dim, width = 0, 0
    taken: list[int] = []
    for index in op.arguments["indices"]:
        mask = index is not None and index.dtype in (torch.bool, torch.uint8)
        spans = index.ndim if mask else 1
        if index is not None:
            taken += range(dim, dim + spans)
            width = max(width, 1 if mask else index.ndim)
        dim += spans
    free = [d for d in range(op.result.ndim) if d not in taken]
    adjacent = bool(taken) and taken == list(range(taken[0], taken[-1] + 1))
    front = [d for d in free if adjacent and d < taken[0]]
    layout = (*front, *(None,) * width, *(d for d in free if d not in front))
    return Placing(tuple(taken), layout)


def _pairs(op: Op, placing: Placing) -> list[tuple[int, int | None]]:
    """(dimension of the values, dimension of the result or None), values aligned at the end."""
    values = op.arguments["values"]
    first = len(placing.layout) - values.ndim
    return [(own, placing.layout[own + first] if own + first >= 0 else None) for own in range(values.ndim)]


def index_put_couple(site: Site) -> Iterable[Constraint]:
    op, placing = site.op, _placing(site.op)
    data, values, result = op.arguments["self"], op.arguments["values"], op.result
    reason = site.because(reason_for(op, "refers to positions"))
    own = {target: d for d, target in _pairs(op, placing) if target is not None}
    for dim in (d for d in range(result.ndim) if d not in placing.taken):
        members = [(result, dim), (data, dim)]
        if dim in own and values.shape[own[dim]] == result.shape[dim]:
            members.append((values, own[dim]))
        yield from equal(reason, *members)
    for value in (data, result):
        yield from pinned(value, placing.taken, reason)
    yield from pinned(values, (d for d, target in _pairs(op, placing) if target is None), reason)
    for index in op.operands:
        if index not in (data, values):
            yield from pinned(index, range(index.ndim), reason)


def index_put_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    placing, position = _placing(op), op.position("values")
    pairs = _pairs(op, placing)
    data = uniform_fact(facts[0], placing.taken)
    if position is None or data.is_unknown:
        return nothing_known(op, facts)
    placed = uniform_fact(facts[position], (d for d, t in pairs if t is None))
    if placed.is_unknown:
        return nothing_known(op, facts)
    own = {target: d for d, target in pairs}
    shapes = [
        [t.shape[own[d]] if d in own else 1 for d in range(op.result.ndim)]
        for t in (placed.known, placed.value)
    ]
    spread = Fact(placed.known.reshape(shapes[0]), placed.value.reshape(shapes[1]))
    return (fact(*_agreed([data, spread], bool(op["accumulate"]))),)


def index_put_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    pairs = _pairs(op, _placing(op))
    held = {target for _, target in pairs if target is not None}
    reduced = any_over(live[0], (d for d in range(op.result.ndim) if d not in held))
    placed = reduced.reshape([1 if target is None else reduced.shape[target] for _, target in pairs])
    reads = {0: live[0], op.position("values"): fold_to(placed, op.arguments["values"].shape)}
    flag = bool(live[0].any())
    return tuple(reads.get(n, indicator(flag, v.ndim)) for n, v in enumerate(op.operands))


def one_hot_couple(site: Site) -> Iterable[Constraint]:
    op = site.op
    data, result = op.operands[0], op.result
    reason = site.because("one_hot marks positions")
    for dim in range(data.ndim):
        yield from equal(reason, (data, dim), (result, dim))
    yield from pinned(result, [data.ndim], reason)


def one_hot_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    last = op.result.ndim - 1
    return (any_over(live[0], [last]).squeeze(last),)


PICKED = Rule(couple=picked_couple, known=picked_known, live=picked_live)

RULES: dict[str, Rule] = {
    **dict.fromkeys("gather take_along_dim".split(), evolve(PICKED, bounds=as_given)),
    **dict.fromkeys("scatter scatter_add scatter_reduce".split(), PICKED),
    **dict.fromkeys("index_add index_copy index_fill index_reduce".split(), PICKED),
    **dict.fromkeys(
        ("index_put", "_unsafe_index_put"),
        Rule(couple=index_put_couple, known=index_put_known, live=index_put_live),
    ),
    "one_hot": Rule(couple=one_hot_couple, live=one_hot_live),
}
