"""Calls whose errors the forward catches: what else it does then is a branch, which planning looks for."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import plan_speedup
from speedup.ir.expressions import Attempt
from speedup.ir.inputs import example_from
from speedup.tracing.trace import trace_call


class Tries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.tried(self.first(x)))

    def tried(self, y: Tensor) -> Tensor:
        raise NotImplementedError


class Caught(Tries):
    def tried(self, y: Tensor) -> Tensor:
        try:
            y = y + y.new_ones(5, 8)
        except RuntimeError:
            y = y - 1
        return y


class Suppressed(Tries):
    def tried(self, y: Tensor) -> Tensor:
        with contextlib.suppress(RuntimeError):
            y = y + y.new_ones(5, 8)
        return y


class CaughtFurtherOut(Tries):
    def forward(self, x: Tensor) -> Tensor:
        try:
            return super().forward(x)
        except RuntimeError:
            return x

    def tried(self, y: Tensor) -> Tensor:
        return y + y.new_ones(5, 8)


class Fails(Tries):
    def tried(self, y: Tensor) -> Tensor:
        try:
            y = y @ y.new_ones(3, 8)
        except RuntimeError:
            y = y - 1
        return y


class RaisedAnew(Tries):
    def tried(self, y: Tensor) -> Tensor:
        try:
            return y + y.new_ones(5, 8)
        except RuntimeError as error:
            raise ValueError("of another length") from error


class Cleaned(Tries):
    def tried(self, y: Tensor) -> Tensor:
        try:
            return y + y.new_ones(5, 8)
        finally:
            del y


class InAnotherPart(Tries):
    def tried(self, y: Tensor) -> Tensor:
        try:
            y = torch.relu(y)
        except RuntimeError:
            y = y + y.new_ones(5, 8)
        else:
            y = y + y.new_ones(5, 8)
        return y + y.new_ones(5, 8)


def attempts(model: nn.Module) -> list[bool]:
    """How the calls came out whose errors the forward catches."""
    graph = trace_call(model.eval(), example_from(torch.randn(2, 5, 6))).graph
    return [guard.outcome for guard in graph.guards if isinstance(guard, Attempt)]


@pytest.mark.parametrize(
    ("model", "outcomes"),
    [(Caught, [True] * 2), (Suppressed, [True] * 2), (CaughtFurtherOut, [True] * 4), (Fails, [True, False])],
)
def test_calls_are_noted_whose_errors_are_caught(model: Any, outcomes: list[bool]) -> None:
    assert attempts(model()) == outcomes


@pytest.mark.parametrize("model", [RaisedAnew, Cleaned, InAnotherPart])
def test_other_calls_are_not(model: Any) -> None:
    assert attempts(model()) == []


def test_what_is_tried_and_fails_at_all_sizes_that_were_tried_is_told() -> None:
    (told,) = plan_speedup(Fails().eval(), torch.randn(2, 5, 6)).assumptions
    assert told.startswith("what is tried fails (at line ") and told.endswith("other sizes may change that")
