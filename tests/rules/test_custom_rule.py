from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import STANDARD, Plan, Rule, RuleError, apply_masks, materialize, plan_speedup
from speedup.engine.constraints import Constraint
from speedup.rules import Operator, pointwise, rule_for
from speedup.rules.building import ELEMENTWISE, channelwise, keeping, rearranging
from speedup.rules.rule import UNKNOWN_OPERATOR, equal
from speedup.rules.site import Site
from tests.support.contract import require_as_masked, require_exact
from tests.support.drawn import doubles
from tests.support.masking import filters
from tests.support.repository import example_run_by
from tests.support.ruled import extended

images = doubles(3, 9, 9)


@torch.library.custom_op("speedup_tests::scaled_tanh", mutates_args=())
def scaled_tanh(x: Tensor, scale: float) -> Tensor:
    """An elementwise operator that nobody wrote a rule for."""
    return scale * torch.tanh(x)


@scaled_tanh.register_fake
def _(x: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x)


OPERATOR = torch.ops.speedup_tests.scaled_tanh.default


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


@pytest.fixture
def model() -> Net:
    return Net()


def masks_of(model: Net) -> dict[str, dict[str, Tensor]]:
    """Biases stay alive: the operator makes constants of them, which have to be made up for."""
    return {"before": filters(model.before, 0, 1), "after": filters(model.after, 3)}


def exact(model: Net, plan: Plan) -> Any:
    small = materialize(plan)
    require_as_masked(model, small, masks_of(model), images)
    return small


def test_operator_without_a_rule_is_reported_and_keeps_what_it_touches(model: Net) -> None:
    plan = plan_speedup(model, images(2), masks_of(model))
    assert plan.unknown_operators == ("speedup_tests.scaled_tanh.default",)
    assert "speedup_tests.scaled_tanh.default" in str(plan)
    assert [(b.path, b.count, b.of) for b in plan.blocked] == [("before", 2, 6)]
    assert "speedup_tests.scaled_tanh.default has no rule" in plan.explain("before")
    small = exact(model, plan)
    assert (small.before.out_channels, small.after.in_channels) == (6, 6)


def test_operator_without_a_rule_holds_up_nothing_else(model: Net) -> None:
    small = exact(model, plan_speedup(model, images(2), masks_of(model)))
    assert (small.after.out_channels, small.far.in_channels) == (3, 3)


@pytest.mark.parametrize("key", [OPERATOR, torch.ops.speedup_tests.scaled_tanh], ids=["overload", "name"])
def test_rule_lets_channels_go_and_the_result_is_exact(model: Net, key: Operator | str) -> None:
    plan = plan_speedup(model, images(2), masks_of(model), rules=extended({key: ELEMENTWISE}))
    assert plan.unknown_operators == ()
    assert plan.blocked == ()
    small = exact(model, plan)
    assert (small.before.out_channels, small.after.in_channels) == (4, 4)
    assert (small.after.out_channels, small.far.in_channels) == (3, 3)


def test_constants_that_the_operator_makes_are_computed_by_running_it(model: Net) -> None:
    plan = plan_speedup(model, images(2), masks_of(model), rules=extended({OPERATOR: ELEMENTWISE}))
    small: Any = materialize(plan)
    with torch.no_grad():
        before, after = model.get_parameter("before.bias"), model.get_parameter("after.bias")
        constants = 1.5 * torch.tanh(before[:2])
        expected = after + model.after.weight[:, :2].sum((2, 3)) @ constants
    torch.testing.assert_close(small.after.bias.detach(), expected[:3], rtol=1e-13, atol=1e-13)


def test_rule_without_knowledge_keeps_constants_but_not_zeros(model: Net) -> None:
    """`known` left out: what the operator makes of a constant is Unknown, so the channels stay."""
    rule = Rule(couple=pointwise.elementwise_couple, live=pointwise.elementwise_live)
    plan = plan_speedup(model, images(2), masks_of(model), rules=extended({OPERATOR: rule}))
    assert plan.unknown_operators == ()
    assert exact(model, plan).before.out_channels == 6


def test_rule_without_knowledge_lets_go_what_nobody_reads(model: Net) -> None:
    rule = Rule(couple=pointwise.elementwise_couple, live=pointwise.elementwise_live)
    columns = torch.ones_like(model.after.weight)
    columns[:, [2, 4, 5]] = 0
    masks = {"after": {"weight": columns}}
    plan = plan_speedup(model, images(2), masks, rules=extended({OPERATOR: rule}))
    assert materialize(plan).get_submodule("before").out_channels == 3


def test_rules_are_an_argument_and_leave_the_standard_ones_alone(model: Net) -> None:
    rules = extended({OPERATOR: ELEMENTWISE})
    plan_speedup(model, images(2), masks_of(model), rules=rules)
    assert OPERATOR not in STANDARD
    assert rule_for(OPERATOR, STANDARD) is UNKNOWN_OPERATOR
    assert rule_for(OPERATOR, rules) is ELEMENTWISE
    assert plan_speedup(model, images(2), masks_of(model)).unknown_operators


def test_standard_rules_cannot_be_changed_in_place() -> None:
    with pytest.raises(TypeError):
        STANDARD[OPERATOR] = ELEMENTWISE  # type: ignore[index]


def test_rule_of_a_users_table_goes_before_the_standard_one(model: Net) -> None:
    """Pinning all of ReLU in place of its own rule."""
    rules = extended({OPERATOR: ELEMENTWISE, torch.ops.aten.relu.default: Rule()})
    small = exact(model, plan_speedup(model, images(2), masks_of(model), rules=rules))
    assert (small.after.out_channels, small.before.out_channels) == (4, 4)


def test_rule_that_equates_different_extents_is_a_rule_error(model: Net) -> None:
    def wrong(site: Site) -> Iterable[Constraint]:
        value = site.op.result
        yield from equal(site.because("my rule mixes dimensions up"), (value, 0), (value, 1))

    rules = extended({OPERATOR: Rule(couple=wrong)})
    with pytest.raises(RuleError, match=r"extents 2 and 6 \(my rule mixes dimensions up\)"):
        plan_speedup(model, images(2), masks_of(model), rules=rules)


class Scaled(nn.Module):
    """The operator of the README's example between two convolutions, with a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)
        self.scale = nn.Parameter(torch.randn(6))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.ops.my.scale_channels(self.before(x), self.scale))


def first_two_masked(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Two filters of `before` go, bias and all."""
    return {"before": {**filters(model.before, 0, 1), "bias": torch.tensor([0.0, 0, 1, 1, 1, 1])}}


def test_example_of_the_readme_runs_as_it_stands_and_is_exact() -> None:
    model = Scaled()
    masks = {
        "before": {
            "weight": filters(model.before, 0, 1)["weight"],
            "bias": torch.tensor([0.0, 0, 1, 1, 1, 1]),
        }
    }
    names: dict[str, Any] = {"model": model, "x": images(2), "masks": masks}

    example = example_run_by(__file__)
    exec(example, names)

    small, masked = names["small"].eval(), apply_masks(model, masks).eval()
    assert small.before.out_channels == 4
    assert small.scale.shape == (4,)
    require_exact(masked, small, images)
    rule = next(line for line in example.splitlines() if line.startswith("RULE"))
    assert len(example.strip().splitlines()) < 20, rule


@torch.library.custom_op("speedup_tests::deal", mutates_args=())
def deal(x: Tensor, hands: int) -> Tensor:
    """Deals channels out like cards: a permutation."""
    return x.unflatten(1, (-1, hands)).transpose(1, 2).flatten(1, 2).clone()


@deal.register_fake
def _(x: Tensor, hands: int) -> Tensor:
    return torch.empty_like(x)


def dealt(arguments: Any, extent: int) -> Tensor:
    return torch.arange(extent).reshape(-1, arguments["hands"]).t().reshape(-1)


@torch.library.custom_op("speedup_tests::blur", mutates_args=())
def blur(x: Tensor, gain: Tensor, guide: Tensor) -> Tensor:
    """Smooths each channel, with a gain of its own, as the mean of a guide says."""
    padded = nn.functional.avg_pool2d(x, 3, 1, 1)
    return padded * gain[:, None, None] * guide.mean()


@blur.register_fake
def _(x: Tensor, gain: Tensor, guide: Tensor) -> Tensor:
    return torch.empty_like(x)


class Between(nn.Module):
    """`function` of the result of a convolution and of a parameter per channel."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.before, self.after = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)
        self.gain = nn.Parameter(torch.randn(6))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.function(self.before(x), self.gain))


CONSTRUCTED: dict[str, tuple[Operator | str, Callable[[Tensor, Tensor], Tensor], Rule, int]] = {
    "channelwise": (
        torch.ops.speedup_tests.blur,
        lambda x, gain: torch.ops.speedup_tests.blur(x, gain, x[:, -1:]),
        channelwise({"x": 1, "gain": 0}, result=1, keeps_zero=True),
        4,
    ),
    "channelwise, counted from the end": (
        torch.ops.speedup_tests.blur,
        lambda x, gain: torch.ops.speedup_tests.blur(x, gain, x[:, -1:]),
        channelwise({"x": -3, "gain": 0}, result=-3),
        6,
    ),
    "rearranging": (
        torch.ops.speedup_tests.deal,
        lambda x, gain: torch.ops.speedup_tests.deal(x, 2),
        rearranging(1, dealt),
        4,
    ),
    "rearranging that no longer fits": (
        torch.ops.speedup_tests.deal,
        lambda x, gain: torch.ops.speedup_tests.deal(x, 3),
        rearranging(1, dealt),
        6,
    ),
    "by name": (
        "speedup_tests::scaled_tanh",
        lambda x, gain: torch.ops.speedup_tests.scaled_tanh(x, 2.0),
        ELEMENTWISE,
        4,
    ),
    "the rule of a known operator": (
        torch.ops.speedup_tests.scaled_tanh,
        lambda x, gain: torch.ops.speedup_tests.scaled_tanh(x, 2.0),
        STANDARD[torch.ops.aten.tanh],
        4,
    ),
    "keeping": (
        torch.ops.speedup_tests.scaled_tanh,
        lambda x, gain: torch.ops.speedup_tests.scaled_tanh(x, 2.0),
        keeping("is tuned for its width"),
        6,
    ),
}


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_rules_of_the_constructors_are_exact_and_as_small_as_they_can_be(name: str) -> None:
    key, function, rule, kept = CONSTRUCTED[name]
    model = Between(function)
    masks = {
        "before": {
            "weight": filters(model.before, 0, 1)["weight"],
            "bias": torch.tensor([0.0, 0, 1, 1, 1, 1]),
        }
    }
    plan = plan_speedup(model, images(2), masks, rules=extended({key: rule}))
    small, masked = materialize(plan).eval(), apply_masks(model, masks).eval()
    assert plan.unknown_operators == ()
    assert small.get_submodule("before").out_channels == kept, str(plan.blocked)
    require_exact(masked, small, images)


def test_a_kept_operator_shows_its_reason() -> None:
    key, function, rule, _ = CONSTRUCTED["keeping"]
    model = Between(function)
    plan = plan_speedup(model, images(2), {"before": filters(model.before, 0)}, rules=extended({key: rule}))
    assert "scaled_tanh is tuned for its width" in plan.explain("before")


@torch.library.custom_op("speedup_tests::row_maxima", mutates_args=())
def row_maxima(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum of each row of each channel, by the channel's scale, and where it is."""
    values, places = x.max(3)
    return values * scale[:, None], places


@row_maxima.register_fake
def _(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:3]), x.new_empty(x.shape[:3], dtype=torch.int64)


class Maxima(nn.Module):
    """Two layers with an operator between them that returns two tensors with the channels of the first."""

    def __init__(self, reads_places: bool) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)
        self.scale = nn.Parameter(torch.randn(6))
        self.reads_places = reads_places
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        values, places = torch.ops.speedup_tests.row_maxima(self.before(x), self.scale)
        found = self.after(values.mean(2))
        return found + self.after(places.double().mean(2)) if self.reads_places else found


@pytest.mark.parametrize(("reads_places", "width"), [(False, 4), (True, 6)])
def test_two_results_may_have_the_channels(reads_places: bool, width: int) -> None:
    """As those of torchvision's `roi_pool`; the second was once left whole. Who reads where in a channel
    of zeros the first stands needs that channel.
    """
    model = Maxima(reads_places)
    keep = torch.arange(6) % 3 > 0
    masks = {
        "before": {"weight": keep[:, None, None, None], "bias": keep},
    }
    rule = channelwise({"x": 1, "scale": 0}, 1, others={1: 1}, keeps_zero=True)
    rules = extended({torch.ops.speedup_tests.row_maxima: rule})

    plan = plan_speedup(model, images(2), masks, rules=rules)
    small = materialize(plan)

    require_exact(apply_masks(model, masks), small, images)
    assert small.get_submodule("before").out_channels == width


def test_the_rule_of_roi_pool_couples_both_results() -> None:
    rule = STANDARD["torchvision::roi_pool"]
    boxes = torch.tensor([[0.0, 0, 0, 4, 4]], dtype=torch.float64)

    @torch.library.custom_op("speedup_tests::roi_pool", mutates_args=())
    def roi_pool(input: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        left, top, right, bottom = (int(edge) for edge in rois[0, 1:])
        values, places = input[:1, :, top:bottom, left:right].flatten(2).max(2)
        return values[..., None, None], places[..., None, None]

    @roi_pool.register_fake
    def _(input: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        sizes = (rois.shape[0], input.shape[1], 1, 1)
        return input.new_empty(sizes), input.new_empty(sizes, dtype=torch.int64)

    class Regions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.Conv2d(3, 6, 3, bias=False), nn.Linear(6, 4)
            self.where = nn.Linear(6, 4)
            self.register_buffer("boxes", boxes)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            values, places = torch.ops.speedup_tests.roi_pool(self.before(x), self.boxes)
            return self.after(values.flatten(1)) + self.where(places.flatten(1).double())

    model = Regions()
    alive = torch.arange(6) % 2 > 0
    masks = {"before.weight": alive[:, None, None, None], "where.weight": alive[None]}
    small = materialize(
        plan_speedup(model, images(1), masks, rules=extended({torch.ops.speedup_tests.roi_pool: rule}))
    )

    require_exact(apply_masks(model, masks), small, images)
    assert small.get_submodule("before").out_channels == 3
    assert small.get_submodule("where").in_features == 3
    assert small.get_submodule("where").in_features == 3
