"""Small models survive all that their originals do: saving, copying, compiling, exporting, training.

The terminal summary shows the table.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from speedup import plan_speedup
from tests.support.attention_models import missing
from tests.support.lowered_networks import LOWERED
from tests.support.masked_model import normal
from tests.support.survival import Outcome, Survival, survivals
from tests.support.survival_cases import CASES, check_case
from tests.support.survival_table import PROPERTY, from_property, table_lines, to_property


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if case.quick else pytest.mark.zoo) for name, case in CASES.items()]
)
def test_small_model_survives_what_its_original_does(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    if absent := missing(CASES[name].needs):
        pytest.skip(f"needs {', '.join(absent)}")
    survival = check_case(name)
    record_property(PROPERTY, to_property(survival))
    survival.require()


class Uncopyable(nn.Linear):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise TypeError("no copies\nof this one")


class ForOneBatch(nn.Linear):
    """Knows the batch that it saw in eager mode only."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).reshape(3, 2) if torch.compiler.is_exporting() else super().forward(x)


class Untrainable(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.detach(), self.bias)


class Forgetful(nn.Linear):
    def __deepcopy__(self, memo: object) -> nn.Module:
        return nn.Linear(4, 2).double()


def test_model_that_lost_its_copies_fails_with_the_first_line_of_the_error() -> None:
    survival = _survival(_double(nn.Linear(4, 2)), _double(Uncopyable(4, 2)), "deepcopy")
    assert [(it.outcome, it.reason) for it in survival.findings] == [(Outcome.FAILS, "TypeError: no copies")]
    with pytest.raises(AssertionError, match="does not survive deepcopy: TypeError: no copies"):
        survival.require()


def test_what_the_original_does_not_survive_is_no_failure() -> None:
    survival = _survival(_double(Uncopyable(4, 2)), _double(Uncopyable(4, 2)), "deepcopy")
    assert [it.outcome for it in survival.findings] == [Outcome.NEITHER]
    survival.require()


def test_export_for_one_batch_size_fails() -> None:
    assert _survival(_double(nn.Linear(4, 2)), _double(ForOneBatch(4, 2)), "export").failures


def test_parameter_without_the_gradient_it_had_fails() -> None:
    (failure,) = _survival(_double(nn.Linear(4, 2)), _double(Untrainable(4, 2)), "training").failures
    assert "no gradient reaches ['weight']" in failure.reason


def test_copy_that_computes_something_else_fails() -> None:
    (failure,) = _survival(_double(nn.Linear(4, 2)), _double(Forgetful(4, 2)), "deepcopy").failures
    assert "the weights ['weight', 'bias'] differ" in failure.reason


def test_table_shows_each_outcome_and_the_reason_of_what_fails() -> None:
    survival = _survival(_double(nn.Linear(4, 2)), _double(Uncopyable(4, 2)), "pickle", "deepcopy")
    lines = list(table_lines([from_property(to_property(survival))]))
    assert lines[0].split() == ["model", "pickle", "deepcopy"]
    assert lines[1].split() == ["a", "model", "yes", "NO"]
    assert lines[-1] == "a model, deepcopy: NO, TypeError: no copies"


def _survival(model: nn.Module, small: nn.Module, *trials: str) -> Survival:
    return survivals(model, small, normal(4), name="a model", trials=trials)


def _double(model: nn.Module) -> nn.Module:
    return model.double().eval()


@pytest.mark.parametrize("lowering", LOWERED)
def test_the_networks_for_lowerings_have_them_taken(lowering: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        masked = LOWERED[lowering]()
    example = masked.make_inputs(2, 0)
    plan = plan_speedup(masked.model, example, masked.masks)
    others = plan_speedup(masked.model, example, masked.masks, lowerings=set(LOWERED) - {lowering})
    assert plan.macs_after < others.macs_after
