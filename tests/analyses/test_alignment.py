"""Widths grow to what `align` asks for, and the plan says what that adds."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import speedup
from speedup import Plan, Width, materialize, plan_speedup
from speedup.demo.cases import lenet
from speedup.engine.constraints import Aligned, Mapped, Reason
from speedup.engine.keepsets import grow_keep_sets, solve_keep_sets
from speedup.errors import InputError
from speedup.testing import assert_equivalent
from tests.support.repository import example_run_by

_CAUSE = Reason(None, "drawn")


def rows(module: nn.Module, kept: int) -> dict[str, Tensor]:
    """Masks that leave the first `kept` rows of weight and bias."""
    masks = {name: torch.zeros_like(p) for name, p in module.named_parameters(recurse=False)}
    for mask in masks.values():
        mask[:kept] = 1
    return masks


def mlp(*widths: int) -> nn.Sequential:
    layers = (nn.Linear(a, b) for a, b in pairwise(widths))
    return nn.Sequential(*[m for layer in layers for m in (nn.ReLU(), layer)][1:]).double()


def vectors(features: int) -> Tensor:
    return torch.randn(2, features, dtype=torch.float64)


@pytest.mark.parametrize(
    ("kept", "align", "width"), [(5, 8, 8), (8, 8, 8), (9, 8, 16), (17, 8, 20), (1, 4, 4)]
)
def test_width_is_the_next_multiple_or_whole(kept: int, align: int, width: int) -> None:
    model = mlp(6, 20, 3)
    plan = assert_equivalent(model, vectors(6), {"0": rows(model[0], kept)}, align=align)
    assert materialize(plan).get_submodule("0").out_features == width


def test_layer_that_does_not_shrink_is_left_alone() -> None:
    model = mlp(6, 10, 3)
    asked: list[Width] = []

    def same(width: Width) -> int:
        asked.append(width)
        return width.kept

    plan = plan_speedup(model, vectors(6), align=same)
    assert plan.edits == ()
    assert asked == []


def test_function_sees_the_width_and_returns_another() -> None:
    model = mlp(6, 20, 3)
    asked: list[Width] = []

    def seven(width: Width) -> int:
        asked.append(width)
        return 7

    plan = assert_equivalent(model, vectors(6), {"0": rows(model[0], 5)}, align=seven)
    assert materialize(plan).get_submodule("0").out_features == 7
    assert Width("0", "linear", "out", 5, 20, 1, torch.float64) in asked
    assert Width("2", "linear", "in", 5, 20, 1, torch.float64) in asked
    assert plan.report.alignment is not None
    assert plan.report.alignment.to.endswith("seven")


@pytest.mark.parametrize(("answer", "width"), [(-3, 5), (100, 20)])
def test_answers_out_of_range_count_as_the_nearest(answer: int, width: int) -> None:
    model = mlp(6, 20, 3)
    plan = plan_speedup(model, vectors(6), {"0": rows(model[0], 5)}, align=lambda _: answer)
    assert materialize(plan).get_submodule("0").out_features == width


@pytest.mark.parametrize("align", [0, -8, True, 2.0, "8"])
def test_what_is_no_alignment_is_refused(align: object) -> None:
    with pytest.raises(InputError, match=re.escape(repr(align))):
        plan_speedup(mlp(6, 4), vectors(6), align=align)  # type: ignore[arg-type]


def test_answer_that_is_no_integer_is_refused() -> None:
    model = mlp(6, 20, 3)
    with pytest.raises(InputError, match=r"7\.5 for Width\(path='0'"):
        plan_speedup(model, vectors(6), {"0": rows(model[0], 5)}, align=lambda _: 7.5)  # type: ignore[arg-type]


class Gated(nn.Module):
    """A linear layer whose halves are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(6, 64), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.both(x).chunk(2, -1)
        return self.out(F.silu(left) * right)


def test_channels_that_come_in_pairs_are_added_in_pairs_and_no_more() -> None:
    model = Gated().double()
    masks = rows(model.both, 64)
    for mask in masks.values():
        mask[13:32] = mask[45:] = 0
    small: Any = materialize(assert_equivalent(model, vectors(6), {"both": masks}, align=8))
    # 26 rows would be 32 with the next multiple, whose halves are a multiple too.
    assert (small.both.out_features, small.out.in_features) == (32, 16)


class WithInput(nn.Module):
    """A layer that reads another one's result and the model's input put together."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 61), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.cat([F.relu(self.first(x)), x], -1))


def test_reading_three_channels_of_the_input_does_not_bring_all_others_back() -> None:
    model = WithInput().double()
    plan = assert_equivalent(model, vectors(3), {"first": rows(model.first, 13)}, align=8)
    small: Any = materialize(plan)
    assert (small.first.out_features, small.second.in_features) == (16, 19)
    assert plan.report.alignment is not None
    (missed,) = plan.report.alignment.missed
    assert (missed.path, missed.side, missed.kept, missed.wanted) == ("second", "in", 19, 24)
    assert "not reached: 1 width(s)" in " ".join(str(plan).split())
    assert "reads 19 channels where 24 are wanted" in plan.explain("second")


@pytest.mark.parametrize(("channels", "align", "width"), [(32, 4, 16), (16, 8, 16), (16, 3, 12)])
def test_groups_are_aligned_each_on_its_own_unless_all_are_narrower(
    channels: int, align: int, width: int
) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, channels, 1), nn.ReLU(), nn.Conv2d(channels, channels, 3, groups=4), nn.ReLU()
    ).double()
    model.append(nn.Conv2d(channels, 2, 1).double())
    masks = rows(model[0], channels)
    later = rows(model[2], channels)
    for mask in (*masks.values(), *later.values()):
        mask.unflatten(0, (4, -1))[:, 3:] = 0
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    small = materialize(assert_equivalent(model, images, {"0": masks, "2": later}, align=align))
    assert small.get_submodule("2").out_channels == width


def test_heads_stay_whole() -> None:
    model = nn.TransformerEncoderLayer(24, 6, 40, batch_first=True).double().eval()
    masks = {
        "self_attn.in_proj_weight": torch.ones(72, 24),
        "self_attn.in_proj_bias": torch.ones(72),
        "linear1.weight": torch.ones(40, 24),
        "linear1.bias": torch.ones(40),
    }
    for name in ("self_attn.in_proj_weight", "self_attn.in_proj_bias"):
        masks[name].unflatten(0, (3, 24))[2, 12:] = 0
    for name in ("linear1.weight", "linear1.bias"):
        masks[name][9:] = 0
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    small: Any = materialize(assert_equivalent(model, x, masks, align=8))
    # 3 heads of 4 are 12 rows for each of query, key and value.
    assert small.self_attn.num_heads == 4
    assert small.linear1.out_features == 16


def test_units_of_a_recurrent_layer_are_aligned() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(5, 12, batch_first=True), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0])

    model = Model().double()
    masks = {name: torch.ones_like(p) for name, p in model.lstm.named_parameters()}
    for mask in masks.values():
        mask.unflatten(0, (4, 12))[:, 5:] = 0
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    small: Any = materialize(assert_equivalent(model, x, {"lstm": masks}, align=4))
    assert small.lstm.hidden_size == 8


def aligned_lenet(align: int | None) -> Plan:
    case = lenet()
    return plan_speedup(case.model, case.inputs(1, seed=0), case.masks, align=align)


def test_report_compares_with_the_plan_without_alignment() -> None:
    plain, plan = aligned_lenet(None), aligned_lenet(4)
    found = plan.report.alignment
    assert plain.report.alignment is None
    assert found is not None
    assert found.parameters == (plain.parameters_after, plan.parameters_after)
    assert found.macs == (plain.macs_after, plan.macs_after)
    assert plan.parameters_after > plain.parameters_after
    assert plan.blocked == plain.blocked
    percent = f"+{plan.macs_after / plain.macs_after - 1:.1%} MACs"
    assert f"Aligned to 4: +{plan.parameters_after / plain.parameters_after - 1:.1%} parameters" in str(plan)
    assert percent in str(plan)


def test_layers_say_how_many_channels_were_added() -> None:
    plain = {layer.path: layer for layer in aligned_lenet(None).layers}
    plan = aligned_lenet(4)
    notes = {layer.path: note for layer in plan.layers for note in layer.notes if "to align" in note}
    assert notes["conv1"] == "+1 channels to align"
    assert "+1 channels to align" in plan.explain("conv1")
    assert plain["conv1"].notes == () or "align" not in " ".join(plain["conv1"].notes)
    assert plan.report.alignment is not None
    assert plan.report.alignment.channels == sum(int(n.split()[0]) for n in notes.values())


def test_aligning_to_one_is_the_plan_without() -> None:
    plain, plan = aligned_lenet(None), aligned_lenet(1)
    assert plan.edits == plain.edits
    assert plan.report.alignment is not None
    assert plan.report.alignment.channels == 0


def test_plans_with_equal_alignment_are_equal_values() -> None:
    assert aligned_lenet(4) == aligned_lenet(4)
    assert aligned_lenet(4) != aligned_lenet(None)


def test_growing_leaves_what_is_satisfied_as_it_is() -> None:
    kept = solve_keep_sets({(0, 0): 4}, {(0, 0): torch.tensor([True, False, True, False])}, [])
    assert grow_keep_sets(kept, [], [Aligned((0, 0), 1, lambda count: count, True, _CAUSE)]) is kept


def test_one_at_a_time_asks_again_when_all_else_has_settled() -> None:
    seed = torch.tensor([True] + [False] * 7)
    twice = torch.arange(8) % 4
    system = [Mapped(((0, 0),), ((1, 0),), twice[:4], (8,), (4,), _CAUSE)]
    system.append(Mapped(((1, 0),), ((0, 0),), twice, (4,), (8,), _CAUSE))
    kept = solve_keep_sets({(0, 0): 8, (1, 0): 4}, {(0, 0): seed}, system)
    one = Aligned((0, 0), 1, lambda count: -(-count // 4) * 4, False, _CAUSE)
    assert grow_keep_sets(kept, system, [one])[(0, 0)].nonzero().flatten().tolist() == [0, 1, 4, 5]


def test_example_in_the_readme_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    case = lenet()
    names = {**vars(speedup), "model": case.model, "x": case.inputs(1, seed=0), "masks": case.masks}
    exec(example_run_by(__file__), names)
    assert "Aligned to 8" in capsys.readouterr().out


def test_aligned_plans_are_the_same_when_read_back() -> None:
    plan = aligned_lenet(4)
    assert Plan.from_json(plan.to_json()) == plan


def test_plan_that_names_no_numbers_holds_for_other_weights_also_when_aligned() -> None:
    model = mlp(6, 20, 3)
    plan = plan_speedup(model, vectors(6), {"0": rows(model[0], 5)}, align=8)
    other = mlp(6, 20, 3)
    assert materialize(plan, model=other).get_submodule("0").out_features == 8
