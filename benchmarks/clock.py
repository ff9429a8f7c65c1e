"""Clocks: latencies of models that take turns, time and memory of a single call.

Models that are compared run interleaved, so that a change in the machine's load meets all of them, after
a warm-up; what is reported is the median with the quartiles.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeVar

import torch
from torch.utils.benchmark import Timer

T = TypeVar("T")
Spread = dict[str, float]


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, threads: int, number: int = 1
) -> dict[str, Spread]:
    """Seconds per call, by name: median, quartiles, and how many rounds.

    A round times `number` consecutive runs of each call in turn, by `torch.utils.benchmark`, which waits
    for a GPU and sets the threads; the first round warms up and does not count.
    """
    timers = {
        name: Timer("call()", globals={"call": call}, num_threads=threads) for name, call in calls.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for timer in timers.values():
            timer.timeit(1)
        for _ in range(rounds):
            for name, timer in timers.items():
                seconds[name].append(timer.timeit(number).median)
    return {name: spread(runs) for name, runs in seconds.items()}


def spread(runs: Iterable[float]) -> Spread:
    """Median and quartiles of measurements."""
    found = sorted(runs)
    low, _, high = quantiles(found, n=4, method="inclusive") if len(found) > 1 else (found[0],) * 3
    return {"median": median(found), "low": low, "high": high, "runs": len(found)}


def rounds_for(call: Callable[[], object], seconds: float, most: int = 100, least: int = 5) -> int:
    """How many rounds of a call fit into about `seconds`."""
    with torch.inference_mode():
        call()
        start = time.perf_counter()
        call()
    return max(least, min(most, int(seconds / max(time.perf_counter() - start, 1e-6))))


def timed(call: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """What `call` returns, with its seconds by the clock and of processor time."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def best_of(call: Callable[[], Any], times: int) -> dict[str, float]:
    """The least of several timings: what the call costs when nothing else runs."""
    runs = [timed(call)[1] for _ in range(times)]
    return {kind: min(run[kind] for run in runs) for kind in ("wall", "cpu")}


def forget_peak() -> int:
    """Start a new peak of resident memory where the system can, and say what is resident, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak()
    return _status("VmRSS")


def peak() -> int:
    """The peak of resident memory in bytes, since `forget_peak` where the system can tell."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(field: str) -> int:
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), 0)
