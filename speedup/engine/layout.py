"""Layout operators as data: how each element of a result reads an element of an operand.

An `IndexMap` splits the dimensions of an operand and a result into *blocks*. Within a block, the
result's flattened index maps to an index into the operand's flattened block; blocks are
independent of each other, so that the whole map is their product. A view is a map whose
blocks are identities between groups of dimensions, a slice has one block with an index, a
pad has -1 (not from this operand) in its index, a concatenation is one map per operand.

The forward and backward passes over a map, and the coupling of keep-sets through it, are
then written once, here, for every layout operator there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from attrs import frozen
from torch import Tensor

from speedup.engine.lattice import any_over

Shape = tuple[int, ...]


@frozen(eq=False)
class Block:
    """Operand dims `source` and result dims `target` that are rearranged among themselves.

    `index[t]` is the flat source index that flat target index t reads, -1 for none;
    `None` is the identity between equally many elements.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    index: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether one dimension simply becomes another."""
        return self.index is None and len(self.source) == 1 and len(self.target) == 1


@frozen(eq=False)
class IndexMap:
    """Result `result` of an op reads its operand `operand` through `blocks`."""

    operand: int
    result: int
    blocks: tuple[Block, ...]

    @property
    def covers(self) -> bool:
        """Whether every element of the result comes from this operand."""
        return all(b.index is None or bool((b.index >= 0).all()) for b in self.blocks)


def identity_blocks(dims: Sequence[tuple[int, int]]) -> tuple[Block, ...]:
    """Identity blocks from (operand dim, result dim) pairs."""
    return tuple(Block((s,), (t,)) for s, t in dims)


def same_dims(ndim: int, special: dict[int, Tensor] | None = None) -> tuple[Block, ...]:
    """One block per dimension, with an index on the dims in `special`."""
    special = special or {}
    return tuple(Block((d,), (d,), special.get(d)) for d in range(ndim))


def reshape_blocks(source: Shape, target: Shape) -> tuple[Block, ...]:
    """The finest split of a row-major reshape into independent blocks.

    >>> reshape_blocks((2, 6, 5), (12, 5))
    (Block(source=(0, 1), target=(0,), index=None), Block(source=(2,), target=(1,), index=None))
    """
    if 0 in source:
        return (Block(tuple(range(len(source))), tuple(range(len(target)))),)
    blocks = [Block((d,), ()) for d, n in enumerate(source) if n == 1]
    blocks += [Block((), (d,)) for d, n in enumerate(target) if n == 1]
    wide_source = [d for d, n in enumerate(source) if n != 1]
    wide_target = [d for d, n in enumerate(target) if n != 1]
    s = t = 0
    while s < len(wide_source) and t < len(wide_target):
        first_s, first_t = s, t
        have, want = source[wide_source[s]], target[wide_target[t]]
        s, t = s + 1, t + 1
        while have != want:
            if have < want:
                have *= source[wide_source[s]]
                s += 1
            else:
                want *= target[wide_target[t]]
                t += 1
        blocks.append(Block(tuple(wide_source[first_s:s]), tuple(wide_target[first_t:t])))
    return tuple(blocks)


def _group_dims(
    tensor: Tensor, shape: Shape, groups: Sequence[tuple[int, ...]], full: Sequence[bool]
) -> Tensor:
    """Permute and flatten the compressed `tensor` to one dim per group; expanded where `full`."""
    wanted = list(tensor.shape)
    for group, expand in zip(groups, full, strict=True):
        if expand:
            for dim in group:
                wanted[dim] = shape[dim]
    order = [d for group in groups for d in group]
    moved = tensor.expand(wanted).permute(order)
    return moved.reshape([prod(wanted[d] for d in group) for group in groups])


def _ungroup_dims(tensor: Tensor, shape: Shape, groups: Sequence[tuple[int, ...]]) -> Tensor:
    """Inverse of `_group_dims`: split each dim that is not compressed and restore the order."""
    sizes: list[int] = []
    for position, group in enumerate(groups):
        whole = prod(shape[d] for d in group)
        sizes += [shape[d] if tensor.shape[position] == whole else 1 for d in group]
    order = [d for group in groups for d in group]
    inverse = [order.index(d) for d in range(len(order))]
    return tensor.reshape(sizes).permute(inverse)


def _compress(tensor: Tensor, dims: tuple[int, ...]) -> bool:
    return all(tensor.shape[d] == 1 for d in dims)


def pull(index_map: IndexMap, tensor: Tensor, source: Shape, target: Shape, fill: Tensor) -> Tensor:
    """Forward pass: the compressed result state, `fill` (0-dim) where the map reads nothing."""
    if 0 in source or 0 in target:
        return fill.reshape((1,) * len(target))
    blocks = index_map.blocks
    has_gap = [b.index is not None and bool((b.index < 0).any()) for b in blocks]
    skip = [_compress(tensor, b.source) and not gap for b, gap in zip(blocks, has_gap, strict=True)]
    if any(has_gap) and tensor.numel() == 1 and bool(tensor == fill):
        return tensor.reshape((1,) * len(target))
    grouped = _group_dims(tensor, source, [b.source for b in blocks], [not s for s in skip])
    inside = None
    for position, block in enumerate(blocks):
        if skip[position] or block.index is None:
            continue
        grouped = grouped.index_select(position, block.index.clamp(min=0))
        if has_gap[position]:
            shape = [1] * len(blocks)
            shape[position] = -1
            valid = (block.index >= 0).reshape(shape)
            inside = valid if inside is None else inside & valid
    if inside is not None:
        grouped = torch.where(inside, grouped, fill)
    return _ungroup_dims(grouped, target, [b.target for b in blocks])


def push(index_map: IndexMap, live: Tensor, source: Shape, target: Shape) -> Tensor:
    """Backward pass on a compressed bool: which operand elements some True result element reads."""
    if 0 in source or 0 in target:
        # Where both are empty, as in an empty batch, there would be something to read in others.
        return torch.full((1,) * len(source), 0 in source and 0 in target and bool(live.any()))
    blocks = index_map.blocks
    skip = [_compress(live, b.target) and (b.index is None or _onto(b, source)) for b in blocks]
    grouped = _group_dims(live, target, [b.target for b in blocks], [not s for s in skip])
    for position, block in enumerate(blocks):
        if skip[position] or block.index is None:
            continue
        valid = block.index >= 0
        read = grouped.index_select(position, valid.nonzero().reshape(-1)).to(torch.int32)
        shape = list(grouped.shape)
        shape[position] = prod(source[d] for d in block.source)
        scattered = torch.zeros(shape, dtype=torch.int32)
        grouped = scattered.index_add_(position, block.index[valid], read) > 0
    return _ungroup_dims(grouped, source, [b.source for b in blocks])


def _onto(block: Block, source: Shape) -> bool:
    if block.index is None:
        return True
    seen = torch.zeros(prod(source[d] for d in block.source) + 1, dtype=torch.bool)
    seen[block.index] = True
    return bool(seen[:-1].all())


def box(kept: Sequence[Tensor]) -> Tensor:
    """The flattened product of keep-sets (bool vectors), row-major."""
    result = torch.ones(1, dtype=torch.bool)
    for one in kept:
        result = (result[:, None] & one[None, :]).reshape(-1)
    return result


def project(flat: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """The projections of a flattened set onto each of its dimensions."""
    shaped = flat.reshape(tuple(sizes)) if sizes else flat.reshape(())
    return tuple(
        any_over(shaped, (o for o in range(len(sizes)) if o != d)).reshape(-1) for d in range(len(sizes))
    )


def restrict_index(index: Tensor | None, kept_source: Tensor, kept_target: Tensor) -> Tensor | None:
    """`index` renumbered onto the kept elements: the map that a smaller op has to have.

    None when a kept target element reads an element that is not kept.
    """
    ranks = torch.cumsum(kept_source.to(torch.int64), 0) - 1
    ranks = torch.where(kept_source, ranks, torch.full_like(ranks, -2))
    # One entry more, so that a gap has something to look up where the source is empty.
    ranks = torch.cat([ranks, ranks.new_full((1,), -2)])
    positions = kept_target.nonzero().reshape(-1)
    read = positions if index is None else index[positions]
    moved = read.clone()
    moved[read >= 0] = ranks[read[read >= 0]]
    return None if bool((moved == -2).any()) else moved
