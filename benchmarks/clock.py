"""Clocks: latencies of models that take turns, time and memory of a single call.

Models that are compared run interleaved, so that a change in the machine's load meets all of them, after
a warm-up; what is reported is the median with the quartiles.
"""

from __future__ import annotations

import gc
import random
import resource
import time
import timeit
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.benchmark import timer as torch_clock

T = TypeVar("T")
Spread = dict[str, float]

# Seconds.
_SHORTEST = 0.01


class Repeats(NamedTuple):
    """How often a call is timed: in `rounds` measurements of `number` consecutive runs each."""

    rounds: int
    number: int = 1


def interleaved(
    calls: Mapping[str, Callable[[], object]], repeats: Repeats, *, threads: int
) -> dict[str, Spread]:
    """Seconds per call, by name: median, quartiles, and how many rounds.

    In each round every call has its turn: it runs once to warm up and is then timed by `timeit`, on the clock
    of `torch.utils.benchmark`, which waits for a GPU. (Its `Timer` would warm up twice, every time.) Every
    round has an order of its own, as a call is some percent slower where it follows a larger model.
    """
    shuffled = random.Random(0)
    timers = {name: timeit.Timer(call, timer=torch_clock) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for _ in range(repeats.rounds):
                for name in shuffled.sample(list(timers), len(timers)):
                    timers[name].timeit(1)
                    seconds[name].append(timers[name].timeit(repeats.number) / repeats.number)
    finally:
        torch.set_num_threads(before)
    return {name: spread(runs) for name, runs in seconds.items()}


def spread(runs: Iterable[float]) -> Spread:
    """Median and quartiles of measurements."""
    found = sorted(runs)
    low, _, high = quantiles(found, n=4, method="inclusive") if len(found) > 1 else (found[0],) * 3
    return {"median": median(found), "low": low, "high": high, "runs": len(found)}


def repeats_within(seconds: float, call: Callable[[], object], *, least: int = 5, most: int = 100) -> Repeats:
    """As many measurements of a call as take about `seconds`, none shorter than the clock is good for."""
    with torch.inference_mode():
        call()
        once = max(timeit.Timer(call, timer=torch_clock).timeit(1), 1e-6)
    number = max(1, round(_SHORTEST / once))
    return Repeats(max(least, min(most, int(seconds / (once * (number + 1))))), number)


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
