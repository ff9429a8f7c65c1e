"""Index maps of the layout operators: what each of them moves at given arguments and shapes.

Every function takes the operator's arguments by name and the shapes of its operands and
results, and returns one `IndexMap` per operand and result that it connects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from speedup.engine.layout import Block, IndexMap, Shape, identity_blocks, reshape_blocks, same_dims
from speedup.ir.expressions import with_traced_numbers
from speedup.ir.graph import Op
from speedup.rules.rule import Moves

Arguments = Mapping[str, Any]


def moves_at(op: Op, moves: Moves) -> tuple[IndexMap, ...]:
    """What `moves` says of the op's own arguments and sizes."""
    arguments = {name: with_traced_numbers(a) for name, a in op.arguments.items()}
    return moves(arguments, [v.shape for v in op.operands], [v.shape for v in op.results])


def axis_of(dim: int, ndim: int) -> int:
    return dim + ndim if dim < 0 else dim


def reshape(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    return (IndexMap(0, 0, reshape_blocks(sources[0], targets[0])),)


def permute(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    ndim = len(sources[0])
    dims = [axis_of(d, ndim) for d in arguments["dims"]]
    return (IndexMap(0, 0, identity_blocks([(s, t) for t, s in enumerate(dims)])),)


def swap(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    ndim = len(sources[0])
    first = arguments.get("dim0", arguments.get("axis0", 0))
    second = arguments.get("dim1", arguments.get("axis1", 1))
    order = list(range(ndim))
    if ndim:
        a, b = axis_of(first, ndim), axis_of(second, ndim)
        order[a], order[b] = b, a
    return (IndexMap(0, 0, identity_blocks([(s, t) for t, s in enumerate(order)])),)


def transpose_2d(
    arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]
) -> tuple[IndexMap, ...]:
    ndim = len(sources[0])
    return (IndexMap(0, 0, identity_blocks([(ndim - 1 - t, t) for t in range(ndim)])),)


def expand(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    source, target = sources[0], targets[0]
    extra = len(target) - len(source)
    blocks = [Block((), (t,), _zeros(target[t])) for t in range(extra)]
    for s, extent in enumerate(source):
        t = s + extra
        repeated = extent == 1 and target[t] != 1
        blocks.append(Block((s,), (t,), _zeros(target[t]) if repeated else None))
    return (IndexMap(0, 0, tuple(blocks)),)


def _zeros(extent: int) -> Tensor:
    return torch.zeros(extent, dtype=torch.int64)


def repeat(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    source, target = sources[0], targets[0]
    extra = len(target) - len(source)
    blocks = [Block((), (t,), _zeros(target[t])) for t in range(extra)]
    for s, extent in enumerate(source):
        index = torch.arange(target[s + extra]) % extent
        blocks.append(Block((s,), (s + extra,), None if target[s + extra] == extent else index))
    return (IndexMap(0, 0, tuple(blocks)),)


def repeat_interleave(
    arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]
) -> tuple[IndexMap, ...]:
    source, repeats, dim = sources[0], arguments["repeats"], arguments["dim"]
    if dim is None:
        total = 1
        for extent in source:
            total *= extent
        index = torch.arange(total * repeats) // repeats
        return (IndexMap(0, 0, (Block(tuple(range(len(source))), (0,), index),)),)
    axis = axis_of(dim, len(source))
    index = torch.arange(source[axis] * repeats) // repeats
    return (IndexMap(0, 0, same_dims(len(source), {axis: index})),)


def cat(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    target = targets[0]
    axis = axis_of(arguments["dim"], len(target))
    moves, start = [], 0
    for number, source in enumerate(sources):
        if len(source) != len(target):
            continue
        index = torch.full((target[axis],), -1)
        index[start : start + source[axis]] = torch.arange(source[axis])
        start += source[axis]
        moves.append(IndexMap(number, 0, same_dims(len(target), {axis: index})))
    return tuple(moves)


def stack(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    axis = axis_of(arguments["dim"], len(targets[0]))
    moves = []
    for number, source in enumerate(sources):
        index = torch.full((len(sources),), -1)
        index[number] = 0
        blocks = [Block((s,), (s + (s >= axis),)) for s in range(len(source))]
        moves.append(IndexMap(number, 0, (*blocks, Block((), (axis,), index))))
    return tuple(moves)


def split(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    ndim = len(sources[0])
    axis = axis_of(arguments["dim"], ndim)
    moves, start = [], 0
    for number, target in enumerate(targets):
        index = torch.arange(start, start + target[axis])
        start += target[axis]
        moves.append(IndexMap(0, number, same_dims(ndim, {axis: index})))
    return tuple(moves)


def unbind(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    axis = axis_of(arguments["dim"], len(sources[0]))
    return tuple(_select(sources[0], axis, n, n) for n in range(len(targets)))


def _select(source: Shape, axis: int, index: int, result: int) -> IndexMap:
    blocks = [Block((s,), (s - (s > axis),)) for s in range(len(source)) if s != axis]
    return IndexMap(0, result, (*blocks, Block((axis,), (), torch.tensor([index]))))


def select(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    axis = axis_of(arguments["dim"], len(sources[0]))
    index = arguments["index"]
    return (_select(sources[0], axis, index + sources[0][axis] if index < 0 else index, 0),)


def slice_(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    ndim = len(sources[0])
    axis = axis_of(arguments["dim"], ndim)
    extent = sources[0][axis]
    bounds = slice(arguments["start"], arguments["end"], arguments["step"]).indices(extent)
    index = torch.tensor(range(*bounds), dtype=torch.int64)
    return (IndexMap(0, 0, same_dims(ndim, {} if index.numel() == extent else {axis: index})),)


def slice_scatter(
    arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]
) -> tuple[IndexMap, ...]:
    ndim = len(targets[0])
    axis = axis_of(arguments["dim"], ndim)
    extent = targets[0][axis]
    bounds = slice(arguments["start"], arguments["end"], arguments["step"]).indices(extent)
    inside = torch.full((extent,), -1)
    inside[torch.tensor(range(*bounds), dtype=torch.int64)] = torch.arange(sources[1][axis])
    outside = torch.where(inside < 0, torch.arange(extent), -1)
    return (
        IndexMap(0, 0, same_dims(ndim, {axis: outside})),
        IndexMap(1, 0, same_dims(ndim, {axis: inside})),
    )


def select_scatter(
    arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]
) -> tuple[IndexMap, ...]:
    ndim = len(targets[0])
    axis = axis_of(arguments["dim"], ndim)
    extent = targets[0][axis]
    position = axis_of(arguments["index"], extent)
    outside, inside = torch.arange(extent), torch.full((extent,), -1)
    outside[position], inside[position] = -1, 0
    blocks = [Block((s,), (s + (s >= axis),)) for s in range(ndim - 1)]
    return (
        IndexMap(0, 0, same_dims(ndim, {axis: outside})),
        IndexMap(1, 0, (*blocks, Block((), (axis,), inside))),
    )


def copy(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    (index_map,) = expand(arguments, sources[1:], targets)
    return (IndexMap(1, 0, index_map.blocks),)


def narrow(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    ndim, start = len(sources[0]), arguments["start"]
    axis = axis_of(arguments["dim"], ndim)
    start = start + sources[0][axis] if start < 0 else start
    index = torch.arange(start, start + arguments["length"])
    return (IndexMap(0, 0, same_dims(ndim, {axis: index})),)


def roll(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    source = sources[0]
    if not arguments["dims"]:
        total = torch.tensor(source).prod().item()
        index = (torch.arange(int(total)) - arguments["shifts"][0]) % int(total)
        every = tuple(range(len(source)))
        return (IndexMap(0, 0, (Block(every, every, index),)),)
    special: dict[int, Tensor] = {}
    for shift, dim in zip(arguments["shifts"], arguments["dims"], strict=True):
        axis = axis_of(dim, len(source))
        before = special.get(axis, torch.arange(source[axis]))
        special[axis] = before[(torch.arange(source[axis]) - shift) % source[axis]]
    return (IndexMap(0, 0, same_dims(len(source), special)),)


def flip(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    ndim = len(sources[0])
    axes = [axis_of(d, ndim) for d in arguments["dims"]]
    return (IndexMap(0, 0, same_dims(ndim, {a: torch.arange(sources[0][a]).flip(0) for a in axes})),)


def pad(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    source, target = sources[0], targets[0]
    amounts, mode = arguments["pad"], arguments.get("mode", "constant")
    special = {}
    for number in range(len(amounts) // 2):
        axis = len(source) - 1 - number
        before, extent = amounts[2 * number], source[axis]
        if target[axis] == extent and before == 0:
            continue
        after = target[axis] - extent - before
        special[axis] = _pad_index(torch.arange(target[axis]), extent, (before, after), mode)
    return (IndexMap(0, 0, same_dims(len(source), special)),)


def _pad_index(result: Tensor, extent: int, amounts: tuple[int, int], mode: str) -> Tensor:
    before, after = amounts
    position = result - before
    if mode == "reflect":
        inside = position.abs()
        return torch.where(inside >= extent, 2 * (extent - 1) - inside, inside)
    if mode == "replicate":
        return position.clamp(0, extent - 1)
    if mode == "circular":
        # What a negative amount crops is gone before the rest is wrapped.
        first, last = max(-before, 0), extent - max(-after, 0)
        return first + (position - first) % (last - first)
    outside = (position < 0) | (position >= extent)
    return torch.where(outside, torch.full_like(position, -1), position)


def fixed_pad(mode: str) -> Moves:
    return lambda arguments, s, t: pad({"pad": arguments["padding"], "mode": mode}, s, t)


def unfold(arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]) -> tuple[IndexMap, ...]:
    ndim = len(sources[0])
    axis = axis_of(arguments["dimension"], ndim)
    count = targets[0][axis]
    index = (
        torch.arange(count)[:, None] * arguments["step"] + torch.arange(arguments["size"])[None]
    ).reshape(-1)
    blocks = [Block((d,), (d,)) for d in range(ndim) if d != axis]
    return (IndexMap(0, 0, (*blocks, Block((axis,), (axis, ndim), index))),)


def channel_shuffle(
    arguments: Arguments, sources: Sequence[Shape], targets: Sequence[Shape]
) -> tuple[IndexMap, ...]:
    source, groups = sources[0], arguments["groups"]
    index = torch.arange(source[1]).reshape(groups, -1).t().reshape(-1)
    return (IndexMap(0, 0, same_dims(len(source), {1: index})),)
