"""Timing of functions beside one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median, quantiles

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

    Measured with `torch.utils.benchmark`, which warms up and waits for devices.

    Args:
        runs: what to time; called without arguments.
        rounds: measurements of each, at least two.
        threads: threads that torch may use; None: as many as now.
        seconds: how long one measurement shall take at least; it repeats its run until then.
    """
    # It takes a while to import and is only needed to measure.
    from torch.utils.benchmark import Timer

    threads = threads or torch.get_num_threads()
    timers = [Timer("run()", globals={"run": run}, num_threads=threads) for run in runs]
    found: list[list[float]] = [[] for _ in runs]
    with torch.inference_mode():
        numbers = [_repeats(timer.timeit(1).mean, seconds) for timer in timers]
        for _ in range(rounds):
            for timer, number, own in zip(timers, numbers, found, strict=True):
                own.append(timer.timeit(number).mean)
    return tuple(_timing(own) for own in found)


def _repeats(once: float, seconds: float) -> int:
    return max(1, round(seconds / max(once, 1e-9)))


def _timing(seconds: Sequence[float]) -> Timing:
    low, _, high = quantiles(seconds, method="inclusive")
    return Timing(median(seconds), low, high)
