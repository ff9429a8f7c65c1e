"""The published tables redone: seconds of 1, 2, 4, ... consecutive runs of the masked and of the small model.

Section `consecutive`, and `consecutive_cuda` where a GPU is at hand.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.architectures import SEED
from benchmarks.clock import Repeats, interleaved
from benchmarks.settings import Settings
from benchmarks.store import Row
from benchmarks.subjects import Subject, exactness, subject
from speedup import apply_masks, materialize, plan_speedup

COUNTS = (1, 2, 4, 8, 16, 32)
# The published table of the MNIST net goes on to 400.
MNIST_COUNTS = (1, 2, 4, 40, 400)
# Of few runs more rounds; long ones are their own mean.
_ROUNDS, _FEW = {1: 15, 2: 9, 4: 5, 8: 3}, 2


def run(settings: Settings) -> None:
    """Measure every network of the published tables on the CPU and on a GPU if there is one."""
    for name in settings.chosen(SEED, ["fpgm_mnist"]):
        settings.measure("consecutive", name, partial(_row, name, "cpu", settings))
        if torch.cuda.is_available():
            settings.measure("consecutive_cuda", name, partial(_row, name, "cuda", settings))


def _row(name: str, device: str, settings: Settings) -> Row:
    one = subject(name)
    batch = 4 if settings.smoke else SEED[name][0]
    x = one.inputs(batch, 0).to(device)
    plan = plan_speedup(one.model, one.inputs(2, 0), one.masks)
    small = materialize(plan).to(device)
    masked = apply_masks(one.model, one.masks).to(device)
    counts = MNIST_COUNTS if name == "fpgm_mnist" else COUNTS
    latencies = [
        {"times": n, **_latency(masked, small, x, n, settings)}
        for n in (counts[:3] if settings.smoke else counts)
    ]
    return {
        "shape": [batch, *x.shape[1:]],
        "parameters_kept": plan.parameters_after / plan.parameters_before,
        "macs_kept": plan.macs_after / plan.macs_before,
        "latency": latencies,
        "error": _error(one),
    }


def _latency(masked: nn.Module, small: nn.Module, x: Any, times: int, settings: Settings) -> dict[str, Any]:
    calls = {"masked": lambda: masked(x), "small": lambda: small(x)}
    repeats = Repeats(2 if settings.smoke else _ROUNDS.get(times, _FEW), times)
    runs = interleaved(calls, repeats, threads=settings.threads)
    return {
        name: {**run, **{k: run[k] * times for k in ("median", "low", "high")}} for name, run in runs.items()
    }


def _error(one: Subject) -> float:
    """The error in float64; the model is changed to that."""
    wide = one.double()
    small = materialize(plan_speedup(wide.model, wide.inputs(2, 0), wide.masks), verify="none")
    return exactness(wide, small, apply_masks(wide.model, wide.masks))
