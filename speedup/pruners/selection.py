"""Which of scored units stay: numbers per group, and the best of each group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor

import torch
from attrs import frozen
from torch import Tensor

from speedup.pruners.channels import ScoredLayer


@frozen(eq=False)
class Group:
    """Units that compete with one another for their place.

    Attributes:
        layers: those whose channels they are.
        units: (n,) their numbers.
        scores: (n,) float64, how much each is worth.
        free: (n,) bool, whether it may go.
        runs: units come in so many equal runs, which keep equal counts.
    """

    layers: tuple[ScoredLayer, ...]
    units: Tensor
    scores: Tensor
    free: Tensor
    runs: int = 1

    @property
    def most(self) -> int:
        """How many may go, so that one of each run stays."""
        free = self.free.reshape(self.runs, -1).sum(1)
        return self.runs * int(torch.minimum(free, torch.tensor(len(self.units) // self.runs - 1)).min())


def losses_by_group(groups: Sequence[Group], sparsity: Callable[[Group], float]) -> list[int]:
    """How many units each group loses: its share, rounded down."""
    return [min(_share(len(group.units), sparsity(group)), group.most) for group in groups]


def losses_over_all(groups: Sequence[Group], sparsity: float) -> list[int]:
    """How many units each group loses when those of least score over all groups go."""
    total = sum(len(group.units) for group in groups)
    left = _share(total, sparsity)
    losses = [0] * len(groups)
    ranked = sorted(
        (score, number) for number, group in enumerate(groups) for score in group.scores[group.free].tolist()
    )
    for _, number in ranked:
        if left and losses[number] < groups[number].most:
            losses[number] += 1
            left -= 1
    return losses


def _share(count: int, sparsity: float) -> int:
    # 0.7 of 10 is 7, although 0.7 * 10 is a little less.
    return floor(count * sparsity + 1e-9)


def dropped_units(group: Group, losses: int, round_to: int = 1) -> Tensor:
    """(n,) bool: the units of least score, as many as `losses` allows.

    Every run loses as many as the others, and what stays is a multiple of `round_to` where the group is.
    Of equal scores the first go.
    """
    width = len(group.units) // group.runs
    each = losses // group.runs
    while each and (width - each) * group.runs % round_to:
        each -= 1
    scores = group.scores.masked_fill(~group.free, torch.inf).reshape(group.runs, width)
    least = torch.argsort(scores, dim=1, stable=True)[:, :each]
    dropped = torch.zeros(group.runs, width, dtype=torch.bool)
    return dropped.scatter_(1, least, True).reshape(-1)
