"""How the source of a forward may have to state one call otherwise: a closed set of kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen


@frozen
class Arguments:
    """The same operator with other numbers in the `changes` among its arguments."""

    changes: Mapping[str, Any]


@frozen
class SplitSizes:
    """A split into parts of `sizes` along `dim` in place of equal chunks."""

    sizes: tuple[int, ...]
    dim: int


@frozen
class TakeIndices:
    """The operand's `indices` along `dim`, in that order."""

    indices: tuple[int, ...]
    dim: int


@frozen
class MeanOfTotal:
    """A mean over `total` elements, of which only those that are not 0 are left to add up."""

    total: int


@frozen
class PartialLayerNorm:
    """LayerNorm over `total` elements; the `dropped` ones add up to `dropped_sum`, their squares to
    `dropped_squares`.
    """

    dropped: int
    total: int
    dropped_sum: float
    dropped_squares: float


Restatement = Arguments | SplitSizes | TakeIndices | MeanOfTotal | PartialLayerNorm
