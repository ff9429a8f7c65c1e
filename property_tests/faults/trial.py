"""One trial: the suite against the library with one fault, in this process, up to the first failure."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import time
from collections.abc import Iterator
from importlib import import_module
from itertools import groupby
from typing import Literal

import attrs
import hypothesis
import pytest

from property_tests.faults.fault import Fault, plant

Outcome = Literal["killed", "gate only", "survived", "timed out", "crashed", "invalid"]

PROFILE = "faults"
# Of processor time, so that a busy machine does not change a verdict.
SECONDS = 300
# The control runs all tests to their end.
CONTROL_SECONDS = 3600
# It is about the gate itself, which is off.
_NOT_WITHOUT_GATE = (
    "tests/building/test_materialize.py::test_wrong_numbers_are_found_by_full_verification_only",
    "tests/building/test_materialize.py::test_wrong_sizes_are_found_by_structural_verification",
)


@attrs.frozen
class Trial:
    """What became of a fault: who noticed it, after how many examples and tests."""

    fault: Fault
    outcome: Outcome
    killer: str = ""
    reason: str = ""
    tests: int = 0
    examples: int = 0
    seconds: float = 0.0


class _Watch:
    """A pytest plugin that remembers the first failure and counts what came before it."""

    def __init__(self) -> None:
        self.tests = 0
        self.examples = 0
        self.killer = ""
        self.reason = ""
        self.broken = ""

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.broken:
            self.broken = report.longreprtext

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        outcome = yield
        report = outcome.get_result()  # type: ignore[attr-defined]
        if report.when == "call":
            self.tests += 1
            self.examples += _examples(getattr(item, "hypothesis_statistics", ""))
        if report.failed and not self.killer:
            self.killer = report.nodeid
            self.reason = _reason(report.longrepr)


def _examples(statistics: str) -> int:
    """How many examples Hypothesis tried, by its own account; a plain test is one."""
    counts = re.findall(r"(\d+) passing\b[^,]*, (\d+) failing", statistics)
    return sum(int(passing) + int(failing) for passing, failing in counts) or 1


def _reason(representation: object) -> str:
    crash = getattr(representation, "reprcrash", None)
    lines = str(getattr(crash, "message", representation)).strip().splitlines()
    return lines[0] if lines else ""


def try_fault(fault: Fault, gate: bool = True, limit: float = SECONDS) -> Trial:
    """Plant `fault` in this process and run its killers; again with the gate on, if `gate` and they pass.

    `limit` is the processor time that may pass, in seconds.
    """
    start = time.process_time()
    _register_profile()
    signal.signal(signal.SIGPROF, _out_of_time)
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        plant(fault)
        watch = _run(fault.killers, gate=False)
        outcome = _outcome(watch)
        if outcome == "survived" and gate:
            watch = _run(fault.killers, gate=True)
            outcome = "gate only" if _outcome(watch) == "killed" else "survived"
    except TimeoutError:
        return Trial(fault, "timed out", seconds=time.process_time() - start)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.process_time() - start
    if seconds >= limit:
        # What stopped the run may have come out as some test's own failure.
        outcome = "timed out"
    reason = watch.broken or watch.reason
    return Trial(fault, outcome, watch.killer, reason, watch.tests, watch.examples, seconds)


def _outcome(watch: _Watch) -> Outcome:
    if watch.broken or not watch.tests:
        return "invalid"
    return "killed" if watch.killer else "survived"


def _out_of_time(number: int, frame: object) -> None:
    raise TimeoutError("no verdict in time")


def _register_profile() -> None:
    """The same examples on every run, none of them shrunk; the conftest of the properties loads it."""
    hypothesis.settings.register_profile(
        PROFILE,
        max_examples=150,
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    os.environ["HYPOTHESIS_PROFILE"] = PROFILE


def _run(killers: tuple[str, ...], *, gate: bool) -> _Watch:
    """Run the tests until one fails. Without the gate, `materialize` hands out whatever it made."""
    watch = _Watch()
    arguments = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:benchmark"]
    if not gate:
        arguments += [f"--deselect={test}" for test in _NOT_WITHOUT_GATE]
    said = io.StringIO()
    with _gate(gate), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        # One run would join tests of a file with the file as a whole, and forget their order.
        for _, some in groupby(killers, key=lambda test: (test.partition("::")[0], "::" in test)):
            code = pytest.main([*arguments, *some], plugins=[watch])
            if code == pytest.ExitCode.USAGE_ERROR:
                watch.broken = said.getvalue().strip()
            if watch.broken or watch.killer:
                break
    return watch


@contextlib.contextmanager
def _gate(on: bool) -> Iterator[None]:
    # Not before the fault is planted.
    module = import_module("speedup.building.materializing")
    check = vars(module)["check"]
    if not on:
        vars(module)["check"] = lambda plan, small, level: None
    try:
        yield
    finally:
        vars(module)["check"] = check
