"""What a plan tells of the lowerings that it takes, and of those that would not pay."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import torch
from torch import Tensor, nn

import speedup
from speedup import Plan, plan_speedup
from speedup.ir.report import Choice
from speedup.rendering.choices import choice_line, lowering_lines
from tests.support.lowered import half_masked, images
from tests.support.lowered_networks import Shuffle
from tests.support.masking import Masks, filters

WIDE = 32


class Block(nn.Module):
    """A branch beside its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(WIDE, WIDE, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


def net(*layers: nn.Module) -> tuple[nn.Module, Masks]:
    """`layers` between two that are not masked."""
    whole = ("0", str(len(layers) + 1))
    return half_masked(nn.Sequential(nn.Conv2d(3, WIDE, 1), *layers, nn.Conv2d(WIDE, 4, 1)), whole)


def test_what_is_taken_is_told_with_what_it_saves() -> None:
    model, masks = net(
        Block(), nn.ChannelShuffle(4), nn.Conv2d(WIDE, WIDE, 3, padding=1), nn.GroupNorm(4, WIDE)
    )
    x = images(32, 2, 0)
    plan = plan_speedup(model, x, masks)
    taken = {one.lowering: one for one in plan.report.choices}
    assert set(taken) == {"rows", "fills"} and all(one.is_taken for one in taken.values())
    rows, fills = taken["rows"], taken["fills"]
    assert (rows.path, rows.operator, rows.channels) == ("1", "aten.add.Tensor", WIDE // 2)
    assert rows.where.startswith("test_choices.py:")
    # Half of the rows, each of which reads half of the channels before and one that carries the others'
    # constants, at each place of both images.
    assert rows.macs == (WIDE // 2) * (WIDE // 2 + 1) * 9 * 32 * 32 * 2
    assert (fills.path, fills.channels) == ("4", WIDE // 2)
    # Without rows, constants would be filled in before the sum instead.
    none, alone = (plan_speedup(model, x, masks, lowerings=some).macs_after for some in ("none", {"rows"}))
    assert none - alone == rows.macs
    assert alone - plan.macs_after == fills.macs


def test_shuffles_share_what_they_save() -> None:
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Conv2d(WIDE, WIDE, 3, padding=1), nn.ReLU(), Shuffle()]
    model, masks = net(*layers, nn.Conv2d(WIDE, WIDE, 3, padding=1))
    x = images(32, 1, 0)
    plan = plan_speedup(model, x, masks, lowerings={"shuffles"})
    choices = plan.report.choices
    assert [one.lowering for one in choices] == ["shuffles", "shuffles"]
    saved = plan_speedup(model, x, masks, lowerings="none").macs_after - plan.macs_after
    assert sum(one.macs for one in choices) == pytest.approx(saved, abs=len(choices))


@pytest.mark.parametrize(
    ("size", "gone", "why"),
    [
        (8, WIDE // 2, "that saves less than another call costs"),
        (64, 3, f"3 of {WIDE} channels are too few to be worth it"),
    ],
)
def test_what_does_not_pay_is_told_with_the_reason(size: int, gone: int, why: str) -> None:
    model, masks = net(Block())
    masks["1.second"] = filters(model.get_submodule("1.second"), *range(gone))
    plan = plan_speedup(model, images(size, 1, 0), masks)
    (one,) = plan.report.choices
    assert (one.lowering, one.channels, one.why_not) == ("rows", gone, why)
    assert not one.is_taken
    assert f"not done: rows, {gone} channels fewer" in plan.explain("1")
    assert why in plan.explain("1")
    assert "Would not pay or cannot be said: rows at 1 place" in str(plan)
    assert why in plan.to_html()


def test_rows_that_cost_less_than_their_places_are_told_so() -> None:
    model, masks = net(nn.Conv2d(WIDE, WIDE, 1), nn.GroupNorm(4, WIDE))
    plan = plan_speedup(model, images(128, 1, 0), masks)
    (one,) = plan.report.choices
    assert one.why_not == "that saves less than putting the others in their places costs"


class Listed(Block):
    """What is changed in place is held elsewhere too."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(torch.relu(self.first(x)))
        seen = [out]
        out += x
        return seen[0]


def test_what_cannot_be_said_is_told_so() -> None:
    model, masks = net(Listed())
    plan = plan_speedup(model, images(32, 1, 0), masks)
    (one,) = plan.report.choices
    assert one.why_not == "the source cannot be made to say it"


def test_without_lowerings_nothing_is_told() -> None:
    model, masks = net(Block())
    plan = plan_speedup(model, images(32, 1, 0), masks, lowerings="none")
    assert plan.report.choices == ()
    assert "So that more goes" not in str(plan)


def test_alignment_leaves_what_was_decided() -> None:
    model, masks = net(Block())
    plain, aligned = (plan_speedup(model, images(32, 1, 0), masks, align=align) for align in (None, 4))
    assert aligned.report.choices == plain.report.choices != ()


def test_a_plan_s_text_holds_them() -> None:
    model, masks = net(Block())
    plan = plan_speedup(model, images(32, 1, 0), masks)
    assert plan.report.choices
    text = plan.to_json()
    assert Plan.from_json(text).report.choices == plan.report.choices
    schema = json.loads((Path(speedup.__file__).parent / "text" / "plan.schema.json").read_text("utf-8"))
    jsonschema.validate(json.loads(text), schema)


def test_lines_add_up_places() -> None:
    choices = [
        Choice("rows", "a", "aten.add.Tensor", "a.py:1", 4, 1_000_000),
        Choice("rows", "b", "aten.add.Tensor", "a.py:1", 4, 2_000_000),
        Choice("fills", "c", "aten.view.default", "", 4, 500_000),
        Choice("fills", "d", "aten.view.default", "", 4, 10, "why"),
    ]
    assert list(lowering_lines(choices)) == [
        "So that more goes: rows at 2 places (-3.00M MACs), fills at 1 place (-500k MACs)",
        "Would not pay or cannot be said: fills at 1 place (-10 MACs)",
    ]
    assert list(lowering_lines([])) == []
    assert (
        choice_line(choices[0]) == "rows, 4 channels fewer: 1,000,000 MACs less (aten.add.Tensor at a.py:1)"
    )
    assert (
        choice_line(choices[3]) == "not done: fills, 4 channels fewer: 10 MACs less (aten.view.default); why"
    )
