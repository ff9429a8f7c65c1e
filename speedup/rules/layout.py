"""Layout operators: one function each that gives the index maps at some arguments and shapes.

The generic functions at the top turn any of them into a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from speedup.constraints import Constraint, Counted, Equal, Mapped, Pinned
from speedup.graph import Op, Value, derived_in
from speedup.lattice import Fact, fact, indicator, runs, spread, uniform_along, unknown
from speedup.layout import Block, Move, Shape, plain, pull, push, reshape_blocks, same_dims
from speedup.rules.rule import Facts, Lives, Moves, Rule, Site, equal, reason_for

Arguments = Mapping[str, Any]


def _moves_of(op: Op, moves: Moves) -> tuple[Move, ...]:
    arguments = {name: op[name] for name in op.arguments}
    return moves(arguments, [v.shape for v in op.operands], [v.shape for v in op.results])


def _fill(op: Op) -> Tensor:
    """What a pad writes where it reads nothing."""
    return torch.tensor(op.get("value") or 0, dtype=op.results[0].dtype)


def layout_known(op: Op, facts: Facts, moves: Moves) -> tuple[Fact, ...]:
    if all(f.is_unknown for f in facts) and not _has_fill(op):
        return tuple(unknown(r.ndim, r.dtype) for r in op.results)
    found = _moves_of(op, moves)
    return tuple(
        _overlay(op, result, facts, [m for m in found if m.result == n])
        for n, result in enumerate(op.results)
    )


def _has_fill(op: Op) -> bool:
    return "pad" in op.arguments


def _overlay(op: Op, result: Value, facts: Facts, moves: list[Move]) -> Fact:
    shape = result.shape
    known, value = indicator(True, result.ndim), _fill(op).reshape((1,) * result.ndim)
    if len(moves) == 1 and moves[0].covers:
        fact_ = facts[moves[0].operand]
        source = op.operands[moves[0].operand].shape
        zero = torch.zeros((), dtype=value.dtype)
        return fact(
            pull(moves[0], fact_.known, source, shape, torch.tensor(False)),
            pull(moves[0], fact_.value, source, shape, zero),
        )
    for move in moves:
        source, one = op.operands[move.operand].shape, facts[move.operand]
        if move.covers:
            inside = indicator(True, result.ndim)
        else:
            inside = pull(move, indicator(True, len(source)), source, shape, torch.tensor(False))
        known = torch.where(inside, pull(move, one.known, source, shape, torch.tensor(False)), known)
        pulled = pull(move, one.value, source, shape, torch.zeros((), dtype=one.value.dtype))
        value = torch.where(inside, pulled.to(value.dtype), value)
    return fact(known, value)


def layout_live(op: Op, live: Lives, moves: Moves) -> tuple[Tensor, ...]:
    reads = [indicator(False, v.ndim) for v in op.operands]
    for move in _moves_of(op, moves):
        source, target = op.operands[move.operand].shape, op.results[move.result].shape
        reads[move.operand] = reads[move.operand] | push(move, live[move.result], source, target)
    return tuple(reads)


def layout_couple(site: Site, moves: Moves) -> Iterable[Constraint]:
    op = site.op
    cause = site.because(reason_for(op, "ties the dimensions it rearranges"))
    padded = _has_fill(op)
    for move in _moves_of(op, moves):
        source, target = op.operands[move.operand], op.results[move.result]
        for block in move.blocks:
            yield from couple_block(block, source, target, padded, cause)


def couple_block(
    block: Block, source: Value, target: Value, padded: bool, cause: Any
) -> Iterable[Constraint]:
    """The constraint that one block of a move puts on the dimensions it rearranges."""
    if block.is_plain:
        yield from equal(cause, (target, block.target[0]), (source, block.source[0]))
        return
    sources = tuple((source.index, d) for d in block.source if source.shape[d] != 1)
    targets = tuple((target.index, d) for d in block.target if target.shape[d] != 1)
    if (not targets and not sources) or (not sources and block.index is not None):
        return
    if block.index is None and len(sources) == len(targets) == 1:
        yield Equal((*sources, *targets), cause)
        return
    yield Mapped(
        sources,
        targets,
        block.index,
        tuple(source.shape[d] for _, d in sources),
        tuple(target.shape[d] for _, d in targets),
        cause,
        padded,
    )


def layout_rule(moves: Moves, extra: Callable[[Site], Iterable[Constraint]] | None = None) -> Rule:
    """The rule of an operator that only moves elements; `extra` adds constraints."""

    def couple(site: Site) -> Iterable[Constraint]:
        yield from layout_couple(site, moves)
        if extra is not None:
            yield from extra(site)

    return Rule(
        couple=couple,
        known=lambda op, facts: layout_known(op, facts, moves),
        live=lambda op, facts, live: layout_live(op, live, moves),
        moves=moves,
    )


def _axis(dim: int, ndim: int) -> int:
    return dim + ndim if dim < 0 else dim


def reshape(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    return (Move(0, 0, reshape_blocks(sources[0], targets[0])),)


def permute(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    ndim = len(sources[0])
    dims = [_axis(d, ndim) for d in arguments["dims"]]
    return (Move(0, 0, plain([(s, t) for t, s in enumerate(dims)])),)


def swap(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    ndim = len(sources[0])
    first = arguments.get("dim0", arguments.get("axis0", 0))
    second = arguments.get("dim1", arguments.get("axis1", 1))
    order = list(range(ndim))
    if ndim:
        a, b = _axis(first, ndim), _axis(second, ndim)
        order[a], order[b] = b, a
    return (Move(0, 0, plain([(s, t) for t, s in enumerate(order)])),)


def transpose_2d(
    arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]
) -> tuple[Move, ...]:
    ndim = len(sources[0])
    return (Move(0, 0, plain([(ndim - 1 - t, t) for t in range(ndim)])),)


def expand(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    source, target = sources[0], targets[0]
    extra = len(target) - len(source)
    blocks = [Block((), (t,), _zeros(target[t])) for t in range(extra)]
    for s, extent in enumerate(source):
        t = s + extra
        repeated = extent == 1 and target[t] != 1
        blocks.append(Block((s,), (t,), _zeros(target[t]) if repeated else None))
    return (Move(0, 0, tuple(blocks)),)


def _zeros(extent: int) -> Tensor:
    return torch.zeros(extent, dtype=torch.int64)


def repeat(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    source, target = sources[0], targets[0]
    extra = len(target) - len(source)
    blocks = [Block((), (t,), _zeros(target[t])) for t in range(extra)]
    for s, extent in enumerate(source):
        index = torch.arange(target[s + extra]) % extent
        blocks.append(Block((s,), (s + extra,), None if target[s + extra] == extent else index))
    return (Move(0, 0, tuple(blocks)),)


def repeat_interleave(
    arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]
) -> tuple[Move, ...]:
    source, repeats, dim = sources[0], arguments["repeats"], arguments["dim"]
    if dim is None:
        total = 1
        for extent in source:
            total *= extent
        index = torch.arange(total * repeats) // repeats
        return (Move(0, 0, (Block(tuple(range(len(source))), (0,), index),)),)
    axis = _axis(dim, len(source))
    index = torch.arange(source[axis] * repeats) // repeats
    return (Move(0, 0, same_dims(len(source), {axis: index})),)


def cat(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    target = targets[0]
    axis = _axis(arguments["dim"], len(target))
    moves, start = [], 0
    for number, source in enumerate(sources):
        if len(source) != len(target):
            continue
        index = torch.full((target[axis],), -1)
        index[start : start + source[axis]] = torch.arange(source[axis])
        start += source[axis]
        moves.append(Move(number, 0, same_dims(len(target), {axis: index})))
    return tuple(moves)


def stack(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    axis = _axis(arguments["dim"], len(targets[0]))
    moves = []
    for number, source in enumerate(sources):
        index = torch.full((len(sources),), -1)
        index[number] = 0
        blocks = [Block((s,), (s + (s >= axis),)) for s in range(len(source))]
        moves.append(Move(number, 0, (*blocks, Block((), (axis,), index))))
    return tuple(moves)


def split(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    ndim = len(sources[0])
    axis = _axis(arguments["dim"], ndim)
    moves, start = [], 0
    for number, target in enumerate(targets):
        index = torch.arange(start, start + target[axis])
        start += target[axis]
        moves.append(Move(0, number, same_dims(ndim, {axis: index})))
    return tuple(moves)


def unbind(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    axis = _axis(arguments["dim"], len(sources[0]))
    return tuple(_select(sources[0], axis, n, n) for n in range(len(targets)))


def _select(source: Shape, axis: int, index: int, result: int) -> Move:
    blocks = [Block((s,), (s - (s > axis),)) for s in range(len(source)) if s != axis]
    return Move(0, result, (*blocks, Block((axis,), (), torch.tensor([index]))))


def select(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    axis = _axis(arguments["dim"], len(sources[0]))
    index = arguments["index"]
    return (_select(sources[0], axis, index + sources[0][axis] if index < 0 else index, 0),)


def slice_(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    ndim = len(sources[0])
    axis = _axis(arguments["dim"], ndim)
    extent = sources[0][axis]
    bounds = slice(arguments["start"], arguments["end"], arguments["step"]).indices(extent)
    index = torch.arange(*bounds)
    return (Move(0, 0, same_dims(ndim, {} if index.numel() == extent else {axis: index})),)


def narrow(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    ndim, start = len(sources[0]), arguments["start"]
    axis = _axis(arguments["dim"], ndim)
    start = start + sources[0][axis] if start < 0 else start
    index = torch.arange(start, start + arguments["length"])
    return (Move(0, 0, same_dims(ndim, {axis: index})),)


def roll(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    source = sources[0]
    if not arguments["dims"]:
        total = torch.tensor(source).prod().item()
        index = (torch.arange(int(total)) - arguments["shifts"][0]) % int(total)
        every = tuple(range(len(source)))
        return (Move(0, 0, (Block(every, every, index),)),)
    special: dict[int, Tensor] = {}
    for shift, dim in zip(arguments["shifts"], arguments["dims"], strict=True):
        axis = _axis(dim, len(source))
        before = special.get(axis, torch.arange(source[axis]))
        special[axis] = before[(torch.arange(source[axis]) - shift) % source[axis]]
    return (Move(0, 0, same_dims(len(source), special)),)


def flip(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    ndim = len(sources[0])
    axes = [_axis(d, ndim) for d in arguments["dims"]]
    return (Move(0, 0, same_dims(ndim, {a: torch.arange(sources[0][a]).flip(0) for a in axes})),)


def pad(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    source, target = sources[0], targets[0]
    amounts, mode = arguments["pad"], arguments.get("mode", "constant")
    special = {}
    for number in range(len(amounts) // 2):
        axis = len(source) - 1 - number
        before, extent = amounts[2 * number], source[axis]
        if target[axis] == extent and before == 0:
            continue
        special[axis] = _pad_index(torch.arange(target[axis]) - before, extent, mode)
    return (Move(0, 0, same_dims(len(source), special)),)


def _pad_index(position: Tensor, extent: int, mode: str) -> Tensor:
    if mode == "reflect":
        inside = position.abs()
        return torch.where(inside >= extent, 2 * (extent - 1) - inside, inside)
    if mode == "replicate":
        return position.clamp(0, extent - 1)
    if mode == "circular":
        return position % extent
    outside = (position < 0) | (position >= extent)
    return torch.where(outside, torch.full_like(position, -1), position)


def _fixed_pad(mode: str) -> Moves:
    return lambda arguments, s, t: pad({"pad": arguments["padding"], "mode": mode}, s, t)


def unfold(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[Move, ...]:
    ndim = len(sources[0])
    axis = _axis(arguments["dimension"], ndim)
    count = targets[0][axis]
    index = (
        torch.arange(count)[:, None] * arguments["step"] + torch.arange(arguments["size"])[None]
    ).reshape(-1)
    blocks = [Block((d,), (d,)) for d in range(ndim) if d != axis]
    return (Move(0, 0, (*blocks, Block((axis,), (axis, ndim), index))),)


def channel_shuffle(
    arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]
) -> tuple[Move, ...]:
    source, groups = sources[0], arguments["groups"]
    index = torch.arange(source[1]).reshape(groups, -1).t().reshape(-1)
    return (Move(0, 0, same_dims(len(source), {1: index})),)


def _even_chunks(site: Site) -> Iterable[Constraint]:
    """`chunk` cuts into equal parts, so parts that were equal must stay so."""
    axis = site.op["dim"] % site.op.operands[0].ndim
    if len({r.shape[axis] for r in site.op.results}) == 1 and len(site.op.results) > 1:
        cause = site.because("chunk cuts into equal parts")
        yield Counted(tuple((r.index, axis) for r in site.op.results), cause)


def _is_elastic(op: Op) -> bool:
    return any(True for name in ("start", "end", "length") for _ in derived_in(op.arguments.get(name)))


def slice_known(op: Op, facts: Facts, moves: Moves) -> tuple[Fact, ...]:
    """A table cut to the input's length holds other entries at other lengths."""
    axis = _axis(op["dim"], op.operands[0].ndim)
    if _is_elastic(op) and not (
        uniform_along(facts[0].value, [axis]) and uniform_along(facts[0].known, [axis])
    ):
        return (unknown(op.result.ndim, op.result.dtype),)
    return layout_known(op, facts, moves)


def _keep_table(site: Site) -> Iterable[Constraint]:
    """What an input-dependent slice of a table does not read now it may read next time."""
    table = site.op.operands[0]
    if _is_elastic(site.op) and site.fact(table).is_all_known():
        axis = _axis(site.op["dim"], table.ndim)
        yield Pinned((table.index, axis), site.because("a slice that depends on the input's size reads it"))


def _slice_rule(moves: Moves) -> Rule:
    rule = layout_rule(moves, _keep_table)
    return Rule(
        couple=rule.couple,
        known=lambda op, facts: slice_known(op, facts, moves),
        live=rule.live,
        moves=moves,
    )


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
    **{
        name: layout_rule(reshape)
        for name in (
            "view",
            "reshape",
            "_unsafe_view",
            "flatten",
            "unflatten",
            "squeeze",
            "unsqueeze",
            "view_as",
            "reshape_as",
            "atleast_1d",
            "_reshape_alias",
            "ravel",
        )
    },
    "permute": layout_rule(permute),
    **{name: layout_rule(swap) for name in ("transpose", "swapaxes", "swapdims")},
    **{name: layout_rule(transpose_2d) for name in ("t", "numpy_T")},
    **{name: layout_rule(expand) for name in ("expand", "expand_as", "broadcast_to")},
    **{name: layout_rule(repeat) for name in ("repeat", "tile")},
    "repeat_interleave.self_int": layout_rule(repeat_interleave),
    **{name: layout_rule(cat) for name in ("cat", "concat", "concatenate")},
    "stack": layout_rule(stack),
    **{name: layout_rule(split) for name in ("split", "split_with_sizes", "unsafe_split")},
    **{name: layout_rule(split, _even_chunks) for name in ("chunk", "unsafe_chunk")},
    "unbind": layout_rule(unbind),
    "select.int": layout_rule(select),
    "slice": _slice_rule(slice_),
    "narrow": _slice_rule(narrow),
    "roll": layout_rule(roll),
    "flip": layout_rule(flip),
    **{name: layout_rule(pad) for name in ("pad", "constant_pad_nd")},
    **{f"reflection_pad{n}d": layout_rule(_fixed_pad("reflect")) for n in (1, 2, 3)},
    **{f"replication_pad{n}d": layout_rule(_fixed_pad("replicate")) for n in (1, 2, 3)},
    "unfold": layout_rule(unfold),
    "channel_shuffle": layout_rule(channel_shuffle),
    "native_channel_shuffle": layout_rule(channel_shuffle),
    "pixel_shuffle": Rule(couple=shuffle_blocks_couple, known=shuffle_blocks_known, live=shuffle_blocks_live),
}
