"""Plans that set attributes or rewrite source are traced without weights before they are returned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import plan_speedup
from speedup.building.applying import hollow_copy
from speedup.ir.edits import RewriteForward, SetAttribute, Slice
from speedup.planning.rehearsal import rehearse
from tests.support.contract import dropped, shrunk
from tests.support.drawn import doubles

sequences = doubles(3, 6)

WIDE = 4


class Heads(nn.Module):
    """`heads` groups of four features; the same number says how often the features are squashed."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 3
        self.enter, self.leave = nn.Linear(6, 3 * WIDE), nn.Linear(3 * WIDE, 2)

    def forward(self, x: Tensor) -> Tensor:
        grouped = self.enter(x).view(x.shape[0], x.shape[1], self.heads, WIDE)
        for _ in range(self.heads):
            grouped = grouped.tanh()
        return self.leave(grouped.flatten(2))


class HeadsOnly(Heads):
    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x).view(x.shape[0], x.shape[1], self.heads, WIDE).tanh().flatten(2))


ONE_HEAD = {"enter": tuple(range(WIDE))}


def test_number_that_also_counts_turns_stays_and_the_source_is_told() -> None:
    plan, small = shrunk(Heads(), sequences, ONE_HEAD)
    assert small.heads == 3 and small.enter.out_features == 2 * WIDE
    assert [type(e) for e in plan.edits if isinstance(e, RewriteForward)] == [RewriteForward]


def test_number_that_only_counts_heads_is_set() -> None:
    plan, small = shrunk(HeadsOnly(), sequences, ONE_HEAD)
    assert small.heads == 2 and not any(isinstance(e, RewriteForward) for e in plan.edits)


def test_plan_that_changes_no_code_is_not_rehearsed() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    mask = torch.ones(6, 4)
    mask[0] = 0
    plan = plan_speedup(model, torch.randn(2, 4), {"0.weight": mask})
    assert plan.parameters_after < plan.parameters_before and not plan.subject.is_rehearsed


def test_hollow_copy_has_the_new_shapes_and_next_to_no_memory() -> None:
    model: Any = nn.Sequential(nn.Linear(400, 300), nn.Linear(300, 2))
    rows = tuple(range(100))
    edits = (
        Slice("0.weight", 0, rows),
        Slice("0.bias", 0, rows),
        Slice("1.weight", 1, rows),
        SetAttribute("0", "out_features", 300, 100),
    )
    hollow: Any = hollow_copy(model, edits)
    assert [tuple(p.shape) for p in hollow.parameters()] == [(100, 400), (100,), (2, 100), (2,)]
    assert all(p.untyped_storage().nbytes() <= 4 for p in hollow.parameters())
    assert hollow[0].out_features == 100 and model[0].out_features == 300


class Insists(nn.Module):
    """Wants its number to be as large as ever, and raises an error where it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.enter, self.leave = 8, nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        last = list(range(self.wide))[7]
        return self.leave(self.enter(x).reshape(-1, self.wide)).view(x.shape) * last


class Literal(nn.Module):
    """Has its width in its source."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x).reshape(-1, 8)).view(x.shape)


def test_module_that_raises_keeps_no_other_from_changing() -> None:
    rows = {"0.enter": (0, 5), "1.enter": (2, 3, 4)}
    _, small = shrunk(nn.Sequential(Insists(), Literal()), sequences, rows)
    assert (small[0].wide, small[0].enter.out_features, small[1].enter.out_features) == (8, 6, 5)


def test_modules_of_one_class_stay_as_they_are_together(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[frozenset[str]] = []

    def counted(*arguments: Any) -> frozenset[str]:
        asked.append(rehearse(*arguments))
        return asked[-1]

    monkeypatch.setattr("speedup.planning.planner.rehearse", counted)
    model = nn.Sequential(*(Insists() for _ in range(3))).double().eval()
    plan_speedup(model, sequences(), dropped(model, {"0.enter": (0,), "1.enter": (1,), "2.enter": (2, 3)}))
    assert asked == [{"0", "1", "2"}, frozenset()]
