"""Timing of functions beside one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from statistics import median, quantiles
from timeit import Timer

import torch
from attrs import frozen


@frozen
class Timing:
    """Seconds of one run: the median over the rounds, and the quartiles as its spread."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{1e3 * self.median:.3f} ms ({1e3 * self.low:.3f}–{1e3 * self.high:.3f})"


def take_turns(
    runs: Sequence[Callable[[], object]], *, rounds: int, threads: int | None = None, seconds: float = 0.0
) -> tuple[Timing, ...]:
    """Time each of `runs` in inference mode, once per round, so that all meet the same machine.

    Each runs once to warm up before it is timed, on the clock of `torch.utils.benchmark`, which waits for
    devices. Every round has an order of its own: a run is some percent slower where it follows a larger one.

    Args:
        runs: what to time; called without arguments.
        rounds: measurements of each, at least two.
        threads: threads that torch may use; None: as many as now.
        seconds: how long one measurement shall take at least; it repeats its run until then.
    """
    # It takes a while to import and is only needed to measure.
    from torch.utils.benchmark import timer as clock

    timers = [Timer(run, timer=clock) for run in runs]
    found: list[list[float]] = [[] for _ in runs]
    shuffled = Random(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with torch.inference_mode():
            numbers = [_repeats(min(timer.repeat(2, 1)), seconds) for timer in timers]
            for _ in range(rounds):
                for which in shuffled.sample(range(len(timers)), len(timers)):
                    timers[which].timeit(1)
                    found[which].append(timers[which].timeit(numbers[which]) / numbers[which])
    finally:
        torch.set_num_threads(before)
    return tuple(_timing(own) for own in found)


def _repeats(once: float, seconds: float) -> int:
    return max(1, round(seconds / max(once, 1e-9)))


def _timing(seconds: Sequence[float]) -> Timing:
    low, _, high = quantiles(seconds, method="inclusive")
    return Timing(median(seconds), low, high)
