from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from attrs.exceptions import FrozenInstanceError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from speedup import STANDARD, Plan, UnknownModuleError, materialize, plan_speedup
from tests.support.drawn import doubles
from tests.support.masking import filters
from tests.support.measure import numel

images = doubles(3, 12, 12)

Masks = Mapping[str, Mapping[str, Tensor]]


class Net(nn.Module):
    """Something of everything: what shrinks, what compensates, what is blocked, what stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.body = nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU())
        self.unread = nn.Conv2d(4, 4, 3)
        self.hidden = nn.Linear(144, 7)
        self.head = nn.Linear(7, 5)
        self.double()
        with torch.no_grad():
            self.norm.bias.fill_(0.5)
            self.hidden.bias.fill_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        # A shape that a call makes is a number that no rewriting can follow.
        x = self.unread(self.body(x)).view(*sorted((-1, 144)))
        return self.head(torch.relu(self.hidden(x)))


def masks_of(model: Net) -> Masks:
    return {
        "stem": filters(model.stem, 0, 1),
        "unread": {"weight": filters(model.unread, 3)["weight"], "bias": torch.tensor([1, 1, 1, 0])},
        "hidden": filters(model.hidden, 0),
    }


@pytest.fixture(scope="module")
def model() -> Net:
    return Net()


@pytest.fixture(scope="module")
def plan(model: Net) -> Plan:
    return plan_speedup(model, images(), masks_of(model))


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No row of the table is broken into lines."""
    monkeypatch.setenv("COLUMNS", "160")


def cells(plan: Plan, path: str) -> list[str]:
    """The printed row of a module, of the table of what shrinks."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in plan.table().splitlines()]
    (found,) = [row for row in rows if len(row) == 5 and row[0] == path]
    return found


def test_printed_plan_lists_what_changes(plan: Plan) -> None:
    assert cells(plan, "stem")[1] == "Conv2d(3, 6) -> (3, 4)"
    assert cells(plan, "norm")[1] == "BatchNorm2d(6) -> (4)"
    assert cells(plan, "body.0")[1] == "Conv2d(6, 4) -> (4, 4)"
    assert cells(plan, "hidden")[1] == "Linear(144, 7) -> (144, 6)"
    assert cells(plan, "head")[1] == "Linear(7, 5) -> (6, 5)"


def test_printed_plan_counts_parameters_and_macs_of_what_changes(plan: Plan) -> None:
    assert cells(plan, "stem")[2:4] == ["162 -> 108 (67%)", "32,400 -> 21,600 (67%)"]
    assert cells(plan, "norm")[2:4] == ["12 -> 8 (67%)", "-"]


def test_printed_plan_counts_what_stays_as_it_is(plan: Plan) -> None:
    unchanged = [layer.path for layer in plan.layers if not layer.is_changed]
    assert unchanged == ["unread"]
    assert "1 other layers stay as they are" in plan.table()


def test_printed_plan_says_what_was_absorbed_and_where(plan: Plan) -> None:
    notes = {layer.path: layer.notes for layer in plan.layers if layer.notes}
    assert notes == {
        "body.0": ("2 constant channels into bias of body.0",),
        "head": ("1 constant channels into bias of head",),
    }
    assert cells(plan, "body.0")[4] == notes["body.0"][0]
    assert cells(plan, "head")[4] == notes["head"][0]


def test_printed_plan_says_what_could_go_but_stays(plan: Plan) -> None:
    assert [(b.path, b.count, b.of) for b in plan.blocked] == [("unread", 1, 4)]
    printed = plan.table()
    assert "What could go but stays" in printed
    assert "1 of 4" in printed
    assert "states this size" in printed


def test_printed_plan_ends_in_the_totals(plan: Plan) -> None:
    last = plan.table().splitlines()[-1]
    assert f"Parameters {plan.parameters_before:,} -> {plan.parameters_after:,}" in last
    assert f"MACs {plan.macs_before:,} -> {plan.macs_after:,}" in last
    share = plan.parameters_after / plan.parameters_before
    assert f"({share:.0%})" in last


def test_printed_plan_is_plain_text(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in plan.table()
    assert "\x1b" not in str(plan)
    assert "\x1b" not in plan.explain("body.0")


def test_printed_plan_fits_a_narrow_terminal(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for text in (plan.table(), str(plan)):
        assert max(map(len, text.splitlines())) <= 80


def test_printed_plan_names_operators_without_a_rule() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cummax(self.layer(x), 1).values

    rules = {key: rule for key, rule in STANDARD.items() if key != torch.ops.aten.cummax}
    plan = plan_speedup(Sorted(), torch.randn(2, 4), rules=rules)
    assert plan.unknown_operators == ("aten.cummax.default",)
    for text in (plan.table(), str(plan)):
        assert "No rule, kept with all they touch: aten.cummax.default" in text


def test_plan_without_anything_to_do_says_so_in_its_totals() -> None:
    plan = plan_speedup(nn.Linear(4, 5), torch.randn(2, 4))
    assert plan.edits == () and plan.blocked == ()
    assert plan.table().splitlines()[-1] == "Parameters 25, MACs 40"


def test_explanation_tells_what_becomes_of_a_module(plan: Plan) -> None:
    assert plan.explain("body.0").splitlines() == [
        "body.0: Conv2d(6, 4) -> Conv2d(4, 4)",
        "  2 constant channels into bias of body.0",
        "  channels it reads: 6 -> 4",
        "    0-1 gone: masked in stem.weight",
        "      folded into bias of body.0",
    ]


def test_explanation_tells_why_a_module_stays(plan: Plan) -> None:
    first, second, third = plan.explain("unread").splitlines()
    assert first == "unread: Conv2d(4, 4) stays as it is"
    assert second == "  channels it makes: 4 -> 4"
    assert third.startswith("    3 could go but stays: ") and "states this size" in third
    assert third.endswith("(aten.view.default in the forward)")
    assert "1 of 4" in plan.table()


def test_explanation_of_an_unknown_module_is_an_error_that_lists_known_ones(plan: Plan) -> None:
    with pytest.raises(UnknownModuleError, match=r"no module 'steam'.*stem.*plan\.layers"):
        plan.explain("steam")
    with pytest.raises(KeyError):
        plan.explain("body.9")


def test_plans_of_the_same_model_and_masks_are_equal(model: Net, plan: Plan) -> None:
    again = plan_speedup(model, images(), masks_of(model))
    assert again == plan
    assert hash(again) == hash(plan)
    assert len({plan, again}) == 1
    assert str(again) == str(plan)


def test_plans_for_other_masks_differ(model: Net, plan: Plan) -> None:
    fewer = {"stem": masks_of(model)["stem"]}
    assert plan_speedup(model, images(), fewer) != plan


def test_plans_with_the_same_counts_but_other_indices_differ(model: Net) -> None:
    one = plan_speedup(model, images(), {"hidden": filters(model.hidden, 0)})
    other = plan_speedup(model, images(), {"hidden": filters(model.hidden, 1)})
    assert (one.parameters_after, one.macs_after) == (other.parameters_after, other.macs_after)
    assert one != other


def test_plans_for_masks_that_remove_nothing_differ_too(model: Net) -> None:
    """Neither frees a channel, but the weights of the small model are other ones."""
    masks = [torch.ones_like(model.hidden.weight) for _ in range(2)]
    masks[0][0, 0] = 0
    masks[1][0, 1] = 0
    one, other = (plan_speedup(model, images(), {"hidden": {"weight": mask}}) for mask in masks)
    assert one.edits == other.edits == ()
    assert one != other


def test_plans_with_other_constants_to_absorb_differ() -> None:
    """The same slices, but another value goes into the bias."""
    model = Net()
    masks = {"hidden": filters(model.hidden, 0)}
    with torch.no_grad():
        model.hidden.bias[0] = 1.0
    one = plan_speedup(model, images(), masks)
    with torch.no_grad():
        model.hidden.bias[0] = 2.0
    other = plan_speedup(model, images(), masks)
    assert [type(e) for e in one.edits] == [type(e) for e in other.edits]
    assert one != other


def test_plan_cannot_be_written_to(plan: Plan) -> None:
    with pytest.raises(FrozenInstanceError):
        plan.edits = ()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        plan.layers[0].macs_after = 0  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        plan.edits[0].name = ""  # type: ignore[misc,union-attr]


class Mixed(nn.Module):
    """Grouped, depthwise, strided and transposed convolutions, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.head = nn.Linear(6, 5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(torch.relu(self.grouped(torch.relu(self.stem(x)))))
        return self.head(torch.relu(self.up(x)).mean((2, 3)))


def mixed_masks(model: Mixed) -> Masks:
    up = torch.ones_like(model.up.weight)
    up[:, 2] = 0
    return {
        "stem": filters(model.stem, 0, 4),
        "grouped": filters(model.grouped, 1, 2, 6, 7),
        "depthwise": filters(model.depthwise, 1, 2, 6, 7),
        "up": {"weight": up},
    }


class Bypassed(nn.Module):
    """A residual branch and a functional layer: a weight that belongs to no layer module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 6)
        self.second = nn.Linear(6, 6, bias=False)
        self.weight = nn.Parameter(torch.randn(5, 6))
        self.unused = nn.Linear(3, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return F.linear(torch.tanh(x + self.second(x)), self.weight)


def bypassed_masks(model: Bypassed) -> Masks:
    bias = torch.tensor([0, 1, 1, 0, 1, 1])
    both = {"weight": filters(model.first, 0, 3)["weight"], "bias": bias}
    return {"first": both, "second": filters(model.second, 0, 3)}


class Biasless(nn.Module):
    """Its second layer needs a bias that it did not have."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 6)
        self.second = nn.Linear(6, 7, bias=False)
        self.head = nn.Linear(7, 5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


def biasless_masks(model: Biasless) -> Masks:
    return {"first": filters(model.first, 0), "second": filters(model.second, 2)}


def macs(model: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("kind", "masks", "x"),
    [
        (Net, masks_of, images()),
        (Mixed, mixed_masks, images(1)),
        (Bypassed, bypassed_masks, torch.randn(3, 8).double()),
        (Biasless, biasless_masks, torch.randn(3, 8).double()),
    ],
    ids=["net", "mixed", "bypassed", "biasless"],
)
def test_counts_are_those_of_the_models(
    kind: type[nn.Module], masks: Callable[[nn.Module], Masks], x: Tensor
) -> None:
    model = kind().eval()
    plan = plan_speedup(model, x, masks(model))
    small = materialize(plan)
    assert (plan.parameters_before, plan.parameters_after) == (numel(model), numel(small))
    assert plan.parameters_after < plan.parameters_before
    assert (plan.macs_before, plan.macs_after) == (macs(model, x), macs(small, x))
    assert plan.macs_after < plan.macs_before


def test_counts_by_layer_are_those_of_its_parameters() -> None:
    model = Mixed().eval()
    plan = plan_speedup(model, images(), mixed_masks(model))
    small = materialize(plan)
    assert [layer.path for layer in plan.layers] == ["stem", "grouped", "depthwise", "up", "head"]
    for layer in plan.layers:
        assert layer.parameters_before == numel(model.get_submodule(layer.path))
        assert layer.parameters_after == numel(small.get_submodule(layer.path))
    assert sum(layer.macs_after for layer in plan.layers) == plan.macs_after
