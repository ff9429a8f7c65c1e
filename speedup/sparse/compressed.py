"""A sparse matrix as the blocks of it that are not zero, row of blocks by row of blocks; exact both ways."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from speedup.sparse.ordering import Order


class Compressed(NamedTuple):
    """A matrix (rows, columns) as its blocks that are not zero, in the layout of CSR and BSR.

    `values` are (blocks,) where blocks are single elements, else (blocks, side, side). Row of blocks r has
    those from `pointers[r]` up to `pointers[r + 1]`; `columns` are their columns of blocks, which rise within
    a row. Of a matrix whose rows and columns were put in another `order` first, all of this is of that one.

    A plain tuple, which torch.compile and torch.export see through.
    """

    values: Tensor
    columns: Tensor
    pointers: Tensor
    order: Order | None = None

    @property
    def side(self) -> int:
        """The extent of a block."""
        return 1 if self.values.ndim == 1 else self.values.shape[-1]

    @property
    def flat(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """Values, columns, pointers, and the orders of rows and columns, None where there are none."""
        order = (None, None) if self.order is None else (self.order.rows, self.order.columns)
        return self.values, self.columns, self.pointers, *order


def compress(matrix: Tensor, side: int = 1, order: Order | None = None) -> Compressed:
    """Of a strided matrix (rows, columns), both multiples of `side`, the blocks that are not zero.

    Indices are of 32 bits, which MKL multiplies by without a copy.
    """
    ordered = matrix if order is None else matrix[order.rows][:, order.columns]
    blocks = _in_blocks(ordered, side)
    occupied = (blocks != 0).flatten(2).any(2)
    columns = occupied.nonzero()[:, 1].to(torch.int32)
    counts = occupied.sum(1).cumsum(0).to(torch.int32)
    pointers = torch.cat([counts.new_zeros(1), counts])
    values = blocks[occupied]
    return Compressed(values.flatten() if side == 1 else values, columns, pointers, order)


def decompress(stored: Compressed, shape: tuple[int, int]) -> Tensor:
    """The strided matrix of this shape that `compress` was given."""
    side = stored.side
    down, across = shape[0] // side, shape[1] // side
    counts = (stored.pointers[1:] - stored.pointers[:-1]).long()
    rows = torch.repeat_interleave(
        torch.arange(down, device=counts.device), counts, output_size=len(stored.columns)
    )
    blocks = stored.values.new_zeros(down, across, side, side)
    places = (rows, stored.columns.long())
    blocks = blocks.index_put(places, stored.values.reshape(-1, side, side))
    ordered = blocks.transpose(1, 2).reshape(shape)
    if stored.order is None:
        return ordered
    return ordered[stored.order.row_places][:, stored.order.column_places]


def _in_blocks(matrix: Tensor, side: int) -> Tensor:
    """(rows of blocks, columns of blocks, side, side)."""
    rows, columns = matrix.shape
    return matrix.reshape(rows // side, side, columns // side, side).transpose(1, 2)


def block_fill(matrix: Tensor, side: int, order: Order | None = None) -> float:
    """Which share of what its blocks would store is not zero; 0 where `side` divides not both extents."""
    if matrix.shape[0] % side or matrix.shape[1] % side:
        return 0.0
    pattern = matrix != 0
    ordered = pattern if order is None else pattern[order.rows][:, order.columns]
    occupied = int(_in_blocks(ordered, side).flatten(2).any(2).sum())
    return int(pattern.sum()) / (occupied * side * side) if occupied else 0.0
