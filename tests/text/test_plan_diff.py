"""What differs between two plans."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from speedup import Plan, plan_speedup
from speedup.text.plan_diff import PlanDiff
from tests.support.saving_models import CASES, masks_of


def mask(size: int, *gone: int) -> Tensor:
    found = torch.ones(size)
    found[list(gone)] = 0
    return found


def planned(*gone: int) -> Plan:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    masks = {"0.weight": mask(8, *gone).reshape(-1, 1), "0.bias": mask(8, *gone)}
    return plan_speedup(model, torch.ones(2, 4), masks)


def test_equal_plans_have_no_differences() -> None:
    diff = planned(1, 2).diff(planned(1, 2))
    assert not diff
    assert str(diff) == "no differences"


def test_layers_edits_and_totals_are_told() -> None:
    diff = planned(1).diff(planned(1, 2, 5))
    assert diff
    assert [(one.after, other.after) for one, other in diff.layers if one and other] == [
        ("Linear(4, 7)", "Linear(4, 5)"),
        ("Linear(7, 3)", "Linear(5, 3)"),
    ]
    assert {edit.name for edit in diff.edits_gone if hasattr(edit, "name")} == {
        "0.weight",
        "0.bias",
        "2.weight",
    }
    assert len(diff.edits_gone) == len(diff.edits_new) == 5
    assert diff.parameters == (59, 43)
    lines = str(diff).splitlines()
    assert "~ 0: Linear(4, 7) -> Linear(4, 5), parameters 35 -> 25, MACs 56 -> 40" in lines
    assert "- 0.weight: keep 7 along dimension 0: 0,2-7" in lines
    assert "+ 0: set out_features from 8 to 5" in lines
    assert "~ parameters in all: 59 -> 43" in lines


def test_the_other_way_round_everything_is() -> None:
    forth, back = planned(1).diff(planned(2)), planned(2).diff(planned(1))
    assert (forth.edits_gone, forth.edits_new) == (back.edits_new, back.edits_gone)
    assert forth != back
    assert hash(forth) != hash(back)


def test_blockers_come_and_go() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.last = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.a(x) + self.b(x))

    model = Joined()
    free = plan_speedup(model, torch.ones(2, 4))
    rows = {"weight": mask(6, 0, 1).reshape(-1, 1), "bias": mask(6, 0, 1)}
    held = plan_speedup(model, torch.ones(2, 4), {"a": rows})
    diff = free.diff(held)
    assert [blocked.path for blocked in diff.blocked_new] == ["a"]
    assert diff.blocked_gone == ()
    assert str(diff).startswith("+ a: 2 of 6 stay: ")


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_edit_has_a_line(name: str) -> None:
    model = CASES[name].model()
    plan = plan_speedup(model, CASES[name].example(), masks_of(name, model))
    nothing = plan_speedup(model, CASES[name].example())
    diff: PlanDiff = nothing.diff(plan)
    assert sum(line.startswith("+ ") for line in str(diff).splitlines()) >= len(diff.edits_new) > 0


def test_what_only_one_plan_relies_on_is_told() -> None:
    first, second = relying("x.shape[1] > 3", "x.shape[1] % 2 == 0"), relying("x.shape[1] > 3", "y is 5")
    diff = first.diff(second)
    assert diff
    assert (diff.assumptions_gone, diff.assumptions_new) == (("x.shape[1] % 2 == 0",), ("y is 5",))
    assert str(diff).splitlines() == ["- relies on: x.shape[1] % 2 == 0", "+ relies on: y is 5"]
    assert not first.diff(relying("x.shape[1] > 3", "x.shape[1] % 2 == 0"))


def relying(*assumptions: str) -> Plan:
    plan = planned(1)
    return evolve(plan, report=evolve(plan.report, assumptions=assumptions))
