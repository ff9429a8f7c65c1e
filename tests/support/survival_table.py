"""What survives what, as a table in plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tests.support.survival import TRIALS, Finding, Outcome, Survival

LEGEND = (
    "yes: survives; NO: fails though the original survives; (no): the original does not survive it either"
)
PROPERTY = "survival"
"""Under this name a test's report carries the rows it adds to the table."""

_NOT_TRIED = ""


def table_lines(survivals: Sequence[Survival]) -> Iterator[str]:
    """A header, a row for each model with a column for each trial, the legend, and what failed and why."""
    tried = {finding.trial for survival in survivals for finding in survival.findings}
    trials = [trial for trial in TRIALS if trial in tried]
    rows = [["model", *trials], *([it.name, *_cells(it, trials)] for it in survivals)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield LEGEND
    for survival in survivals:
        for finding in survival.findings:
            if finding.outcome is not Outcome.SURVIVES:
                yield f"{survival.name}, {finding.trial}: {finding.outcome.value}, {finding.reason}"


def to_property(survival: Survival) -> list[object]:
    """`survival` as lists of strings, which reports carry from one process to another."""
    return [survival.name, [[it.trial, it.outcome.name, it.reason] for it in survival.findings]]


def from_property(row: list[Any]) -> Survival:
    """The inverse of `to_property`."""
    name, findings = row
    return Survival(str(name), tuple(Finding(t, Outcome[o], why) for t, o, why in findings))


def _cells(survival: Survival, trials: Sequence[str]) -> list[str]:
    outcomes = {finding.trial: finding.outcome.value for finding in survival.findings}
    return [outcomes.get(trial, _NOT_TRIED) for trial in trials]
