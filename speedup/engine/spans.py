"""Vectors as sums of multiples of others: rows of matrices in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def take_out(direction: Tensor, left: Tensor) -> None:
    """Subtract from each row of `left`, in place, its part along `direction`, which is of length 1."""
    # Twice, so that what is left holds nothing of it but rounding.
    for _ in range(2):
        left.addr_(left @ direction, direction, alpha=-1)


def multiples_of(basis: Tensor, wanted: Tensor) -> Tensor:
    """(rows of `wanted`, rows of `basis`) how many times each of `basis` makes up each that is wanted."""
    # Not lstsq, whose pivots and last digits are others in every call.
    directions, upper = torch.linalg.qr(basis.t())
    found: Tensor = torch.linalg.solve_triangular(upper, directions.t() @ wanted.t(), upper=True).t()
    return found
