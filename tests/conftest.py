"""What holds for every test: one thread, and the global random state it started with.

After the tests, a table says what the small models survive.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from tests.support.survival_table import PROPERTY, from_property, table_lines

# A repository of its own, whose tests are run by one of ours.
collect_ignore = ["data"]

# pytest hangs a handler on every logger that does not propagate; one on this logger makes torch.export
# write down each tensor that it sees, which is slow and would be printed with every failure.
logging.getLogger("torch.__trace").propagate = True

# The suite runs in parallel processes; more threads in each would only fight for the cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_global_randomness() -> Iterator[None]:
    """Seeds the global generator, so that no test depends on those that ran before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the rows that tests recorded, whichever process they ran in."""
    rows = {
        report.nodeid: value
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, value in report.user_properties
        if name == PROPERTY
    }
    if rows:
        terminalreporter.section("what survives")
        for line in table_lines([from_property(rows[test]) for test in sorted(rows)]):
            terminalreporter.write_line(line)
