"""Estimates of latency: which calls are measured, what they add up to, and where they are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import InputError, Plan, UnboundPlanError, estimate_latency, plan_figure, plan_speedup
from speedup.measuring import estimating
from speedup.measuring.layer_calls import LayerCall
from speedup.measuring.timing import Timing
from speedup.rendering.latency import LatencyEstimate, LayerTime, milliseconds
from speedup.testing.snapshots import model_state

X = torch.randn(2, 3, 8, 8)
ESTIMATE = LatencyEstimate(
    (LayerTime("0", 0.0123, 0.004), LayerTime("2", 0.001, 0.001)),
    "cpu, float32, 1 CPU thread(s)",
    ("my::op",),
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()).eval()


def plan_of(model: nn.Module, x: Any = X) -> Plan:
    keep = torch.arange(6) < 4
    return plan_speedup(model, x, {"0": {"weight": keep[:, None, None, None], "bias": keep}})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what calls return, which is how many seconds each is said to take."""
    shapes: list[tuple[int, ...]] = []

    def turns(runs: Sequence[Callable[[], object]], **_: Any) -> tuple[Timing, ...]:
        timings = []
        for run in runs:
            found = run()
            assert isinstance(found, Tensor)
            shapes.append(tuple(found.shape))
            timings.append(Timing(float(found.numel()), 0.0, 0.0))
        return tuple(timings)

    monkeypatch.setattr(estimating, "take_turns", turns)
    return shapes


def test_calls_are_measured_as_both_models_make_them(measured: list[tuple[int, ...]]) -> None:
    model = network()
    state = model_state(model)
    found = estimate_latency(plan_of(model))
    assert measured == [
        *((2, 6, 8, 8), (2, 4, 8, 8)),
        *((2, 6, 8, 8), (2, 4, 8, 8)),
        # The same number of channels comes out of fewer, which is another call.
        *((2, 4, 6, 6), (2, 4, 6, 6)),
        (2, 4, 6, 6),
    ]
    assert [(layer.path, layer.before, layer.after) for layer in found.layers] == [
        ("0", 768, 512),
        ("1", 768, 512),
        ("2", 288, 288),
        ("3", 288, 288),
    ]
    assert (found.before, found.after) == (2112, 1600)
    assert found.left_out == ()
    assert model_state(model) == state


def test_calls_of_the_same_sizes_are_measured_once(measured: list[tuple[int, ...]]) -> None:
    layer = nn.Linear(5, 5)
    model = nn.Sequential(layer, nn.Linear(5, 5), layer)
    found = estimate_latency(plan_speedup(model, torch.randn(2, 5)))
    assert measured == [(2, 5)]
    assert [(one.path, one.before) for one in found.layers] == [("0", 20), ("1", 10)]


def test_another_input_is_estimated_for(measured: list[tuple[int, ...]]) -> None:
    found = estimate_latency(plan_of(network()), torch.randn(4, 3, 10, 10))
    assert measured[0] == (4, 6, 10, 10)
    assert found.layers[0].after == 1600


def test_sums_that_are_stated_otherwise_count_as_they_were(measured: list[tuple[int, ...]]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.branch = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
            self.last = nn.Conv2d(64, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(x + self.branch(x))

    keep = torch.arange(64) < 8
    plan = plan_speedup(Net(), X, {"branch": {"weight": keep[:, None, None, None], "bias": keep}})
    assert [choice.lowering for choice in plan.report.choices if choice.is_taken] == ["rows"]
    found = {layer.path: [layer.before, layer.after] for layer in estimate_latency(plan).layers}
    assert [found[path] for path in ("", "branch")] == [[8192, 8192], [8192, 1024]]


def test_what_cannot_be_called_alone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    runnable = LayerCall.runnable

    def refusing(call: LayerCall, fill: Callable[..., Any]) -> Callable[[], object]:
        if "relu" in str(call.target):
            raise IndexError("out of range")
        return runnable(call, fill)

    monkeypatch.setattr(LayerCall, "runnable", refusing)
    found = estimate_latency(plan_of(network()), rounds=2, seconds=0.0)
    assert [layer.path for layer in found.layers] == ["0", "2"]
    assert found.left_out == ("aten.relu.default",)
    assert found.conditions.startswith("cpu, float32")


def test_a_plan_without_a_model_and_a_missing_device_are_refused() -> None:
    plan = plan_of(network())
    with pytest.raises(UnboundPlanError):
        estimate_latency(Plan.from_json(plan.to_json()))
    with pytest.raises(InputError, match="cannot be measured on"):
        estimate_latency(plan, device="hpu")


def test_it_is_shown_where_sizes_are() -> None:
    plan = plan_of(network())
    (row,) = [line for line in plan.overview(latency=ESTIMATE).splitlines() if line.startswith("ms")]
    assert row.split() == ["ms,", "estimated", "13.3", "5.00", "8.30", "(62.4%)"]
    assert "ms, estimated" not in plan.overview()
    page = plan.to_html(latency=ESTIMATE)
    assert "ms per forward, estimated" in page and "13.3 → 5.00" in page and ESTIMATE.conditions in page
    assert "ms per forward" not in plan.to_html()
    pytest.importorskip("matplotlib")
    title = plan_figure(plan, latency=ESTIMATE).get_suptitle()
    assert title.splitlines()[1].endswith("MB on disk, 13.3 → 5.00 (38%) ms per forward, estimated")
    assert "ms per forward" not in plan_figure(plan).get_suptitle()


def test_it_prints_what_takes_most() -> None:
    assert str(ESTIMATE).splitlines() == [
        "13.3 -> 5.00 (38%) ms per forward, estimated from its calls",
        "  0  12.3 -> 4.00 (33%)",
        "  2  1.00",
        "without my::op",
        "cpu, float32, 1 CPU thread(s)",
    ]
    layers = tuple(LayerTime(str(number), 1.0, float(number)) for number in range(12))
    text = str(LatencyEstimate(layers, "cpu"))
    assert "  11  " in text and "  2   " in text and "  1   " not in text


def test_milliseconds_have_three_digits() -> None:
    assert [milliseconds(n) for n in (5, 1234, 56_789, 123_456, 4_000_000)] == [
        *("0.01", "1.23", "56.8", "123", "4,000"),
    ]
