"""Masks that meet a goal: as few as it takes, by few plans; where none can, how far they get."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import GoalError, PruningError, apply_masks, make_masks, materialize, plan_speedup
from speedup.plan import Plan
from speedup.pruners import Norm, Random, making
from speedup.pruners.goals import RUNGS, Goal, Ladder, goal_of, masks_that_meet

X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm = nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.down = nn.Conv2d(24, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.down(torch.relu(self.norm(self.up(x)))))


def residual_network() -> nn.Module:
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 16, 3, padding=1)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(
        stem, _Block(), _Block(), pool, nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5)
    ).eval()


GOALS: list[dict[str, Any]] = [
    {"macs": 0.5},
    {"macs": 0.25, "scope": "global"},
    {"parameters": 0.4},
    {"parameters": 0.4, "dependent": False},
    {"macs": 0.6, "round_to": 4},
]


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that are made in the search."""
    made: list[Plan] = []

    def watched(*given: Any, **options: Any) -> Plan:
        made.append(plan_speedup(*given, **options))
        return made[-1]

    monkeypatch.setattr(making, "plan_speedup", watched)
    return made


def _reached(model: nn.Module, masks: Mapping[str, Tensor], what: str) -> float:
    return Goal(what, 1, 0).reached(plan_speedup(model, X, masks), lambda plan: 0.0)


@pytest.mark.parametrize("goal", GOALS, ids=str)
def test_goals_are_met_by_few_plans(goal: dict[str, Any], plans: list[Plan]) -> None:
    model = residual_network()
    what = next(iter(goal))
    masks = make_masks(model, X, Norm(), **goal)
    # The network is narrow: a channel of each of its layers is many per cent of it.
    assert goal[what] - 0.15 < _reached(model, masks, what) <= goal[what]
    assert len(plans) <= 5
    plan = plan_speedup(model, X, masks)
    torch.testing.assert_close(
        materialize(plan)(X), apply_masks(model, masks).eval()(X), rtol=1e-4, atol=1e-5
    )


def test_masking_less_would_miss_the_goal() -> None:
    model = residual_network()
    masks = make_masks(model, X, Random(3), macs=0.45)
    kinds = {rung: make_masks(model, X, Random(3), rung / RUNGS) for rung in range(0, RUNGS + 1, 25)}
    fewer = [other for other in kinds.values() if _masked(other) < _masked(masks)]
    assert len(fewer) > 3
    assert all(_reached(model, other, "macs") > 0.45 for other in fewer)


def _masked(masks: Mapping[str, Tensor]) -> int:
    return sum(int((~mask).sum()) for mask in masks.values())


def test_what_is_zero_already_counts(plans: list[Plan]) -> None:
    model = residual_network()
    with torch.no_grad():
        for name, mask in make_masks(model, X, Norm(), 0.5).items():
            model.get_parameter(name).mul_(mask)
    left = _reached(model, {}, "macs")
    assert left < 0.5
    # Zeros have the least norm: no channel that counts is masked.
    assert _reached(model, make_masks(model, X, Norm(), macs=left), "macs") == left
    masks = make_masks(model, X, Norm(), macs=0.9 * left)
    assert masks
    assert _reached(model, masks, "macs") <= 0.9 * left


def test_a_time_is_met_as_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    model = residual_network()
    # A machine on which a forward takes as long as it has work.
    monkeypatch.setattr(making, "measure_forward", lambda plan: 1e-4 * plan.macs_after)
    whole = 1e-4 * plan_speedup(model, X, {}).macs_before
    masks = make_masks(model, X, Norm(), latency_ms=0.5 * whole)
    assert 0.35 * whole < 1e-4 * plan_speedup(model, X, masks).macs_after <= 0.5 * whole
    assert make_masks(model, X, Norm(), latency_ms=2 * whole) == {}


def test_forwards_are_measured_in_milliseconds() -> None:
    model = residual_network()
    assert make_masks(model, X, Norm(), latency_ms=1e6) == {}
    with pytest.raises(GoalError, match=r"latency_ms=1e-06 cannot .*, [\d.]+ ms per forward are left"):
        make_masks(model, X, Norm(), latency_ms=1e-6)


def test_a_goal_out_of_reach_says_how_far_it_gets() -> None:
    model = residual_network()
    with pytest.raises(GoalError, match=r"macs=0\.001 cannot be met") as caught:
        make_masks(model, X, Norm(), macs=0.001)
    said = str(caught.value)
    (told,) = re.findall(r"([\d.]+) of the MACs", said)
    least = float(told)
    masks = make_masks(model, X, Norm(), macs=least + 0.001)
    assert _reached(model, masks, "macs") == pytest.approx(least, abs=0.001)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "none of them"),
        ({"macs": 0.5, "parameters": 0.5}, "2 of them"),
        ({"sparsity": 0.5, "macs": 0.5}, "2 of them"),
        ({"macs": 0.0}, "macs=0.0 is no share"),
        ({"parameters": 50}, "parameters=50 is no share"),
        ({"latency_ms": -1}, "latency_ms=-1 is no time"),
    ],
)
def test_one_goal_is_given_and_within_bounds(given: dict[str, Any], says: str) -> None:
    with pytest.raises(PruningError, match=says):
        make_masks(residual_network(), X, Norm(), **given)


def _ladder(value: Callable[[int], float], estimate: Callable[[int], float], measured: list[int]) -> Ladder:
    """Rungs of five equal ones each, whose masks are a number."""

    def measure(masks: dict[str, Tensor]) -> float:
        measured.append(int(masks["rung"]))
        return value(measured[-1])

    return Ladder(
        masks=lambda rung: {"rung": torch.tensor(rung // 5 * 5)},
        key=lambda rung: rung // 5,
        estimate=lambda rung: estimate(rung // 5 * 5),
        measure=measure,
        is_share=True,
    )


@pytest.mark.parametrize(
    ("estimate", "most"),
    [
        (lambda rung: 1 - rung / 2000, 2),
        (lambda rung: 3 * (1 - rung / 2000), 3),
        (lambda rung: (1 - rung / 1000) ** 4, 13),
        (lambda rung: 1.0, 12),
    ],
    ids=["exact", "in proportion", "of another shape", "of no use"],
)
@pytest.mark.parametrize("limit", [0.5, 0.7003, 0.93, 1.0])
def test_the_first_rung_that_meets_the_goal_is_found(
    limit: float, estimate: Callable[[int], float], most: int
) -> None:
    measured: list[int] = []
    ladder = _ladder(lambda rung: 1 - rung / 2000, estimate, measured)
    found = masks_that_meet(Goal("macs", limit, 0.0), ladder)
    first = next(rung for rung in range(0, RUNGS + 1, 5) if 1 - rung / 2000 <= limit)
    assert int(found["rung"]) == first
    assert len(measured) == len(set(measured)) <= most


def test_near_enough_ends_the_search() -> None:
    measured: list[int] = []
    ladder = _ladder(lambda rung: 1 - rung / 2000, lambda rung: 1 - rung / 2000, measured)
    masks_that_meet(Goal("macs", 0.7004, 0.01), ladder)
    assert measured == [600]


def test_the_last_rung_may_meet_the_goal_alone() -> None:
    ladder = _ladder(lambda rung: float(rung < RUNGS), lambda rung: 1 - rung / 2000, [])
    assert int(masks_that_meet(Goal("macs", 0.5, 0.0), ladder)["rung"]) == RUNGS


def test_no_goal_is_none() -> None:
    assert goal_of(0.5, {"macs": None}) is None
