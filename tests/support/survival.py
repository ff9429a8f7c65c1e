"""What a small model survives of all that users do with models, each measured beside the original.

A *trial* does one such thing to a model (saves and reloads it, exports it, trains it a step) and raises where
that fails or changes what the model computes. What the original does not survive either is no fault of the
small model's.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TypeAlias

import torch
from attrs import frozen
from torch import nn

from tests.support.measure import MakeInputs
from tests.support.trials_of_export import EXPORT_TRIALS
from tests.support.trials_of_use import USE_TRIALS

Trial: TypeAlias = Callable[[nn.Module, nn.Module, MakeInputs], None]
"""(model on trial, original, inputs) -> raises unless the model survives."""

TRIALS: Mapping[str, Trial] = USE_TRIALS | EXPORT_TRIALS
# C++ is compiled in this one, which takes a minute where the others take seconds: on request only.
ON_REQUEST = frozenset({"inductor"})
_UNASKED = tuple(trial for trial in TRIALS if trial not in ON_REQUEST)

_REASON_LENGTH = 160


class Outcome(Enum):
    """What came of one trial; the value is what the table shows."""

    SURVIVES = "yes"
    FAILS = "NO"
    NEITHER = "(no)"
    """The original does not survive it either."""


@frozen
class Finding:
    """The outcome of one trial, with the first line of the error where there was one."""

    trial: str
    outcome: Outcome
    reason: str = ""


@frozen
class Survival:
    """What one small model survives."""

    name: str
    findings: tuple[Finding, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        """What the small model does not survive though its original does."""
        return tuple(finding for finding in self.findings if finding.outcome is Outcome.FAILS)

    def require(self) -> None:
        """Raise an AssertionError that names all `failures` unless there are none."""
        lines = [f"{self.name} does not survive {it.trial}: {it.reason}" for it in self.failures]
        assert not lines, "\n".join(lines)


def survivals(
    model: nn.Module,
    small: nn.Module,
    make_inputs: MakeInputs,
    *,
    name: str = "",
    trials: Sequence[str] = _UNASKED,
) -> Survival:
    """Put `small` to each of `trials`, and `model` too where `small` fails.

    Both models are in eval mode, and neither is modified. The batch is dimension 0 of every tensor that
    `make_inputs` makes.
    """
    with _quiet(), torch.random.fork_rng(devices=[]):
        findings = tuple(_finding(trial, model, small, make_inputs) for trial in trials)
    return Survival(name or type(model).__name__, findings)


def _finding(trial: str, model: nn.Module, small: nn.Module, make_inputs: MakeInputs) -> Finding:
    failure = _failure(trial, small, model, make_inputs)
    if failure is None:
        return Finding(trial, Outcome.SURVIVES)
    original = _failure(trial, model, model, make_inputs)
    if original is None:
        return Finding(trial, Outcome.FAILS, failure)
    return Finding(trial, Outcome.NEITHER, original)


def _failure(trial: str, subject: nn.Module, original: nn.Module, make_inputs: MakeInputs) -> str | None:
    torch.manual_seed(0)
    try:
        TRIALS[trial](subject, original, make_inputs)
    except Exception as error:
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    # torch.onnx's own message only counts its strategies; what stopped the last of them is its cause.
    if type(error).__module__.startswith("torch.onnx") and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:_REASON_LENGTH]


@contextmanager
def _quiet() -> Iterator[None]:
    """Compilers and exporters warn of what is being tried here on purpose."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
