"""What holds for every test: one thread, and the global random state it started with.

After the tests, a table says what the small models survive.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from tests.support.fast_tier import changed_paths, is_fast, operators_of
from tests.support.repository import ROOT
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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the fast tests, where that is asked for: to know them, git is asked what has changed."""
    if "fast" not in config.option.markexpr:
        return
    operators = operators_of(changed_paths(ROOT))
    for item in items:
        file = item.path.relative_to(ROOT).as_posix() if item.path.is_relative_to(ROOT) else ""
        if is_fast(file, _key_of(item), operators) and not _is_long(item):
            item.add_marker("fast")


def _key_of(item: pytest.Item) -> str | None:
    """The operator that a test is about, where it is one of many alike."""
    callspec = getattr(item, "callspec", None)
    return None if callspec is None or "key" not in callspec.params else str(callspec.params["key"])


def _is_long(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ("zoo", "nightly"))


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
