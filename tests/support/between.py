"""Something between two layers, the first with masked channels: how many of these stay, exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speedup import apply_masks, materialize, plan_speedup
from tests.support.masking import rows
from tests.support.measure import relative_error

Function = Callable[[Tensor], Tensor]
CHANNELS = 8
MASKED = (1, 2, 5)
LEFT = CHANNELS - len(MASKED)
IMAGES = ((2, 3, 6, 6), (1, 3, 4, 8), (3, 3, 9, 5))
"""Sizes of inputs, that of the example first."""


class Between(nn.Module):
    """`function` of what a layer and a ReLU make of images; its result has the channels second or last."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.last = nn.Linear(CHANNELS, 4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        made = self.function(F.relu(self.first(x)))
        result: Tensor = self.last(made.movedim(1, -1) if made.ndim == 4 else made)
        return result


def channels_left(function: Function, sizes: Sequence[tuple[int, ...]] = IMAGES) -> int:
    """How many of the `CHANNELS` stay of which `MASKED` come out of the first layer as zeros.

    Raises:
        AssertionError: the small model is not the masked one at some of `sizes`.
    """
    torch.manual_seed(0)
    model = Between(function).double().eval()
    masks = {"first": rows(model.first, *MASKED)}
    inputs = [torch.randn(size, dtype=torch.float64) for size in sizes]
    small = materialize(plan_speedup(model, inputs[0], masks)).eval()
    masked = apply_masks(model, masks).eval()
    for x in inputs:
        assert relative_error(masked, small, [(x,), (torch.randn_like(x),)]) < 1e-10
    return small.get_parameter("first.weight").shape[0]
