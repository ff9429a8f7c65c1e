"""Which module of a faulty small model is the first to compute something else."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from speedup.building.comparison import scratch_copy
from speedup.testing.oracle import TOLERANCE, Yardstick, distance, output_of

Calls = dict[tuple[str, int], Tensor]
"""(module path, number of its call) -> what it returned."""


def first_differing(yardstick: Yardstick, small: nn.Module, tensors: Sequence[Tensor]) -> str | None:
    """The path of the first module, in the order in which they return, with another output of equal shape.

    A module whose output has become smaller cannot be compared, so the fault may lie before the one that
    is named. None: no inner module differs.
    """
    wanted, found = (_returned(model, yardstick, tensors) for model in (yardstick.masked, small))
    for key, one in wanted.items():
        other = found.get(key)
        if not key[0] or other is None or other.shape != one.shape or not one.is_floating_point():
            continue
        limit = TOLERANCE.get(one.dtype, 0.0) * max(
            float(one.double().abs().max()) if one.numel() else 0.0, 1e-6
        )
        if distance(other, one) > limit:
            return key[0]
    return None


def _returned(model: nn.Module, yardstick: Yardstick, tensors: Sequence[Tensor]) -> Calls:
    watched, seen, counts = scratch_copy(model), Calls(), dict[str, int]()

    def watch(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                counts[path] = counts.get(path, 0) + 1
                seen[path, counts[path]] = output.detach().clone()

        return hook

    for path, module in watched.named_modules():
        module.register_forward_hook(watch(path))
    # A faulty small model may not get to its end.
    with suppress(Exception):
        output_of(watched, yardstick.example, tensors)
    return seen
