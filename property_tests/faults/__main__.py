"""Command line: try all faults, or those whose names contain a word given, and print the table."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import torch
import torch.export

from property_tests.faults.fault import Fault
from property_tests.faults.report import row, summary
from property_tests.faults.table import CONTROL, FAULTS
from property_tests.faults.trial import CONTROL_SECONDS, SECONDS, Trial, try_fault


def main(arguments: Sequence[str]) -> int:
    """The number of the process's exit: 1 when a fault survives."""
    parser = argparse.ArgumentParser(prog="python -m property_tests.faults", description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of the names of the faults to try; all when none")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes at a time")
    parser.add_argument("--no-gate", action="store_true", help="do not try survivors with the gate on")
    parser.add_argument("--control", action="store_true", help="no fault: all tests must pass")
    given = parser.parse_args(arguments)
    chosen = [CONTROL] if given.control else _named(given.words)
    done = []
    for trial in trials(chosen, given.jobs, not (given.no_gate or given.control)):
        print(row(trial), flush=True)
        done.append(trial)
    print(summary(done))
    wanted = "survived" if given.control else "killed"
    return 0 if done and all(trial.outcome == wanted for trial in done) else 1


def _named(words: Sequence[str]) -> list[Fault]:
    return [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]


def trials(faults: Sequence[Fault], jobs: int, gate: bool) -> Iterator[Trial]:
    """What became of the faults, `jobs` at a time, in their order."""
    _warm_up()
    with ThreadPoolExecutor(jobs) as threads:
        yield from threads.map(partial(_apart, gate=gate), faults)


def _apart(fault: Fault, gate: bool) -> Trial:
    """The trial in a process of its own, forked where torch is imported and the library is not."""
    limit = CONTROL_SECONDS if fault is CONTROL else SECONDS
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as process:
        try:
            return process.submit(try_fault, fault, gate, limit).result()
        except BrokenProcessPool:
            return Trial(fault, "crashed", reason="the process ended without a verdict")


def _warm_up() -> None:
    """The first export of a process imports much; the processes to be forked share what it did."""
    torch.set_num_threads(1)
    torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),), strict=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
