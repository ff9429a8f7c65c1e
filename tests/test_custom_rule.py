from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from speedup import STANDARD, Plan, Rule, RuleError, apply_masks, materialize, plan_speedup
from speedup.constraints import Constraint
from speedup.rules import pointwise, rule_for
from speedup.rules.rule import UNKNOWN_OPERATOR, Site, equal
from tests.support.measure import relative_error


@torch.library.custom_op("speedup_tests::scaled_tanh", mutates_args=())
def scaled_tanh(x: Tensor, scale: float) -> Tensor:
    """An elementwise operator that nobody wrote a rule for."""
    return scale * torch.tanh(x)


@scaled_tanh.register_fake
def _(x: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x)


OPERATOR = torch.ops.speedup_tests.scaled_tanh.default
ELEMENTWISE = Rule(couple=pointwise.couple, known=pointwise.known, live=pointwise.live)


class Net(nn.Module):
    """The operator between two convolutions; a third and a fourth have nothing to do with it."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 6, 3)
        self.after = nn.Conv2d(6, 4, 3)
        self.far = nn.Conv2d(4, 5, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.ops.speedup_tests.scaled_tanh(self.before(x), 1.5)
        return self.far(torch.relu(self.after(x)))


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 9, 9, dtype=torch.float64)


def filters(conv: nn.Conv2d, *masked: int) -> dict[str, Tensor]:
    mask = torch.ones_like(conv.weight)
    mask[list(masked)] = 0
    return {"weight": mask}


@pytest.fixture
def model() -> Net:
    return Net()


def masks_of(model: Net) -> dict[str, dict[str, Tensor]]:
    """Biases stay alive: the operator makes constants of them, which have to be made up for."""
    return {"before": filters(model.before, 0, 1), "after": filters(model.after, 3)}


def require_exact(model: nn.Module, plan: Plan) -> nn.Module:
    small = materialize(plan).eval()
    masked = apply_masks(model, masks_of(model)).eval()
    for batch in (1, 3):
        assert relative_error(masked, small, [images(batch) for _ in range(3)]) < 1e-10
    return small


def test_operator_without_a_rule_is_reported_and_keeps_what_it_touches(model: Net) -> None:
    plan = plan_speedup(model, images(2), masks_of(model))
    assert plan.unknown_operators == ("speedup_tests.scaled_tanh.default",)
    assert "speedup_tests.scaled_tanh.default" in str(plan)
    assert [(b.path, b.count, b.of) for b in plan.blocked] == [("before", 2, 6)]
    assert "speedup_tests.scaled_tanh.default has no rule" in plan.explain("before")
    small = require_exact(model, plan)
    assert (small.before.out_channels, small.after.in_channels) == (6, 6)


def test_operator_without_a_rule_holds_up_nothing_else(model: Net) -> None:
    small = require_exact(model, plan_speedup(model, images(2), masks_of(model)))
    assert (small.after.out_channels, small.far.in_channels) == (3, 3)


@pytest.mark.parametrize("key", [OPERATOR, torch.ops.speedup_tests.scaled_tanh], ids=["overload", "name"])
def test_rule_lets_channels_go_and_the_result_is_exact(model: Net, key: object) -> None:
    plan = plan_speedup(model, images(2), masks_of(model), rules=STANDARD | {key: ELEMENTWISE})
    assert plan.unknown_operators == ()
    assert plan.blocked == ()
    small = require_exact(model, plan)
    assert (small.before.out_channels, small.after.in_channels) == (4, 4)
    assert (small.after.out_channels, small.far.in_channels) == (3, 3)


def test_constants_that_the_operator_makes_are_computed_by_running_it(model: Net) -> None:
    plan = plan_speedup(model, images(2), masks_of(model), rules=STANDARD | {OPERATOR: ELEMENTWISE})
    small = materialize(plan)
    with torch.no_grad():
        constants = 1.5 * torch.tanh(model.before.bias[:2])
        expected = model.after.bias + model.after.weight[:, :2].sum((2, 3)) @ constants
    torch.testing.assert_close(small.after.bias.detach(), expected[:3], rtol=1e-13, atol=1e-13)


def test_rule_without_knowledge_keeps_constants_but_not_zeros(model: Net) -> None:
    """`known` left out: what the operator makes of a constant is Unknown, so the channels stay."""
    rule = Rule(couple=pointwise.couple, live=pointwise.live)
    plan = plan_speedup(model, images(2), masks_of(model), rules=STANDARD | {OPERATOR: rule})
    assert plan.unknown_operators == ()
    assert require_exact(model, plan).before.out_channels == 6


def test_rule_without_knowledge_lets_go_what_nobody_reads(model: Net) -> None:
    rule = Rule(couple=pointwise.couple, live=pointwise.live)
    columns = torch.ones_like(model.after.weight)
    columns[:, [2, 4, 5]] = 0
    masks = {"after": {"weight": columns}}
    plan = plan_speedup(model, images(2), masks, rules=STANDARD | {OPERATOR: rule})
    assert materialize(plan).before.out_channels == 3


def test_rules_are_an_argument_and_leave_the_standard_ones_alone(model: Net) -> None:
    rules = STANDARD | {OPERATOR: ELEMENTWISE}
    plan_speedup(model, images(2), masks_of(model), rules=rules)
    assert OPERATOR not in STANDARD
    assert rule_for(OPERATOR, STANDARD) is UNKNOWN_OPERATOR
    assert rule_for(OPERATOR, rules) is ELEMENTWISE
    assert plan_speedup(model, images(2), masks_of(model)).unknown_operators


def test_standard_rules_cannot_be_changed_in_place() -> None:
    with pytest.raises(TypeError):
        STANDARD[OPERATOR] = ELEMENTWISE


def test_rule_of_a_users_table_goes_before_the_standard_one(model: Net) -> None:
    """Pinning all of ReLU in place of its own rule."""
    rules = STANDARD | {OPERATOR: ELEMENTWISE, torch.ops.aten.relu.default: Rule()}
    small = require_exact(model, plan_speedup(model, images(2), masks_of(model), rules=rules))
    assert (small.after.out_channels, small.before.out_channels) == (4, 4)


def test_rule_that_equates_different_extents_is_a_rule_error(model: Net) -> None:
    def wrong(site: Site) -> Iterable[Constraint]:
        value = site.op.result
        yield from equal(site.because("my rule mixes dimensions up"), (value, 0), (value, 1))

    rules = STANDARD | {OPERATOR: Rule(couple=wrong)}
    with pytest.raises(RuleError, match=r"extents 2 and 6 \(my rule mixes dimensions up\)"):
        plan_speedup(model, images(2), masks_of(model), rules=rules)
