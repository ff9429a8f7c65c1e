"""Checks of data that raise an error do not end a trace; the small model makes them, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedup import apply_masks, materialize, plan_speedup
from speedup.errors import ExportError
from speedup.ir.inputs import example_from
from speedup.tracing.trace import trace_call

Step: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Net(nn.Module):
    """Two convolutions and, between them, a step that is given the input too."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 10, 1), nn.Conv1d(10, 4, 1)
        self.step = step
        self.double().eval()

    def forward(self, x: Tensor) -> Any:
        return self.second(self.step(x, F.relu(self.first(x))))


def asserted(x: Tensor, y: Tensor) -> Tensor:
    assert (x < 9).all()
    return y


def asserted_not(x: Tensor, y: Tensor) -> Tensor:
    assert not (x > 9).any(), "too large"
    return y


def both(x: Tensor, y: Tensor) -> Tensor:
    assert (x < 9).all() and (x > -9).all(), f"of shape {x.shape}"
    return y


def raised(x: Tensor, y: Tensor) -> Tensor:
    if (x > 9).any():
        raise ValueError("too large")
    return y


def raised_over_lines(x: Tensor, y: Tensor) -> Tensor:
    if (
        (x > 9).any()
        or (x < -9).any()
    ):  # fmt: skip
        message = "out of bounds"
        raise ValueError(message)
    return y


def within(x: Tensor) -> None:
    if x.max() >= 9:
        raise ValueError("too large")


def helped(x: Tensor, y: Tensor) -> Tensor:
    within(x)
    return y


FORMS: dict[str, tuple[Step, type[Exception]]] = {
    "assert": (asserted, AssertionError),
    "assert not": (asserted_not, AssertionError),
    "two at once": (both, AssertionError),
    "raise": (raised, ValueError),
    "raise, over several lines": (raised_over_lines, ValueError),
    "in a function": (helped, ValueError),
}


def masks() -> dict[str, dict[str, Tensor]]:
    keep = torch.tensor([0.0, 1, 1, 1, 0, 0, 1, 1, 1, 1])
    return {"first": {"weight": keep.view(10, 1, 1), "bias": keep}}


@pytest.mark.parametrize("name", FORMS)
def test_a_check_of_data_lets_channels_go(name: str) -> None:
    step, error = FORMS[name]
    model = Net(step)

    plan = plan_speedup(model, torch.randn(2, 3, 6).double(), masks())

    small: Any = materialize(plan)
    assert small.second.in_channels == 7 and not plan.report.islands
    for shape in ((1, 3, 6), (3, 3, 9)):
        x = torch.randn(shape).double()
        assert torch.allclose(apply_masks(model, masks())(x), small(x), rtol=0, atol=1e-12)
        for one in (model, small):
            with pytest.raises(error):
                one(x + 20)


def test_what_is_checked_is_read() -> None:
    """Channels that nothing else reads stay for the check's sake."""

    def bounded(x: Tensor, y: Tensor) -> Tensor:
        assert y.sum() < 1e3
        return y

    model = Net(bounded)
    unread = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 0, 0, 0])

    small: Any = materialize(
        plan_speedup(
            model, torch.randn(2, 3, 6).double(), masks() | {"second": {"weight": unread.view(1, 10, 1)}}
        )
    )

    assert small.first.out_channels == 7
    for one in (model, small):
        one(torch.randn(2, 3, 6).double())
        with pytest.raises(AssertionError):
            one(1e6 * model.first.weight[8].detach().expand(1, 3, 6))


def chosen(x: Tensor, y: Tensor) -> Tensor:
    if x.sum() > 0:
        y = -y
    return y


def one_of_two(x: Tensor, y: Tensor) -> Tensor:
    assert (x < 9).all() or (y < 9).all()
    return y


def otherwise(x: Tensor, y: Tensor) -> Tensor:
    if x.sum() > 1e9:
        raise ValueError
    else:
        return y if x.sum() < 0 else -y


def between(x: Tensor, y: Tensor) -> Tensor:
    if not -9 < x.sum() < 9:
        return -y
    return y


def either_way(x: Tensor, y: Tensor) -> Tensor:
    assert (x < 9).all() and not (x < -9).any()
    return y


@pytest.mark.parametrize("step", [chosen, one_of_two, otherwise, between, either_way])
def test_what_may_be_either_is_no_check(step: Step) -> None:
    with pytest.raises(ExportError):
        trace_call(Net(step), example_from(torch.randn(2, 3, 6).double()))
