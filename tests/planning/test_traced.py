"""A model that is traced once is planned as often as there are masks, as it would be by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from speedup import InputError, StaleModelError, materialize, plan_speedup, trace
from speedup.tracing import islands
from tests.support.repository import README, example_run_by

X = torch.randn(2, 3, 8, 8)
Masks = Mapping[str, Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten()
    ).eval()


def masks(*kept: int) -> Masks:
    mask = torch.zeros(8, dtype=torch.bool)
    mask[list(kept)] = True
    whole = {"0.weight": mask.view(8, 1, 1, 1).expand(8, 3, 3, 3), "0.bias": mask, "1.bias": mask}
    return whole | {"1.weight": mask}


def test_plans_of_one_trace_are_those_of_the_model() -> None:
    model = network()
    traced = trace(model, X)
    with patch.object(islands, "trace_call", side_effect=AssertionError("traced again")):
        plans = [plan_speedup(traced, masks=masks(*kept)) for kept in ((0, 1), (2, 3, 4), (0, 1))]
    assert plans == [plan_speedup(model, X, masks(*kept)) for kept in ((0, 1), (2, 3, 4), (0, 1))]
    assert [plan.to_json() for plan in plans[::2]] == [plan_speedup(model, X, masks(0, 1)).to_json()] * 2
    assert materialize(plans[1])[0].weight.shape == (3, 3, 3, 3)  # type: ignore[index]


def in_place(model: Any) -> None:
    with torch.no_grad():
        model[0].weight[:5] = 0
        model[0].bias[:5] = 0
        model[1].bias[:5] = 0


def replaced(model: Any) -> None:
    for layer, name in ((model[0], "weight"), (model[0], "bias"), (model[1], "bias")):
        setattr(layer, name, nn.Parameter(layer.get_parameter(name).detach().clone()))
    in_place(model)


@pytest.mark.parametrize("change", [in_place, replaced])
def test_numbers_that_changed_since_are_those_that_count(change: Callable[[nn.Sequential], None]) -> None:
    model = network()
    traced = trace(model, X)
    before = plan_speedup(traced)
    change(model)
    after = plan_speedup(traced)
    assert after == plan_speedup(model, X) != before
    assert materialize(after)[0].out_channels < 8  # type: ignore[index]


def wider(model: Any) -> None:
    model[0], model[1], model[3] = nn.Conv2d(3, 9, 3, padding=1), nn.BatchNorm2d(9), nn.Conv2d(9, 6, 3)


def another_layer(model: Any) -> None:
    model[2] = nn.Sigmoid()


@pytest.mark.parametrize("change", [wider, another_layer])
def test_another_architecture_is_refused(change: Callable[[nn.Sequential], None]) -> None:
    model = network()
    traced = trace(model, X)
    change(model)
    with pytest.raises(StaleModelError, match=r"changed since it was traced: .*Trace it anew"):
        plan_speedup(traced)


@pytest.mark.parametrize("given", [{"x": X}, {"others": [X]}, {"kwargs": {"y": X}}])
def test_calls_are_given_when_it_is_traced(given: Mapping[str, Any]) -> None:
    traced = trace(network(), X)
    with pytest.raises(InputError, match=r"has its calls from trace\(\)"):
        plan_speedup(traced, **given)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)
        self.gate = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x.relu() if self.gate > 0 else x * 2)


def test_what_masks_may_change_in_a_trace_is_traced_again() -> None:
    model, x = Gated().eval(), torch.randn(2, 4)
    traced = trace(model, x)
    closed = {"gate": torch.zeros(1, dtype=torch.bool)}
    for chosen in (None, closed):
        plan = plan_speedup(traced, masks=chosen)
        assert plan == plan_speedup(model, x, chosen)
        materialize(plan)


def hooked() -> nn.Sequential:
    model = network()
    prune.ln_structured(model[0], "weight", 0.5, 2, 0)
    return model


def normed() -> nn.Sequential:
    model = network()
    parametrizations.weight_norm(model[3])
    return model


@pytest.mark.parametrize("make", [hooked, normed])
def test_computed_weights_are_planned_as_without_a_trace(make: Callable[[], nn.Sequential]) -> None:
    model = make()
    plan = plan_speedup(trace(model, X))
    assert plan == plan_speedup(model, X)
    materialize(plan)


def test_several_calls_and_sizes_are_traced_once() -> None:
    model = network()[:4]
    others = [torch.randn(1, 3, 5, 7)]
    traced = trace(model, X, others=others)
    assert plan_speedup(traced, masks=masks(1)) == plan_speedup(model, X, masks(1), others=others)


@pytest.mark.parametrize("word", ["for count in", "def cost_of"], ids=["sweep", "annealing"])
def test_what_the_readme_says_of_many_plans_runs_as_it_stands(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    example = example_run_by(__file__, word)
    exec(example, {})
    assert f"{example}```\n\n```text\n{capsys.readouterr().out}```" in README
