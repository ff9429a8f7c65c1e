"""A rule that fails costs compression, never the plan, and the plan says which it was."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from speedup import STANDARD, Rule, RuleError, apply_masks, materialize, plan_speedup
from speedup.rules import rule_for
from tests.support.ruled import extended

TANH = torch.ops.aten.tanh.default
RULE = rule_for(TANH, STANDARD)


class Net(nn.Module):
    """Two pairs of layers, of which the first has a `tanh` in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 8, 1), nn.Conv1d(8, 6, 1)
        self.third = nn.Conv1d(6, 4, 1)
        self.double().eval()

    def forward(self, x: Tensor) -> Any:
        return self.third(self.second(self.first(x).tanh()).relu())


def _fail(*given: Any) -> NoReturn:
    raise ZeroDivisionError("no such luck\nfurther words")


fail: Any = _fail


def fail_late(*given: Any) -> Any:
    """Fails once it is asked for more than nothing."""
    yield from ()
    fail()


FAILING: dict[str, Rule] = {
    "what is known": evolve(RULE, known=fail),
    "what is read": evolve(RULE, live=fail),
    "between what numbers": evolve(RULE, bounds=fail),
    "constraints": evolve(RULE, couple=fail),
    "constraints, while they are listed": evolve(RULE, couple=fail_late),
    "arguments": evolve(RULE, needs=fail),
    "whether it holds": evolve(RULE, holds=fail),
    "compensation": evolve(RULE, compensate=fail),
    "near borders": evolve(RULE, at_borders=fail),
    "work": evolve(RULE, macs=fail),
}


def masks_of(*names: str) -> dict[str, dict[str, Tensor]]:
    found = {}
    for name in names:
        keep = torch.ones(8 if name == "first" else 6)
        keep[:3] = 0
        found[name] = {"weight": keep.view(-1, 1, 1), "bias": keep}
    return found


@pytest.mark.parametrize("name", FAILING)
def test_an_operator_whose_rule_fails_is_kept(name: str) -> None:
    model, masks = Net(), masks_of("first", "second")
    x = torch.randn(2, 3, 7).double()

    plan = plan_speedup(model, x, masks, rules=extended({TANH: FAILING[name]}))

    small: Any = materialize(plan)
    assert torch.allclose(apply_masks(model, masks)(x), small(x), rtol=0, atol=1e-12)
    assert small.third.in_channels == 3
    assert (small.first.out_channels, small.second.in_channels) == (8, 8)
    reasons = [one.reason for one in plan.blockers()]
    assert any(
        "tanh has a rule that failed at test_guarding.py:" in one
        and one.endswith("ZeroDivisionError: no such luck")
        for one in reasons
    )


def test_several_rules_may_fail() -> None:
    rules = extended({TANH: FAILING["what is known"], torch.ops.aten.relu.default: Rule(live=fail)})
    model, masks = Net(), masks_of("first", "second")

    plan = plan_speedup(model, torch.randn(2, 3, 7).double(), masks, rules=rules)

    assert plan.parameters_after == plan.parameters_before
    assert len([one for one in {b.reason for b in plan.blockers()} if "that failed" in one]) == 2


def raising(error: Exception) -> Any:
    def function(*given: Any) -> NoReturn:
        raise error

    return function


@pytest.mark.parametrize("error", [RuleError("a contract"), MemoryError()])
def test_what_is_no_failure_of_a_rule_is_raised(error: Exception) -> None:
    """What a rule may not do it is told, and too little memory is none of its faults."""
    rules = extended({TANH: evolve(RULE, known=raising(error))})
    with pytest.raises(type(error)):
        plan_speedup(Net(), torch.randn(2, 3, 7).double(), masks_of("first"), rules=rules)


def test_an_error_of_the_library_itself_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speedup.planning.planner.report_of", fail)
    with pytest.raises(ZeroDivisionError, match="no such luck"):
        plan_speedup(Net(), torch.randn(2, 3, 7).double(), masks_of("first"))
