"""The forward of a small model, timed by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from speedup.building.materializing import materialize
from speedup.ir.inputs import Example
from speedup.measuring.timing import take_turns
from speedup.modules.isolation import isolated
from speedup.plan import Plan

# Enough for a median that others' work on the machine moves little.
_ROUNDS, _SECONDS = 9, 0.02


def measure_forward(plan: Plan) -> float:
    """Milliseconds of a forward of the small model on the planned example, where the model is: a median."""
    forward = forward_of(small_on(plan), plan.subject.example)
    with isolated():
        (timing,) = take_turns([forward], rounds=_ROUNDS, seconds=_SECONDS)
    return 1e3 * timing.median


def small_on(
    plan: Plan, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """The small model there and in that type, in eval mode; nothing is verified."""
    return materialize(plan, verify="none").eval().to(device=device, dtype=dtype)


def forward_of(model: nn.Module, example: Example) -> Callable[[], object]:
    """One forward of the model, each time with the same tensors."""
    args, kwargs = example.call(example.tensors)
    return lambda: model(*args, **kwargs)
