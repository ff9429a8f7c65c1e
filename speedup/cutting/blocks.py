"""Tensors changed piece by piece, while no more of them is in memory than a few rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from speedup.cutting.tensors import TensorChange
from speedup.ir.graph import Shape

# Bytes that are read all the same where they lie between kept rows: to seek takes about as long.
_GAP = 1 << 16


class RowSource(Protocol):
    """A tensor that is somewhere else."""

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def read(self, start: int, stop: int) -> Tensor:
        """Its rows from `start` up to `stop`; the whole of one that has no dimension."""
        ...


def changed_blocks(change: TensorChange, source: RowSource, most: int) -> Iterator[Tensor]:
    """The rows of the new tensor, a few at a time and in order.

    At most `most` bytes are read at once, or one row. Rows that go are not read unless they lie close to
    others. A tensor of which rows are added to others is read as a whole.
    """
    if not source.shape or change.needs_all_rows:
        yield change.whole(source.read(0, source.shape[0] if source.shape else 1))
        return
    row = max(source.dtype.itemsize * math.prod(source.shape[1:]), 1)
    first = 0
    for rows in _pieces(change.kept_rows(source.shape[0]), max(most // row, 1), max(_GAP // row, 1)):
        start = int(rows[0])
        block = source.read(start, int(rows[-1]) + 1)
        if len(block) != len(rows):
            block = block.index_select(0, rows - start)
        yield change.some_rows(block, rows, first)
        first += len(rows)


def changed_tensor(
    change: TensorChange, source: RowSource, most: int, device: torch.device | str | None = None
) -> Tensor:
    """The new tensor, of which nothing but a few blocks is in memory besides; the CPU's by default."""
    result = torch.empty(change.shape(source.shape), dtype=source.dtype, device=device)
    row = 0
    for block in changed_blocks(change, source, most):
        (result[row : row + len(block)] if result.ndim else result).copy_(block)
        row += len(block) if result.ndim else 1
    return result


def _pieces(kept: Tensor, most: int, gap: int) -> Iterator[Tensor]:
    """Rows that ascend within `most` of the first one, without a gap longer than `gap`, in order."""
    steps = kept[1:] - kept[:-1]
    cuts = ((steps < 1) | (steps > gap)).nonzero().reshape(-1) + 1
    start = 0
    for end in [*cuts.tolist(), len(kept)]:
        while start < end:
            run = kept[start:end]
            length = int(torch.searchsorted(run, run[0] + most))
            yield run[:length]
            start += length
