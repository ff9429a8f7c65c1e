"""Latency tables: what is measured, and what is chosen from it. Nothing here depends on how fast it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from speedup import Width, materialize, plan_speedup
from speedup.demo.cases import lenet
from speedup.errors import InputError
from speedup.ir.edits import Slice
from speedup.measuring.conditions import Conditions
from speedup.measuring.latency import (
    LatencyTable,
    LayerLatency,
    ModelLatency,
    WidthTable,
    latency_table,
    measure_widths,
)
from speedup.measuring.timing import Timing, take_turns
from speedup.planning.planner import realign
from speedup.testing.snapshots import model_state
from tests.rules.test_weight_products import RULES

_CONDITIONS = Conditions("cpu", "float32", 1, 2)


def timing(median: float, spread: float = 0.1) -> Timing:
    return Timing(median, median - spread, median + spread)


def table(**medians: float) -> WidthTable:
    widths = tuple((int(name[1:]), timing(median)) for name, median in medians.items())
    return WidthTable((LayerLatency("conv", widths),), _CONDITIONS)


def width(kept: int, total: int = 32, path: str = "conv", side: str = "out", groups: int = 1) -> Width:
    return Width(path, "conv2d", side, kept, total, groups, torch.float32)  # type: ignore[arg-type]


def test_fastest_width_is_chosen_and_the_smallest_of_equally_fast_ones() -> None:
    found = table(w5=3.0, w6=2.0, w7=1.05, w8=1.0, w9=1.02)
    assert found.best_width(width(5)) == 7
    assert found.best_width(width(8)) == 8
    assert found.best_width(width(5, total=6)) == 6


@pytest.mark.parametrize(
    "asked",
    [width(6, path="other"), width(6, side="in"), width(6, groups=2), width(20)],
    ids=["layer", "side", "groups", "count"],
)
def test_what_was_not_measured_stays(asked: Width) -> None:
    assert table(w5=3.0, w6=2.0, w8=1.0).best_width(asked) == asked.kept


def test_best_alignment_is_the_least_of_those_as_fast_as_the_fastest() -> None:
    rows = tuple(ModelLatency(a, 1, 1, timing(t)) for a, t in ((1, 2.0), (8, 1.05), (16, 1.0)))
    found = LatencyTable(ModelLatency(None, 1, 1, timing(0.5)), rows, _CONDITIONS)
    assert found.best == 8
    first = (line for line in str(found).splitlines() if "ms" in line)
    assert [line.split("│")[1].split("┃")[0].strip() for line in first] == [
        "masked",
        "small",
        "small, aligned to 8",
        "small, aligned to 16",
    ]


def test_runs_take_turns_and_settings_stay() -> None:
    calls: list[str] = []
    threads = torch.get_num_threads()
    found = take_turns([lambda: calls.append("a"), lambda: calls.append("b")], rounds=3, threads=2)
    assert torch.get_num_threads() == threads
    assert len(found) == 2
    assert all(one.low <= one.median <= one.high for one in found)
    half = len(calls) // 2
    assert {"a", "b"} <= set(calls[:half]) and {"a", "b"} <= set(calls[half:])


def test_models_of_all_alignments_are_measured_and_the_model_is_untouched() -> None:
    case = lenet()
    plan = plan_speedup(case.model, case.inputs(1, seed=0), case.masks)
    before = model_state(case.model)
    state = torch.get_rng_state()
    found = latency_table(
        plan, case.inputs(4, seed=1), aligns=(1, 4), dtype=torch.float64, rounds=2, seconds=0
    )
    assert model_state(case.model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert [row.align for row in found.rows] == [1, 4]
    assert found.rows[0].parameters == plan.parameters_after < found.rows[1].parameters
    assert all(0 < row.timing.low <= row.timing.median <= row.timing.high for row in found.rows)
    assert found.best in (1, 4)
    assert "float64" in str(found) and "2 interleaved rounds" in str(found)


@pytest.mark.parametrize("wrong", [{"aligns": ()}, {"rounds": 1}])
def test_nothing_to_measure_is_an_error(wrong: dict[str, object]) -> None:
    case = lenet()
    plan = plan_speedup(case.model, case.inputs(1, seed=0), case.masks)
    with pytest.raises(InputError, match="at least"):
        latency_table(plan, **wrong)  # type: ignore[arg-type]


def test_layers_are_measured_from_what_they_keep_on_and_the_table_is_an_alignment() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False),
        nn.Conv2d(12, 12, 3, groups=12),
        nn.ConvTranspose2d(12, 10, 2, stride=2),
        nn.Flatten(),
        nn.Linear(10 * 8 * 8, 9),
        nn.Linear(9, 4),
    )
    masks = {}
    for path, kept in (("0", 5), ("2", 7), ("4", 9)):
        module: Any = model.get_submodule(path)
        axis = 1 if path == "2" else 0
        mask = torch.zeros_like(module.weight)
        mask.narrow(axis, 0, kept).fill_(1)
        masks[f"{path}.weight"] = mask
    masks["1.bias"], masks["2.bias"] = torch.zeros(12), torch.ones(10)
    masks["2.bias"][7:] = 0
    x = torch.randn(1, 3, 6, 6)
    plan = plan_speedup(model, x, masks)
    found = measure_widths(plan, x, reach=2, rounds=2, seconds=0)
    measured = {layer.path: [count for count, _ in layer.widths] for layer in found.layers}
    assert measured == {"0": [5, 6, 7], "1": [5, 6, 7], "2": [7, 8, 9]}
    chosen = plan_speedup(model, x, masks, align=found.best_width)
    assert chosen.report.alignment is not None
    assert chosen.report.alignment.to == "WidthTable.best_width"
    assert "0" in str(found)


class Mixed(nn.Module):
    """Products of three kinds with weights that one module holds, the last of an operator of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(10, 8))
        self.c = nn.Parameter(torch.randn(12, 10))
        self.last = nn.Linear(12, 3)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.einsum("...i,oi->...o", torch.relu(x @ self.a), self.b)
        return self.last(torch.relu(torch.ops.speedup_tests.projected(torch.relu(x), self.c)))


def test_layers_of_one_module_are_measured_each_by_the_operator_that_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes: list[tuple[int, ...]] = []

    def turns(runs: Any, **options: object) -> tuple[Timing, ...]:
        shapes.extend(tuple(run().shape) for run in runs)
        return tuple(timing(2.0 - number) for number, _ in enumerate(runs))

    monkeypatch.setattr("speedup.measuring.latency.take_turns", turns)
    model, x = Mixed().eval(), torch.randn(2, 5, dtype=torch.float64)
    masks = {"a": torch.ones(1, 8), "b": torch.ones(10, 1), "c": torch.ones(12, 1)}
    masks["a"][:, 6:], masks["b"][7:], masks["c"][3:] = 0, 0, 0
    plan = plan_speedup(model, x, masks, rules=RULES)
    found = measure_widths(plan, torch.randn(7, 5), reach=1)
    assert [(one.path, one.weight) for one in found.layers] == [("", "a"), ("", "b"), ("", "c")]
    assert [[width for width, _ in one.widths] for one in found.layers] == [[6, 7], [7, 8], [3, 4]]
    assert shapes == [(7, 6), (7, 7), (7, 7), (7, 8), (7, 3), (7, 4)]
    small = materialize(plan_speedup(model, x, masks, rules=RULES, align=found.best_width))
    assert [tuple(small.get_parameter(name).shape) for name in "abc"] == [(5, 7), (8, 7), (4, 8)]


def test_models_of_several_calls_are_measured_in_the_example_and_planned_again_for_all() -> None:
    class Tasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor, task: str = "a") -> torch.Tensor:
            x = torch.relu(self.trunk(x))
            return self.a(x) if task == "a" else self.b(x)

    keep = torch.ones(8)
    keep[:3] = 0
    masks = {"trunk": {"weight": keep[:, None], "bias": keep}}
    model, x = Tasks().eval(), torch.randn(2, 8)
    plan = plan_speedup(model, x, masks, others=[(x, "b")])
    again = realign(plan, 4)
    assert [len(one.subject.others) for one in (plan, again)] == [1, 1]
    assert realign(again, None) == plan
    assert [e.dim for e in plan.edits if isinstance(e, Slice) and e.name == "b.weight"] == [1]
    table = latency_table(plan, aligns=(1, 4), threads=1, rounds=2, seconds=0.0)
    assert [row.macs for row in table.rows] == [2 * (8 * 5 + 5 * 3), 2 * (8 * 8 + 8 * 3)]
    other = latency_table(plan, (x, "b"), aligns=(1,), threads=1, rounds=2, seconds=0.0)
    assert other.rows[0].parameters == table.rows[0].parameters
    assert [one.path for one in measure_widths(plan, x, rounds=2, seconds=0.0).layers] == ["trunk"]


def measured(*timings: Timing) -> LatencyTable:
    masked, *small = (ModelLatency(n or None, 10, 10, one) for n, one in enumerate(timings))
    return LatencyTable(masked, tuple(small), _CONDITIONS)


def test_a_machine_that_was_too_busy_is_told_of() -> None:
    quiet = measured(timing(10.0, 0.2), timing(5.0, 0.1))
    assert (quiet.is_noisy, round(quiet.spread, 6)) == (False, 0.04)
    assert "too busy" not in str(quiet)
    noisy = measured(timing(10.0, 0.2), timing(5.0, 1.0))
    assert (noisy.is_noisy, round(noisy.spread, 6)) == (True, 0.4)
    assert "too busy to tell: quartiles are up to 40% of a median apart" in str(noisy)
