"""Orders of rows and columns in which the elements of a sparse matrix come to lie in blocks.

Rows that have their elements in the same columns are put side by side, and then columns that are read by the
same rows of blocks: the aggregation of rows by similarity, as of Labini et al., "Blocking Sparse Matrices to
Leverage Dense-Specific Multiplication" (2022), with groups of a fixed size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Of patterns that are no nearer to their likes than this (Jaccard), blocks would be mostly zeros.
_ALIKE = 0.4
_PROBES = 32
# Comparisons of elements beyond which nothing is looked for: some seconds.
_MOST = 2e10


class Order(NamedTuple):
    """Row i of the ordered matrix is row `rows[i]` of the matrix, column j is `columns[j]`."""

    rows: Tensor
    columns: Tensor

    @property
    def row_places(self) -> Tensor:
        """Where each row of the matrix is in the ordered one."""
        return torch.argsort(self.rows)

    @property
    def column_places(self) -> Tensor:
        """Where each column of the matrix is in the ordered one."""
        return torch.argsort(self.columns)


def block_order(matrix: Tensor, side: int) -> Order | None:
    """An order that gathers elements in blocks (side, side), ever the same; None where rows are not alike.

    `matrix` is (rows, columns), both multiples of `side`.
    """
    pattern = (matrix != 0).float()
    rows, columns = pattern.shape
    if rows % side or columns % side or rows * rows * columns / side > _MOST or not _are_alike(pattern, side):
        return None
    first = _grouped(pattern, side)
    gathered = pattern[first].reshape(rows // side, side, columns).amax(1)
    return Order(first, _grouped(gathered.t().contiguous(), side))


def _are_alike(pattern: Tensor, side: int) -> bool:
    """Whether some rows have `side` - 1 others like them."""
    used = pattern[pattern.any(1)]
    if len(used) < side:
        return False
    probes = used[:: max(1, len(used) // _PROBES)]
    common = probes @ used.t()
    either = probes.sum(1, keepdim=True) + used.sum(1) - common
    near = (common / either).topk(min(side, len(used)), 1).values[:, -1]
    return float(near.median()) >= _ALIKE


def _grouped(pattern: Tensor, side: int) -> Tensor:
    """The rows of a pattern of zeros and ones, such as are alike in groups of `side`; empty ones last."""
    counts = pattern.sum(1)
    left = counts.nonzero().flatten()
    groups: list[Tensor] = []
    while len(left):
        seed = left[0]
        rows = pattern[left]
        common = rows @ pattern[seed]
        near = common / (counts[left] + counts[seed] - common)
        # Stable, so that of rows that are as near the first ones are taken, on every machine.
        taken = torch.sort(near, descending=True, stable=True).indices[:side]
        groups.append(left[taken])
        stays = torch.ones_like(left, dtype=torch.bool)
        stays[taken] = False
        left = left[stays]
    empty = (counts == 0).nonzero().flatten()
    return torch.cat([*groups, empty])
