from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedup import (
    EquivalenceError,
    OutputError,
    Plan,
    Rule,
    StaleModelError,
    StructureError,
    Verification,
    materialize,
    plan_speedup,
    verify,
)
from speedup.building.comparison import Leaves, rows_like
from speedup.engine.lattice import Fact, constant, indicator
from speedup.ir.graph import Op
from speedup.rules.pointwise import ELEMENTWISE
from speedup.rules.rule import Facts, Lives
from tests.support.drawn import doubles, images
from tests.support.masking import rows
from tests.support.ruled import extended
from tests.support.untouched import differences, snapshot

vectors = doubles(8)

Masks = Mapping[str, Mapping[str, Tensor]]


class Net(nn.Module):
    """Convolutions with a linear head; the ReLUs are modules, so that they can be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.act = nn.ReLU()
        self.second = nn.Conv2d(6, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.second(self.act(self.first(x))))
        return self.head(torch.tanh(x).mean((2, 3)))


@pytest.fixture
def plan() -> Plan:
    model = Net()
    return plan_speedup(model, images(), {"first": rows(model.first, 0, 5)})


@pytest.fixture
def small(plan: Plan) -> nn.Module:
    return materialize(plan, verify="none")


def test_verification_tells_the_error_and_the_batch_sizes(plan: Plan, small: nn.Module) -> None:
    found = verify(plan, small)
    assert isinstance(found, Verification)
    assert found.structure
    assert found.batch_sizes == (2, 1)
    assert found.error is not None and 0 <= found.error < 1e-12


def test_single_sample_is_also_verified_as_two() -> None:
    model = Net()
    plan = plan_speedup(model, images(1), {"first": rows(model.first, 0)})
    assert verify(plan, materialize(plan, verify="none")).batch_sizes == (1, 2)


def test_structural_verification_runs_nothing(plan: Plan, small: nn.Module) -> None:
    assert verify(plan, small, level="structure") == Verification(True, None, ())


def test_verifying_touches_nothing(plan: Plan, small: nn.Module) -> None:
    small.train()
    model = plan.subject.model
    assert model is not None
    before, model_before = snapshot(small), snapshot(model)
    verify(plan, small)
    assert differences(before, snapshot(small)) == ()
    assert differences(model_before, snapshot(model)) == ()


def _nudge(name: str, by: float) -> Callable[[nn.Module], None]:
    def tamper(small: nn.Module) -> None:
        with torch.no_grad():
            small.get_parameter(name).view(-1)[-1].add_(by)

    return tamper


def _shift_statistics(small: Any) -> None:
    small.norm.running_var.mul_(1.01)


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (_nudge("second.weight", 0.1), "second"),
        (_nudge("second.weight", 1e-5), "second"),
        (_nudge("norm.bias", 0.1), "norm"),
        (_nudge("head.weight", 0.1), "head"),
        (_nudge("head.bias", 1e-6), "head"),
        (_shift_statistics, "norm"),
    ],
    ids=["weight", "weight a little", "norm", "last weight", "bias a little", "statistics"],
)
def test_changed_number_is_an_output_error_that_names_the_first_module_to_differ(
    plan: Plan, small: nn.Module, tamper: Callable[[nn.Module], None], named: str
) -> None:
    tamper(small)
    assert verify(plan, small, level="structure").structure
    with pytest.raises(OutputError, match=rf"differs is '{named}'.*keep=\['{named}'\]"):
        verify(plan, small)


def test_nan_in_the_small_model_is_an_output_error(plan: Plan, small: nn.Module) -> None:
    _nudge("second.bias", float("nan"))(small)
    with pytest.raises(OutputError):
        verify(plan, small)


def _other_function(small: Any) -> None:
    small.act = nn.GELU()


def _other_stride(small: Any) -> None:
    small.second.stride = (2, 2)


def _other_padding(small: Any) -> None:
    small.second.padding = (2, 2)


def _one_layer_more(small: Any) -> None:
    small.act = nn.Sequential(small.act, nn.ReLU())


def _one_layer_less(small: nn.Module) -> None:
    small.act = nn.Identity()


def _fewer_channels(small: nn.Module) -> None:
    small.first = nn.Conv2d(3, 3, 3).double()
    small.second = nn.Conv2d(3, 4, 3, padding=1).double()


def _no_bias(small: Any) -> None:
    small.second.bias = None


def _other_eps(small: Any) -> None:
    small.norm.eps = 1e-3


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (_other_function, ["in act", "aten.relu.default", "aten.gelu.default"]),
        (_other_stride, ["in second", "stride=(1, 1)", "stride=(2, 2)"]),
        (_other_padding, ["in second", "padding=(1, 1)", "padding=(2, 2)"]),
        (_one_layer_more, ["in act"]),
        (_one_layer_less, ["in act", "aten.relu.default"]),
        (_fewer_channels, ["in first", "(2, 4, 6, 6)", "(2, 3, 6, 6)"]),
        (_no_bias, ["in second", "second.bias"]),
        (_other_eps, ["in norm", "eps=1e-05", "eps=0.001"]),
    ],
)
def test_other_computation_is_a_structure_error_that_shows_the_difference(
    plan: Plan, small: nn.Module, tamper: Callable[[nn.Module], None], words: list[str]
) -> None:
    tamper(small)
    with pytest.raises(StructureError) as caught:
        verify(plan, small, level="structure")
    for word in words:
        assert word in str(caught.value)


def test_small_model_that_does_not_run_is_a_structure_error(plan: Plan, small: nn.Module) -> None:
    small.second = nn.Conv2d(5, 4, 3).double()
    with pytest.raises(StructureError, match=r"cannot be traced.*second"):
        verify(plan, small)


class Swapped(nn.Module):
    """Two outputs of the same shape, in either order."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.first = True

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.layer(x)
        b = torch.relu(a)
        return (a, b) if self.first else (b, a)


def test_outputs_in_another_order_are_a_structure_error() -> None:
    plan = plan_speedup(Swapped(), torch.randn(2, 4))
    small: Any = materialize(plan, verify="none")
    small.first = False
    with pytest.raises(StructureError, match="outputs are computed by other operations"):
        verify(plan, small)


class Attention(nn.Module):
    """Softmax over features, then a layer that reads some of them only."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(8, 6)
        self.after = nn.Linear(6, 5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.softmax(self.before(x), 1))


def test_wrong_rule_of_softmax_gives_an_error_in_place_of_a_model() -> None:
    """As if each element of a softmax depended on its own input only."""
    model = Attention()
    masks = {"after": {"weight": torch.ones(5, 6)}}
    masks["after"]["weight"][:, [1, 2]] = 0
    right = plan_speedup(model, vectors(2), masks)
    assert materialize(right).get_submodule("before").out_features == 6
    rules = extended({torch.ops.aten.softmax.int: ELEMENTWISE})
    wrong = plan_speedup(model, vectors(2), masks, rules=rules)
    assert materialize(wrong, verify="none").get_submodule("before").out_features == 4
    with pytest.raises(OutputError, match="was not handed out"):
        materialize(wrong)


def trained(small: nn.Module) -> nn.Module:
    optimizer = torch.optim.SGD(small.parameters(), 0.1)
    small(vectors(4)).square().sum().backward()
    optimizer.step()
    return small


def test_a_trained_small_model_is_told_from_a_wrong_one() -> None:
    model = Attention()
    plan = plan_speedup(model, vectors(2), {"before": {"weight": torch.arange(6)[:, None] < 5}})
    small = trained(materialize(plan))
    with pytest.raises(
        OutputError, match=r"other numbers than the plan .*'before.weight'.* once it was trained"
    ):
        verify(plan, small)
    assert verify(plan, small, level="structure").structure
    with torch.no_grad():
        small.load_state_dict(materialize(plan).state_dict())
    assert verify(plan, small).error is not None


def test_a_model_that_changed_since_is_told_from_a_wrong_small_one() -> None:
    model = Attention()
    plan = plan_speedup(model, vectors(2), {"before": {"weight": torch.arange(6)[:, None] < 5}})
    small = materialize(plan)
    trained(model)
    with pytest.raises(StaleModelError, match="changed since it was planned"):
        verify(plan, small)


def known_to_be_zero(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """As if the result did not depend on the input."""
    return (constant(torch.zeros((1,) * op.result.ndim, dtype=op.result.dtype)),)


def nothing_read(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """As is right for an operator whose result is known."""
    return tuple(indicator(False, v.ndim) for v in op.operands)


@pytest.mark.parametrize(
    "rule",
    [
        Rule(couple=ELEMENTWISE.couple, known=known_to_be_zero, live=nothing_read),
        Rule(couple=lambda site: (), live=ELEMENTWISE.live),
    ],
    ids=["facts", "coupling"],
)
def test_wrong_rule_of_tanh_gives_an_error_in_place_of_a_model(rule: Rule) -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    masks = {"0": rows(model[0], 1), "2": {"weight": torch.ones(5, 6)}}
    masks["2"]["weight"][:, 3] = 0
    small = materialize(plan_speedup(model, vectors(2), masks))
    assert small.get_submodule("0").out_features == 4
    rules = extended({torch.ops.aten.tanh.default: rule})
    with pytest.raises(EquivalenceError):
        materialize(plan_speedup(model, vectors(2), masks, rules=rules))


class FixedBatch(nn.Module):
    """Only takes two samples, which it mixes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 6)
        self.weight = nn.Parameter(torch.randn(2, 6))
        self.head = nn.Linear(6, 5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(x)) * self.weight) + x.view(2, 8)[:, :1]


def test_model_of_one_batch_size_is_compared_at_that_size_only() -> None:
    model = FixedBatch()
    plan = plan_speedup(model, vectors(2), {"layer": rows(model.layer, 0)})
    small: Any = materialize(plan)
    assert small.layer.out_features == 5
    assert verify(plan, small).batch_sizes == (2,)
    _nudge("head.weight", 0.1)(small)
    with pytest.raises(OutputError):
        verify(plan, small)


def test_inputs_without_a_common_batch_are_compared_at_their_sizes() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 5)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.layer(x).sum(0) + y.sum(0)

    plan = plan_speedup(Pair(), (torch.randn(2, 8), torch.randn(3, 5)))
    assert verify(plan, materialize(plan)).batch_sizes == (None,)


def test_rounding_in_single_precision_is_no_fault() -> None:
    model = Net().float()
    plan = plan_speedup(model, images().float(), {"first": rows(model.first, 0, 5)})
    found = verify(plan, materialize(plan))
    assert found.error is not None and found.error < 1e-4


def test_error_in_a_small_output_counts_by_its_own_size() -> None:
    """An output a million times smaller than the other one still has to be right."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 6).double()
            self.large, self.little = nn.Linear(6, 4).double(), nn.Linear(6, 4).double()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = F.relu(self.layer(x))
            return {"large": 1e6 * self.large(x), "little": 1e-6 * self.little(x)}

    model = Scaled()
    plan = plan_speedup(model, vectors(2), {"layer": rows(model.layer, 0)})
    small = materialize(plan)
    _nudge("little.weight", 1e-4)(small)
    with pytest.raises(OutputError, match=r"output\['little'\].*'little'"):
        verify(plan, small)


class Counting(nn.Module):
    """Writes to a buffer in its forward."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.steps.add_(1)
        return self.body(x) * self.steps


def test_verification_writes_to_no_buffer() -> None:
    model = Counting().double().eval()
    small = materialize(plan_speedup(model, torch.randn(2, 4, dtype=torch.float64)))
    assert small.steps == 0
    assert model.steps == 0


class Noting(nn.Module):
    """Notes the batch sizes that it runs at; what it returns varies little beside its size."""

    ran: ClassVar[list[int]] = []

    def __init__(self, *, sums: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 6)
        self.head = nn.Linear(6, 4)
        self.sums = sums
        nn.init.constant_(self.head.bias, 1e4)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            self.ran.append(len(x))
        found = self.head(torch.relu(self.layer(x)))
        return found.sum(0) if self.sums else found


def _noted(model: Noting) -> tuple[nn.Module, list[int]]:
    plan = plan_speedup(model, torch.randn(1, 8), {"layer": rows(model.layer, 0)})
    small = materialize(plan, verify="none")
    Noting.ran.clear()
    verify(plan, small)
    ran = sorted(Noting.ran)
    _nudge("head.bias", 0.5)(small)
    with pytest.raises(OutputError):
        verify(plan, small)
    return small, ran


def test_how_much_rows_vary_is_seen_on_the_batches_that_are_compared() -> None:
    assert _noted(Noting())[1] == [1, 1, 2, 2]


def test_how_much_outputs_without_rows_vary_is_seen_on_further_inputs() -> None:
    assert _noted(Noting(sums=True))[1] == [1, 1, 1, 2, 2, 2]


def _leaves(*shapes: tuple[int, ...]) -> Leaves:
    return [(f"[{n}]", torch.arange(float(prod(shape))).reshape(shape)) for n, shape in enumerate(shapes)]


def test_rows_of_another_batch_stand_beside_each_row() -> None:
    found = rows_like(_leaves((3, 2), (1, 3, 2)), _leaves((1, 2), (1, 1, 2)))
    assert found is not None
    assert [leaf.tolist() for _, leaf in found] == [[[0, 1]] * 3, [[[0, 1]] * 3]]
    narrowed = rows_like(_leaves((1, 2)), _leaves((3, 2)))
    assert narrowed is not None and narrowed[0][1].tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("one", "other"),
    [((2,), (2,)), ((1, 1), (2, 2)), ((1, 2), (2,)), ((2, 2), (3, 2)), ((1, 2), (0, 2))],
    ids=["no row", "two dimensions", "another rank", "two batches of several", "no rows at all"],
)
def test_outputs_without_a_row_for_each_input_are_not_compared_with_others(
    one: tuple[int, ...], other: tuple[int, ...]
) -> None:
    assert rows_like(_leaves(one), _leaves(other)) is None
