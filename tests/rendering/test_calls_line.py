"""What `plan.explain("")` says of the calls of a plan, and of what it relies on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import Plan, plan_speedup
from speedup.ir.inputs import example_from
from speedup.rendering.calls import call_text, calls_line


class Branching(nn.Module):
    """Long inputs have a layer more, a second input is added, and what a sum decides cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.long, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        x = self.first(x if more is None else x + more)
        if x.shape[1] > 8:
            x = self.long(x)
        if x.shape[1] % 3 == 1 and x.sum() > 0:
            x = -x
        return self.last(x)


@pytest.fixture(scope="module")
def plan() -> Plan:
    x = torch.randn(2, 5, 4)
    return plan_speedup(Branching().eval(), x, others=[{"x": x, "more": x[:, :1]}])


def test_the_model_is_explained_with_its_calls_and_what_is_assumed(plan: Plan) -> None:
    *_, calls, relied = plan.explain("").splitlines()
    assert calls == (
        "  planned for 4 calls: x (2, 5, 4); others: {x: (2, 5, 4), more: (2, 1, 4)}; found: (2, 9, 4), "
        "{x: (2, 9, 4), more: (2, 1, 4)}"
    )
    (line,) = plan.assumptions
    assert relied == f"  relies on: {line}"
    assert "shape[1] % 3" in line


def test_modules_and_the_table_do_not_speak_of_calls(plan: Plan) -> None:
    assert "planned for" not in plan.explain("first")
    assert "planned for" not in str(plan)
    assert "relies on" in str(plan)
    assert "relies on" not in plan.explain("first")


def test_a_plan_that_was_read_back_says_the_same(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again.explain("") == plan.explain("")
    assert str(again) == str(plan)


def test_one_call_is_one() -> None:
    model = nn.Linear(4, 3)
    assert plan_speedup(model, torch.randn(2, 4)).explain("").splitlines()[-1] == (
        "  planned for 1 call: x (2, 4)"
    )


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (X, "(2, 3)"),
        ((X, X[:1]), "{(2, 3), (1, 3)}"),
        ({"ids": X, "mask": None, "scale": 2}, "{ids: (2, 3), mask: None, scale: 2}"),
        ((X, [X, {"k": X}]), "{(2, 3), [(2, 3), {k: (2, 3)}]}"),
        ({"past": [X] * 9}, "{past: [(2, 3), (2, 3), (2, 3), (2, 3), 5 more]}"),
        ((X, "b" * 200), None),
        ((X, torch.float16), "{(2, 3), dtype}"),
    ],
)
def test_a_call_is_told_by_its_shapes(inputs: Any, said: str | None) -> None:
    text = call_text(example_from(inputs))
    assert len(text) < 80
    assert said is None or text == said


def test_calls_of_the_same_shapes_are_told_once() -> None:
    one, other = example_from(X), example_from(X[:1])
    assert calls_line(one, [other, other]) == "planned for 3 calls: x (2, 3); others: (1, 3)"
