"""Hypothesis profiles: ci (the default) is bounded and repeatable, dev is quick, nightly is long.

`HYPOTHESIS_PROFILE` selects one; `SPEEDUP_EXAMPLES` sets how many networks nightly tries. After the tests a
line says what was tried, and `SPEEDUP_TALLY` names a file to which the numbers are written as they come. A
nightly run of all of this folder fails if too little was tried.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import HealthCheck, settings

from property_tests.around.reach import operators
from property_tests.budget import NETWORKS, NIGHTLY, PROFILE
from property_tests.tally import PROPERTY, Tally, from_report, headline, shortcomings, to_report

# Networks are big as Hypothesis' examples go; and most of an example's time is spent in torch.export.
_COMMON = settings(
    deadline=None,
    print_blob=True,
    # The tally of a test is the same for all of its examples, as it shall be.
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
        HealthCheck.function_scoped_fixture,
    ],
)

# Shrinking one failure takes seconds, telling several apart takes minutes: that is for the night.
settings.register_profile("ci", _COMMON, max_examples=150, derandomize=True, report_multiple_bugs=False)
settings.register_profile("dev", _COMMON, max_examples=30, report_multiple_bugs=False)
settings.register_profile("nightly", _COMMON, max_examples=max(1, NETWORKS // 50))
settings.load_profile(PROFILE)

# pytest hangs a handler on every logger that does not propagate; one on this logger makes torch.export
# write down each tensor that it sees, page after page in the report of every failure.
logging.getLogger("torch.__trace").propagate = True

# The tensors are tiny: threads would only wait for one another.
torch.set_num_threads(1)


_TALLY = pytest.StashKey[Tally]()


@pytest.fixture
def networks(request: pytest.FixtureRequest) -> Tally:
    """Counts the networks that a test tries; its report carries the numbers."""
    return request.node.stash.setdefault(_TALLY, Tally())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Attach a test's tally to its report."""
    if call.when == "call" and _TALLY in item.stash:
        item.user_properties.append((PROPERTY, to_report(item.stash[_TALLY])))


class Search:
    """What all tests have tried so far, whichever processes ran them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._tally = Tally()
        self._failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a test's tally, and write the sum down: a long run that is cut off has tried something too."""
        if report.failed:
            self._failed.append(report.nodeid)
        found = [value for name, value in report.user_properties if name == PROPERTY]
        if report.when == "call" and found:
            self._tally.update(from_report(cast("dict[str, Any]", found[0])))
            if path := os.environ.get("SPEEDUP_TALLY"):
                written = {"failed": self._failed, **to_report(self._tally)}
                Path(path).write_text(json.dumps(written, indent=1) + "\n")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a nightly run that tried too little."""
        if self._owed() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was tried, and what a nightly run still owes."""
        if self._tally.networks:
            terminalreporter.section("networks")
            terminalreporter.write_line(headline(self._tally, operators()))
        for line in self._owed():
            terminalreporter.write_line(line, red=True)

    def _owed(self) -> list[str]:
        """What is missing in a nightly run of all networks; of a part of them nothing is asked."""
        args = self._config.args
        is_part = self._config.option.keyword or any("::" in arg or arg.endswith(".py") for arg in args)
        return [] if not NIGHTLY or is_part else list(shortcomings(self._tally, NETWORKS, operators()))


def pytest_configure(config: pytest.Config) -> None:
    """Sum up where the reports of all processes arrive."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Search(config), "speedup-search")
