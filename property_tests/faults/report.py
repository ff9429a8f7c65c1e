"""The fault table in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from property_tests.faults.trial import Trial


def row(trial: Trial) -> str:
    """One line: the fault, what became of it, and who noticed."""
    effort = f"{trial.examples:>5} examples {trial.tests:>4} tests {trial.seconds:>6.1f} s"
    return f"{trial.outcome:<9} {effort}  {trial.fault.name}  <-  {_noticed(trial)}"


def _noticed(trial: Trial) -> str:
    if trial.outcome in ("killed", "gate only"):
        return f"{trial.killer}  ({trial.reason[:90]})"
    return trial.reason or f"none of {', '.join(trial.fault.killers)}"


def summary(trials: Sequence[Trial]) -> str:
    """How many faults there were, and how many had which outcome."""
    counts = Counter(trial.outcome for trial in trials)
    told = ", ".join(f"{number} {outcome}" for outcome, number in counts.most_common())
    return f"{len(trials)} planted: {told or 'none'}"
