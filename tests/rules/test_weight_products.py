"""A product with a weight is a layer, whichever operator computes it: reports and pruners agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from speedup import STANDARD, Plan, Rule, apply_masks, make_masks, materialize, plan_speedup
from speedup.engine.lattice import Fact, any_along, fact, vector
from speedup.ir.graph import Op
from speedup.measuring.latency import measure_widths
from speedup.measuring.timing import Timing
from speedup.pruners import Norm
from speedup.rules import Rules, rule_for
from speedup.rules.rule import Facts, Lives, equal
from speedup.rules.site import Site
from speedup.rules.weights import Product, WeightRule
from tests.support.contract import require_exact


@torch.library.custom_op("speedup_tests::projected", mutates_args=())
def projected(x: Tensor, weight: Tensor) -> Tensor:
    """A product with a weight that only its owner has a rule for."""
    return x @ weight.t()


@projected.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _product(site: Site) -> Product | None:
    data, weight = site.op.operands
    return Product(data, weight, None, ((data.ndim - 1, 0),), ((data.ndim - 1, 1),))


_LINEAR = rule_for(torch.ops.aten.linear.default, STANDARD)


def _as_linear(site: Site) -> Iterable[Any]:
    (data, weight), result, last = site.op.operands, site.op.result, site.op.result.ndim - 1
    reason = site.because("projected ties its weight to its input and output channels")
    yield from equal(reason, (result, last), (weight, 0))
    yield from equal(reason, (data, last), (weight, 1))
    yield from (c for d in range(last) for c in equal(reason, (data, d), (result, d)))


def _known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    rows = facts[1].maybe_nonzero.expand(op.operands[1].shape).any(1)
    known = vector(~rows, op.result.ndim - 1, op.result.ndim)
    return (fact(known, torch.zeros_like(known, dtype=op.result.dtype)),)


def _live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    data, weight = op.operands
    rows = any_along(live[0], data.ndim - 1, weight.shape[0])
    columns = (facts[1].maybe_nonzero.expand(weight.shape) & rows[:, None]).any(0)
    return vector(columns, data.ndim - 1, data.ndim), vector(rows, 0, 2)


# Forms of the same product; the rows of the weight are its first dimension, but where it is transposed.
FORMS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": nn.functional.linear,
    "matmul": lambda x, w: x @ w.t(),
    "matmul of a transposed weight": lambda x, w: torch.matmul(x, w.T),
    "einsum": lambda x, w: torch.einsum("bi,oi->bo", x, w),
    "einsum, weight first": lambda x, w: torch.einsum("oi,bi->bo", w, x),
    "tensordot": lambda x, w: torch.tensordot(x, w, dims=([1], [1])),
    "mm from the left": lambda x, w: (w @ x.t()).t(),
    "inner": torch.inner,
    "bmm": lambda x, w: torch.bmm(x[None], w.t()[None])[0],
    "baddbmm's einsum": lambda x, w: torch.einsum("bi,io->bo", x, w.mT),
    "custom": torch.ops.speedup_tests.projected,
}


class Projected(nn.Module):
    """What a form makes of four features: six, of which two are to go, added to six that stay."""

    def __init__(self, form: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.form = form
        self.w = nn.Parameter(torch.randn(6, 4))
        self.stays = nn.Linear(4, 6)
        self.last = nn.Linear(6, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.form(x, self.w)).softmax(-1) + self.stays(x))


class Chained(nn.Module):
    """A form between two layers, all of which may shrink."""

    def __init__(self, form: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.form = form
        self.first = nn.Linear(5, 4)
        self.w = nn.Parameter(torch.randn(6, 4))
        self.last = nn.Linear(6, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.form(torch.relu(self.first(x)), self.w)))


RULES: Rules = {
    **STANDARD,
    torch.ops.speedup_tests.projected.default: Rule(
        couple=_as_linear,
        known=_known,
        live=_live,
        weight=WeightRule(_product),
    ),
}


def planned(model: nn.Module, gone: tuple[int, ...] = (1, 4), **options: Any) -> Plan:
    torch.manual_seed(0)
    mask = torch.ones(6, 1)
    mask[list(gone)] = 0
    width = 5 if isinstance(model, Chained) else 4
    return plan_speedup(
        model.eval(), torch.randn(3, width, dtype=torch.float64), {"w": mask}, rules=RULES, **options
    )


@pytest.mark.parametrize("name", FORMS)
def test_what_stays_is_told_as_of_a_linear_layer(name: str) -> None:
    plan, other = planned(Projected(FORMS[name])), planned(Projected(FORMS["linear"]))
    (found,), (wanted,) = ([b for b in p.blocked if not b.path] for p in (plan, other))
    assert (found.count, found.of) == (wanted.count, wanted.of) == (2, 6)
    assert found.reason == wanted.reason
    assert [b.reason for b in plan.blockers()] == [b.reason for b in other.blockers()]
    assert [b.channels for b in plan.blockers()] == [b.channels for b in other.blockers()]
    mine, theirs = ({(p.axis, p.indices, p.stays) for p in one.report.portions} for one in (plan, other))
    assert mine == theirs


@pytest.mark.parametrize("name", FORMS)
def test_what_goes_is_told_as_of_a_linear_layer(name: str) -> None:
    plan, other = planned(Chained(FORMS[name])), planned(Chained(FORMS["linear"]))
    mine, theirs = (
        {(p.path, p.axis, p.indices, p.stays) for p in one.report.portions} for one in (plan, other)
    )
    assert mine == theirs
    assert ("", "makes", (1, 4), False) in mine
    small = materialize(plan)
    assert small.get_parameter("w").shape == (4, 4)
    torch.manual_seed(0)
    model = Chained(FORMS[name])
    mask = torch.ones(6, 1)
    mask[[1, 4]] = 0
    plan = plan_speedup(model, torch.randn(3, 5, dtype=torch.float64), {"w": mask}, rules=RULES)
    make = lambda batch: torch.randn(batch, 5, dtype=torch.float64)  # noqa: E731
    require_exact(apply_masks(model, {"w": mask}).eval(), materialize(plan).eval(), make)


@pytest.mark.parametrize("name", FORMS)
def test_its_channels_are_pruned_as_of_a_linear_layer(name: str) -> None:
    torch.manual_seed(0)
    model = Chained(FORMS[name]).eval()
    x = torch.randn(3, 5, dtype=torch.float64)
    masks = make_masks(model, x, Norm(), 0.5, rules=RULES)
    linear = Chained(FORMS["linear"]).eval()
    linear.load_state_dict(model.state_dict())
    wanted = make_masks(linear, x, Norm(), 0.5, rules=RULES)
    assert masks.keys() == wanted.keys() == {"w", "first.weight", "first.bias"}
    assert all(torch.equal(masks[n], wanted[n]) for n in masks)
    assert int((~masks["w"]).sum()) == 3


@pytest.mark.parametrize("name", FORMS)
def test_its_widths_are_measured_and_chosen_as_of_a_linear_layer(name: str) -> None:
    model = Chained(FORMS[name])
    found = measure_widths(planned(model), rounds=2, seconds=0)
    assert [(one.path, one.weight, [w for w, _ in one.widths]) for one in found.layers] == [
        ("", "w", [4, 5, 6])
    ]
    # The second of three widths is the fastest.
    timings = [Timing(median, median, median) for median in (3.0, 1.0, 2.0)]
    layer = evolve(found.layers[0], widths=tuple(zip((4, 5, 6), timings, strict=True)))
    chosen = planned(model, align=evolve(found, layers=(layer,)).best_width)
    assert materialize(chosen).get_parameter("w").shape == (5, 4)
    other = evolve(layer, weight="other")
    chosen = planned(model, align=evolve(found, layers=(other,)).best_width)
    assert materialize(chosen).get_parameter("w").shape == (4, 4)


def test_rule_of_a_products_operator_is_asked_not_its_name() -> None:
    without = evolve(_LINEAR, weight=WeightRule())
    torch.manual_seed(0)
    mask = torch.ones(6, 1)
    mask[[1, 4]] = 0
    rules = {**STANDARD, torch.ops.aten.linear.default: without}
    model = Projected(FORMS["linear"])
    plan = plan_speedup(model, torch.randn(3, 4, dtype=torch.float64), {"w": mask}, rules=rules)
    assert plan.blocked == () and plan.report.portions == ()


class Normed(nn.Module):
    """Constants that only a running mean can take over, read by one form of product."""

    def __init__(self, multiply: Callable[[Tensor, Tensor], Tensor], weight: Tensor) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(5, 6), nn.BatchNorm1d(4)
        self.w, self.multiply = nn.Parameter(weight), multiply

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.multiply(torch.relu(self.first(x)), self.w))


@pytest.mark.parametrize("name", ["matmul", "linear"])
def test_where_constants_go_is_told_of_every_product(name: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 6)
    form = {"matmul": lambda x, w: x @ w, "linear": nn.functional.linear}[name]
    model = Normed(form, weight.t().clone() if name == "matmul" else weight).double().eval()
    with torch.no_grad():
        model.first.bias.fill_(0.5)
    rows = torch.tensor([1, 0, 1, 1, 0, 1])
    plan = plan_speedup(
        model, torch.randn(3, 5, dtype=torch.float64), {"first.weight": rows[:, None].expand(6, 5)}
    )
    assert materialize(plan).get_parameter("first.weight").shape == (4, 5)
    assert "folded into running mean norm.running_mean" in plan.explain("first")
