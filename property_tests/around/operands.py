"""How what an operator reads comes from the outside: a float through layers, turned into what it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tests.support.samplers import (
    definite,
    mixed,
    mixed_flags,
    mixed_integers,
    mixed_pairs,
    shares,
    signs,
    within,
)
from tests.support.soundness import Below, Sampler, blank, flags, positive, rows, sparse

Turn = Callable[[Tensor], Tensor]


def _same(x: Tensor) -> Tensor:
    return x


# Whole numbers and comparisons jump, so not where the numbers that masks leave behind lie.
_JUMP = 0.28125

_TURNS: Mapping[Sampler, Turn] = {
    **dict.fromkeys((mixed, sparse, blank, rows), _same),
    positive: lambda x: x.abs() + 0.5,
    shares: torch.sigmoid,
    within: torch.tanh,
    signs: lambda x: torch.where(x > _JUMP, 1.0, -1.0).to(x.dtype),
    definite: lambda x: x @ x.mT + torch.eye(x.shape[-1], dtype=x.dtype),
    mixed_pairs: lambda x: torch.complex(x, 0.5 * x),
    mixed_flags: lambda x: x > _JUMP,
    flags: lambda x: x > _JUMP,
    mixed_integers: lambda x: (2 * x.abs() + _JUMP).to(torch.int64),
}


def turned(sampler: Sampler) -> Turn | None:
    """The function that makes of any floats what `sampler` draws; None when only `sampler` can draw such."""
    if isinstance(sampler, Below):
        return lambda x: (3 * x.abs() + _JUMP).to(torch.int64) % sampler.limit
    return _TURNS.get(sampler)
