"""How the indices of one dimension meet those of another across a rearrangement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod

import torch
from attrs import frozen
from torch import Tensor

from speedup.engine.constraints import Constraint, Dim, Mapped, Subset

Maps = Mapping[tuple[int | None, Dim], tuple[Mapped, ...]]


def maps_of(constraints: Iterable[Constraint]) -> Maps:
    """By the op that rearranges and a dimension that takes part: how."""
    found: dict[tuple[int | None, Dim], list[Mapped]] = {}
    for constraint in constraints:
        if isinstance(constraint, Mapped):
            for dim in constraint.dims:
                found.setdefault((constraint.reason.op, dim), []).append(constraint)
    return {key: tuple(mapped) for key, mapped in found.items()}


@frozen(eq=False)
class Crossing:
    """Element by element of a rearrangement: its index `own` in one dimension, `indices` in `other`."""

    own: Tensor
    other: Dim
    indices: Tensor


def crossings(constraint: Mapped | Subset, dim: Dim) -> Iterator[Crossing]:
    """From `dim`, one of the constraint's, to each dimension on the other side that extends at all."""
    if isinstance(constraint, Subset):
        every = torch.arange(len(constraint.spare))
        yield Crossing(every, constraint.whole if dim == constraint.part else constraint.part, every)
        return
    if constraint.index is None:
        read = torch.arange(prod(constraint.target_sizes))
    else:
        read = constraint.index.reshape(-1)
    places = (read >= 0).nonzero().reshape(-1)
    near, far = constraint.sources, constraint.targets
    sizes, others, here, there = constraint.source_sizes, constraint.target_sizes, read[places], places
    if dim not in near:
        near, far, sizes, others, here, there = far, near, others, sizes, there, here
    if not len(here):
        return
    own = _coordinates(here, sizes)[near.index(dim)]
    for other, extent, indices in zip(far, others, _coordinates(there, others), strict=True):
        if extent > 1:
            yield Crossing(own, other, indices)


def _coordinates(flat: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    # Most sides have one dimension, whose places are the indices.
    return (flat,) if len(sizes) == 1 else tuple(torch.unravel_index(flat, sizes)) if sizes else ()
