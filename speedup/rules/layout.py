"""Layout operators: one function each that gives the index maps at some arguments and shapes.

The generic functions at the top turn any of them into a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from speedup.engine.bounds import OPEN, Bounds, around, spanned
from speedup.engine.constraints import Constraint, Copied, Counted, Dim, Equal, Mapped, Pinned, Reason
from speedup.engine.lattice import (
    Fact,
    all_over,
    broadcast,
    fact,
    indicator,
    uniform_along,
    uniform_fact,
    unknown,
    vector,
)
from speedup.engine.layout import Block, IndexMap, pull, push
from speedup.ir.expressions import Derived
from speedup.ir.graph import Op, Value
from speedup.rules.copies import copied_dims
from speedup.rules.moves import (
    axis_of,
    cat,
    channel_shuffle,
    copy,
    expand,
    fixed_pad,
    flip,
    moves_at,
    narrow,
    pad,
    permute,
    repeat,
    repeat_interleave,
    reshape,
    roll,
    select,
    select_scatter,
    slice_,
    slice_scatter,
    split,
    stack,
    swap,
    transpose_2d,
    unbind,
    unfold,
)
from speedup.rules.rule import (
    Alternatives,
    Arrangement,
    Facts,
    Lives,
    Moves,
    Needs,
    Rule,
    any_of,
    equal,
    everything_read,
    keep_instead,
    matched,
    no_alternatives,
    no_needs,
    nothing_known,
    pinned,
    reason_for,
)
from speedup.rules.site import Site
from speedup.rules.stated import (
    as_indices,
    as_split,
    narrow_bounds,
    pad_amounts,
    select_index,
    slice_bounds,
    split_size,
    split_sizes,
    stated_result_sizes,
    unflatten_sizes,
)


def _fill(op: Op) -> Tensor:
    """What a pad writes where it reads nothing."""
    return torch.tensor(op.get("value") or 0, dtype=op.results[0].dtype)


def layout_known(op: Op, facts: Facts, moves: Moves) -> tuple[Fact, ...]:
    if all(f.is_unknown for f in facts) and not _has_fill(op):
        return tuple(unknown(r.ndim, r.dtype) for r in op.results)
    found = moves_at(op, moves)
    return tuple(
        _overlay(op, result, facts, [m for m in found if m.result == n])
        for n, result in enumerate(op.results)
    )


def _has_fill(op: Op) -> bool:
    return "pad" in op.arguments


def _overlay(op: Op, result: Value, facts: Facts, moves: list[IndexMap]) -> Fact:
    shape = result.shape
    known, value = indicator(True, result.ndim), _fill(op).reshape((1,) * result.ndim)
    if len(moves) == 1 and moves[0].covers:
        fact_ = facts[moves[0].operand]
        source = op.operands[moves[0].operand].shape
        zero = torch.zeros((), dtype=value.dtype)
        return fact(
            pull(moves[0], fact_.known, source, shape, torch.tensor(False)),
            pull(moves[0], fact_.value, source, shape, zero.to(fact_.value.dtype)).to(result.dtype),
        )
    for index_map in moves:
        source, one = op.operands[index_map.operand].shape, facts[index_map.operand]
        if index_map.covers:
            inside = indicator(True, result.ndim)
        else:
            inside = pull(index_map, indicator(True, len(source)), source, shape, torch.tensor(False))
        known = torch.where(inside, pull(index_map, one.known, source, shape, torch.tensor(False)), known)
        pulled = pull(index_map, one.value, source, shape, torch.zeros((), dtype=one.value.dtype))
        value = torch.where(inside, pulled.to(value.dtype), value)
    return fact(known, value)


def layout_bounds(op: Op, facts: Facts, moves: Moves) -> tuple[Bounds, ...]:
    """Of elements that only move, and of what lies beside them."""
    found = moves_at(op, moves)
    return tuple(_bounds(op, r, facts, [m for m in found if m.result == n]) for n, r in enumerate(op.results))


def _bounds(op: Op, result: Value, facts: Facts, moves: list[IndexMap]) -> Bounds:
    if any(op.operands[m.operand].dtype != result.dtype for m in moves):
        return OPEN
    is_whole = len(moves) == 1 and moves[0].covers and not _has_fill(op)
    beside = [] if is_whole else [spanned([float(_fill(op))])]
    return around([*(facts[m.operand].bounds for m in moves), *beside])


def layout_live(op: Op, live: Lives, moves: Moves) -> tuple[Tensor, ...]:
    reads = [indicator(False, v.ndim) for v in op.operands]
    for index_map in moves_at(op, moves):
        source, target = op.operands[index_map.operand].shape, op.results[index_map.result].shape
        reads[index_map.operand] = reads[index_map.operand] | push(
            index_map, live[index_map.result], source, target
        )
    return tuple(reads)


def layout_couple(site: Site, moves: Moves) -> Iterable[Constraint]:
    op = site.op
    reason = site.because(reason_for(op, "ties the dimensions it rearranges"))
    padded = _has_fill(op)
    for index_map in moves_at(op, moves):
        source, target = op.operands[index_map.operand], op.results[index_map.result]
        for block in index_map.blocks:
            copies = copied_dims(site.graph, source, block)
            if copies is None:
                yield from couple_block(block, source, target, padded, reason)
            else:
                own, repeated = ((source.index, d) for d in copies)
                shared = site.because("query heads share key heads in groups of one size")
                yield Copied(own, repeated, (target.index, block.target[0]), shared)


def _of_unit(index: Tensor, targets: Sequence[Dim], padded: bool, reason: Reason) -> Iterable[Constraint]:
    """What reads the only index of a dimension cannot go where others are read beside it: the operand stays.

    Where there are only copies of it, any number of them will do.
    """
    beside = index < 0
    if len(targets) == 1 and bool(beside.any()):
        yield Pinned(targets[0], reason, None if padded else ~beside)


def couple_block(
    block: Block, source: Value, target: Value, padded: bool, reason: Any
) -> Iterable[Constraint]:
    """The constraint that one block of a move puts on the dimensions it rearranges."""
    if block.is_plain:
        yield from equal(reason, (target, block.target[0]), (source, block.source[0]))
        return
    if any(source.shape[d] == 0 for d in block.source):
        return
    sources = tuple((source.index, d) for d in block.source if source.shape[d] != 1)
    targets = tuple((target.index, d) for d in block.target if target.shape[d] != 1)
    if any(source.shape[d] == 0 for d in block.source) or any(target.shape[d] == 0 for d in block.target):
        return
    if not targets and not sources:
        return
    if not sources and block.index is not None:
        yield from _of_unit(block.index, targets, padded, reason)
        return
    if block.index is None and len(sources) == len(targets) == 1:
        yield Equal((*sources, *targets), reason)
        return
    yield Mapped(
        sources,
        targets,
        block.index,
        tuple(source.shape[d] for _, d in sources),
        tuple(target.shape[d] for _, d in targets),
        reason,
        padded,
    )


def unconstrained(site: Site) -> Iterable[Constraint]:
    """What the op moves is all that it ties."""
    return ()


def layout_rule(
    moves: Moves,
    needs: Needs = no_needs,
    *,
    extra: Callable[[Site], Iterable[Constraint]] = unconstrained,
    alternatives: Alternatives = no_alternatives,
    aliases: tuple[str, ...] = (),
    arrangement: Arrangement = "plain",
) -> Rule:
    """The rule of an operator that only moves elements; `extra` adds constraints."""
    return Rule(
        couple=lambda site: chain(layout_couple(site, moves), extra(site)),
        known=lambda op, facts: layout_known(op, facts, moves),
        live=lambda op, facts, live: layout_live(op, live, moves),
        bounds=lambda op, facts: layout_bounds(op, facts, moves),
        moves=moves,
        needs=needs,
        alternatives=alternatives,
        aliases=aliases,
        arrangement=arrangement,
    )


def _taken(moves: Moves, aliases: tuple[str, ...] = ()) -> Rule:
    """The rule of an operator that picks along one dimension, and that a list of indices can replace."""
    return layout_rule(moves, alternatives=as_indices(moves), aliases=aliases)


def _wrapped_kept(site: Site) -> Iterable[Constraint]:
    """`roll` by the number it states needs the indices that it moves from one end to the other."""
    op, (source,) = site.op, site.op.operands
    reason = site.because("the forward states in numbers how far it rolls")
    axes = [axis_of(d, source.ndim) for d in op["dims"]]
    if len(set(axes)) != len(axes) or not axes:
        yield from pinned(source, range(source.ndim), reason)
        return
    for shift, axis in zip(op["shifts"], axes, strict=True):
        index = torch.arange(source.shape[axis])
        wraps = index >= len(index) - shift if shift > 0 else index < -shift
        yield from pinned(source, (axis,), reason, wraps)


def _even_chunks(site: Site) -> Iterable[Constraint]:
    """`chunk` cuts into equal parts, so parts that were equal must stay so."""
    axis = site.op["dim"] % site.op.operands[0].ndim
    if len({r.shape[axis] for r in site.op.results}) == 1 and len(site.op.results) > 1:
        reason = site.because("chunk cuts into equal parts")
        yield Counted(tuple((r.index, axis) for r in site.op.results), reason)


def _is_elastic(op: Op) -> bool:
    return op.follows_sizes("start", "end", "length")


def slice_known(op: Op, facts: Facts, moves: Moves) -> tuple[Fact, ...]:
    """A table cut to the input's length holds other entries at other lengths."""
    axis = axis_of(op["dim"], op.operands[0].ndim)
    if _is_elastic(op) and not (
        uniform_along(facts[0].value, [axis]) and uniform_along(facts[0].known, [axis])
    ):
        return (unknown(op.result.ndim, op.result.dtype),)
    return layout_known(op, facts, moves)


def _keep_table(site: Site) -> Iterable[Constraint]:
    """What an input-dependent slice of a table does not read now it may read next time."""
    table = site.op.operands[0]
    if _is_elastic(site.op) and site.graph.is_fixed(table):
        axis = axis_of(site.op["dim"], table.ndim)
        yield Pinned((table.index, axis), site.because("a slice that depends on the input's size reads it"))


def _slice_rule(moves: Moves, needs: Needs) -> Rule:
    rule = layout_rule(moves, needs, extra=_keep_table, alternatives=as_indices(moves))
    return evolve(rule, known=lambda op, facts: slice_known(op, facts, moves))


def _shaped_like(name: str, moves: Moves) -> Rule:
    """The rule of an operator that takes its result's shape from the operand `name`, and no more."""

    def extra(site: Site) -> Iterable[Constraint]:
        shape = site.operand(name)
        if shape is not None:
            reason = site.because(reason_for(site.op, "gives its result the shape of another tensor"))
            yield from matched(reason, (site.op.result, shape), range(shape.ndim))

    return layout_rule(moves, extra=extra)


def _pads_a_unit(op: Op) -> bool:
    """Whether a dimension of extent 1 is padded: with more of it, other elements would lie there."""
    changed = zip(op.operands[0].shape, op.result.shape, strict=True)
    return any(before == 1 and after != 1 for before, after in changed)


def _padded_known(op: Op, facts: Facts, moves: Moves) -> tuple[Fact, ...]:
    """Where amounts follow the input's size, there may be some at another size even if there are none now.

    Such a dimension is given a border, which is what readers have to reckon with; how wide it is does not
    count for those that take borders at all.
    """
    if _pads_a_unit(op):
        return nothing_known(op, facts)
    (found,) = layout_known(op, facts, moves)
    if not op.follows_sizes("pad"):
        return (found,)
    if op.get("mode", "constant") != "constant":
        return (uniform_fact(found, range(found.ndim)),)
    amounts, ndim = op.arguments["pad"], op.result.ndim
    known, value = found.known, found.value
    for number in range(len(amounts) // 2):
        axis = ndim - 1 - number
        pair = amounts[2 * number : 2 * number + 2]
        if any(isinstance(n, Derived) for n in pair) and op.operands[0].shape[axis] == op.result.shape[axis]:
            border = torch.arange(op.result.shape[axis]) == op.result.shape[axis] - 1
            edge = vector(border, axis, ndim) & all_over(known, [axis])
            known, value = known | edge, torch.where(edge, _fill(op), value)
    return (fact(*broadcast(known, value)),)


def _pad_rule() -> Rule:
    fixed = keep_instead(partial(layout_couple, moves=pad))
    rule = layout_rule(pad, pad_amounts, alternatives=fixed, arrangement="pads")
    return evolve(
        rule,
        known=lambda op, facts: _padded_known(op, facts, pad),
        live=lambda op, facts, live: (everything_read if _pads_a_unit(op) else rule.live)(op, facts, live),
    )


_VIEWS = """
    flatten squeeze unsqueeze atleast_1d.default _reshape_alias ravel
""".split()
_RESHAPES = {
    "view.default": ("size", ("reshape",)),
    "_unsafe_view": ("size", ("reshape", "view")),
    "reshape": ("shape", ()),
}
_EXPANSIONS = {"expand": "size", "broadcast_to": "size"}
_CHUNKS = layout_rule(split, alternatives=any_of(as_split, keep_instead(_even_chunks)))

RULES: dict[str, Rule] = {
    **{name: layout_rule(reshape) for name in _VIEWS},
    **{
        name: layout_rule(reshape, stated_result_sizes(argument), aliases=aliases)
        for name, (argument, aliases) in _RESHAPES.items()
    },
    "unflatten": layout_rule(reshape, unflatten_sizes),
    "permute": layout_rule(permute),
    **{name: layout_rule(swap) for name in ("transpose", "swapaxes", "swapdims")},
    **{name: layout_rule(transpose_2d) for name in ("t", "numpy_T")},
    **{
        name: layout_rule(expand, stated_result_sizes(argument), arrangement="copies")
        for name, argument in _EXPANSIONS.items()
    },
    "expand_as": evolve(_shaped_like("other", expand), arrangement="copies"),
    **{name: _shaped_like("other", reshape) for name in ("view_as", "reshape_as")},
    **{name: layout_rule(repeat) for name in ("repeat", "tile")},
    "repeat_interleave.self_int": layout_rule(repeat_interleave),
    **{name: layout_rule(cat, arrangement="joins") for name in ("cat", "concat", "concatenate")},
    "stack": layout_rule(stack),
    "split_with_sizes": layout_rule(split, split_sizes, aliases=("split",)),
    "split.sizes": layout_rule(split, split_sizes, aliases=("chunk",)),
    "split": layout_rule(split, split_size, alternatives=as_split, aliases=("chunk",)),
    "unsafe_split": layout_rule(split, split_size, alternatives=as_split),
    **dict.fromkeys(("chunk", "unsafe_chunk"), _CHUNKS),
    "unbind": layout_rule(unbind),
    "select.int": layout_rule(select, select_index),
    "slice": _slice_rule(slice_, slice_bounds),
    "narrow": _slice_rule(narrow, narrow_bounds),
    "slice_scatter": layout_rule(slice_scatter),
    "select_scatter": layout_rule(select_scatter),
    "copy": _shaped_like("self", copy),
    "roll": layout_rule(
        roll, arrangement="turns", alternatives=any_of(as_indices(roll), keep_instead(_wrapped_kept))
    ),
    "flip": layout_rule(flip, arrangement="turns", alternatives=as_indices(flip)),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad_rule()),
    **{f"reflection_pad{n}d": layout_rule(fixed_pad("reflect")) for n in (1, 2, 3)},
    **{f"replication_pad{n}d": layout_rule(fixed_pad("replicate")) for n in (1, 2, 3)},
    "unfold": layout_rule(unfold),
    "channel_shuffle": _taken(channel_shuffle),
    "native_channel_shuffle": _taken(channel_shuffle, ("channel_shuffle",)),
}
