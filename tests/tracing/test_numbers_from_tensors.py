"""Numbers that a forward reads from tensors: known where the tensor is a constant, never lost."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedup import Plan, StructureError, apply_masks, materialize, plan_speedup, verify
from speedup.analyses import constants, liveness
from speedup.analyses.constants import settle_numbers
from speedup.engine.lattice import Fact
from speedup.errors import ExportError
from speedup.ir.evaluation import evaluate
from speedup.ir.expressions import Settled
from speedup.ir.graph import Graph, Op
from speedup.ir.inputs import example_from
from speedup.masks import resolve_masks
from speedup.rules import STANDARD, rule_of
from speedup.rules.rule import OPEN_NUMBER
from speedup.tracing.trace import trace_call
from tests.support.masking import Masks

Step: TypeAlias = Callable[[Any, Tensor], Tensor]

_DROPPED = (0, 4, 5)
# The buffer is made in single precision.
LOW = float(torch.tensor(0.7))


class Net(nn.Module):
    """Two convolutions, and between them a step that may read numbers from the model's tensors."""

    low: Tensor
    count: Tensor
    pair: Tensor

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 4, 1)
        self.mix = nn.Parameter(torch.randn(5))
        self.register_buffer("low", torch.tensor(0.7))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("pair", torch.tensor([1.3, 2.1]))
        self.stride = torch.tensor([2.0, 4.0])
        self.step, self.steps = step, 4
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.step(self, self.first(x)))


def images(batch: int = 2, extent: int = 8) -> Tensor:
    return torch.randn(batch, 3, extent, extent + 1, dtype=torch.float64)


def _rows(length: int, dropped: tuple[int, ...]) -> Tensor:
    mask = torch.ones(length)
    mask[list(dropped)] = 0
    return mask


def masked(*, bias: bool) -> Masks:
    """Channels of the first convolution dropped; with a bias left they are constants other than 0."""
    found: Masks = {"first": {"weight": _rows(10, _DROPPED).view(10, 1, 1, 1).expand(10, 3, 3, 3)}}
    if bias:
        found["first"]["bias"] = _rows(10, _DROPPED)
    return found


def error_of(model: nn.Module, masks: Any, small: nn.Module, *inputs: Tensor) -> float:
    """The largest difference over several calls, each model going on from what its last call left."""
    oracle, small = apply_masks(model, masks).eval(), copy.deepcopy(small).eval()
    with torch.no_grad():
        return max(float((oracle(x) - small(x)).abs().max()) for x in inputs)


def require_exact(model: nn.Module, masks: Any) -> Plan:
    """Plan, send the plan through JSON, and compare at the example's and at other sizes."""
    plan = plan_speedup(model, images(), masks)
    assert Plan.from_json(plan.to_json()) == plan
    small = materialize(plan, verify="structure")
    assert error_of(model, masks, small, images(), images(1), images(5), images(3, 11)) < 1e-9
    return plan


def unpacked(self: Net, y: Tensor) -> Tensor:
    scale, shift = self.pair.tolist()
    return y * scale + shift


def selected(self: Net, y: Tensor) -> Tensor:
    y = y.clone()
    y[:, 2] = self.low.item()
    return y


def rolled(self: Net, y: Tensor) -> Tensor:
    return torch.roll(y, (self.count.item(),), (1,))  # type: ignore[arg-type]


KNOWN: dict[str, Step] = {
    "clamp from below": lambda s, y: torch.clamp(y, min=s.low.item(), max=6.0),
    "clamp from above": lambda s, y: y.clamp(max=s.low.item()),
    "product": lambda s, y: y * s.low.item(),
    "an integer as a factor": lambda s, y: y * s.count.item(),
    "tolist": unpacked,
    "two items": lambda s, y: y * (s.pair[0].item() - s.pair[1].item() / s.low.item()),
    "integers and floats": lambda s, y: y * (s.low.item() * 2 + s.count.item() // 2 - s.count.item() / 7),
    "the remainder": lambda s, y: y * (s.count.item() % 2) + s.low.item() % 0.4,
    "a power": lambda s, y: y * s.low.item() ** 2 + 2 ** s.low.item(),
    "one over": lambda s, y: y * (1 / s.low.item()),
    "signs": lambda s, y: y * -s.low.item() + abs(-s.low.item()),
    "rounded": lambda s, y: y * round(s.low.item()) + math.floor(s.pair[1].item()) * math.ceil(s.low.item()),
    "the larger one": lambda s, y: y * torch.sym_max(s.low.item(), s.count.item()),
    "a root": lambda s, y: y * torch._sym_sqrt(s.low.item()),  # type: ignore[attr-defined]
    "a comparison": lambda s, y: y + torch.sym_not(s.low.item() > 1),
    "full": lambda s, y: y * torch.full((1, 1, 1, 1), s.stride[0]),
    "scalar_tensor": lambda s, y: y + torch.scalar_tensor(s.low.item(), dtype=torch.float64),
    "a new tensor": lambda s, y: y * torch.tensor([s.low.item(), 2.0], dtype=torch.float64).sum(),
    "leaky_relu": lambda s, y: F.leaky_relu(y, s.low.item()),
    "masked_fill": lambda s, y: y.masked_fill(y > 0, s.low.item()),
    "where": lambda s, y: torch.where(y > s.low.item(), y, 0.0),
    "a multiple added": lambda s, y: y.add(y.relu(), alpha=s.low.item()),
    "threshold": lambda s, y: F.threshold(y, s.low.item(), 0.2),
    "softplus": lambda s, y: F.softplus(y, beta=s.low.item()),
    "lerp": lambda s, y: torch.lerp(y, y * 2, s.low.item()),
    "roll": lambda s, y: y.roll(s.count.item(), 2),
    "a number of the module": lambda s, y: y * (s.count.item() * s.steps) + s.steps / s.low.item(),
    "of no buffer": lambda s, y: y * s.stride[1].item(),
}

KEPT: dict[str, Step] = {
    "over the largest": lambda s, y: torch.round(y / y.abs().max().item() * 127),
    "plus the mean": lambda s, y: y + y.mean().item(),
    "full of the mean": lambda s, y: y + torch.full((1, 1, 1, 1), y.mean().item()),
    "as many of the mean": lambda s, y: y * torch.full(y.shape, y.mean().item()),
    "clamp at the mean": lambda s, y: y.clamp(max=y.mean().item()),
    "masked_fill with the mean": lambda s, y: y.masked_fill(y > 0, y.mean().item()),
    "softplus of the mean": lambda s, y: F.softplus(y, beta=y.abs().mean().item()),
    "channels rolled by a constant": rolled,
    "rolled by a sum": lambda s, y: y.roll((y > 0).sum().item(), 3),  # type: ignore[arg-type]
    "channels rolled by a sum": lambda s, y: y.roll((y > 0).sum().item(), 1),  # type: ignore[arg-type]
    "written into a channel": selected,
}

OUT_OF_SIGHT: dict[str, Step] = {
    "float": lambda s, y: y * float(s.low),
    "int": lambda s, y: y * int(s.count),
    "pad": lambda s, y: F.pad(y, (1, 1, 1, 1), value=s.low.item()),
    "a branch": lambda s, y: y if s.low.item() > 0 else -y,
    "a slice": lambda s, y: y[:, :, : s.count.item()],
}


@pytest.mark.parametrize("bias", [True, False], ids=["zeros", "constants"])
@pytest.mark.parametrize("name", KNOWN)
def test_a_number_of_a_constant_tensor_is_known(name: str, bias: bool) -> None:
    plan = require_exact(Net(KNOWN[name]), masked(bias=bias))

    assert plan.parameters_after < plan.parameters_before
    assert not plan.report.unknown_operators


@pytest.mark.parametrize("bias", [True, False], ids=["zeros", "constants"])
@pytest.mark.parametrize("name", KEPT)
def test_numbers_that_may_keep_channels_are_never_lost(name: str, bias: bool) -> None:
    require_exact(Net(KEPT[name]), masked(bias=bias))


@pytest.mark.parametrize("name", OUT_OF_SIGHT)
def test_what_cannot_be_traced_with_its_numbers_stays_as_it_is(name: str) -> None:
    require_exact(Net(OUT_OF_SIGHT[name]), masked(bias=False))


@pytest.mark.parametrize(
    "step",
    [
        lambda s, y: y * (s.count.item() * y.shape[1]),
        lambda s, y: y + s.count.item() * y.shape[0],
        lambda s, y: y + s.low.item() * y.shape[3],
        lambda s, y: y + y.shape[2] / s.low.item(),
        lambda s, y: y + torch.sym_float(y.shape[2]) * s.low.item(),
    ],
    ids=["channels", "batch", "as a float", "over a number", "sym_float"],
)
def test_sizes_in_arithmetic_with_numbers_follow_the_input(step: Step) -> None:
    require_exact(Net(step), masked(bias=False))


def test_a_number_is_that_of_the_masked_tensor() -> None:
    model = Net(lambda s, y: y + s.mix.sum().item())

    plan = require_exact(model, masked(bias=False) | {"mix": _rows(5, (1, 3))})

    assert plan.parameters_after < plan.parameters_before


def test_what_a_known_number_is_computed_from_stays_right() -> None:
    """The small model computes the number anew, from the parameters that it has."""
    model = Net(lambda s, y: y * s.first.bias.sum().item() + s.first.weight.abs().amax().item())

    require_exact(model, masked(bias=True))
    require_exact(model, masked(bias=False))


def written_after(self: Net, y: Tensor) -> Tensor:
    found = y * self.low.item()
    self.low.add_(1)
    return found


def written_through_a_view(self: Net, y: Tensor) -> Tensor:
    found = y + self.pair[0].item()
    self.pair[0].add_(y.mean())
    return found


def replaced(self: Net, y: Tensor) -> Tensor:
    found = y + self.low.item()
    self.low = self.low + 1
    return found


@pytest.mark.parametrize("step", [written_after, written_through_a_view, replaced])
def test_a_number_of_state_that_the_forward_writes_is_unknown(step: Step) -> None:
    model = Net(step)
    require_exact(model, masked(bias=True))
    require_exact(model, masked(bias=False))

    graph = trace_call(model, example_from(images())).graph

    assert len(graph.written) == 1
    assert not facts_of(model)[numbers(graph)[0].index].is_all_known()


class Returning(Net):
    """Returns numbers beside its tensor."""

    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        assert self.first.bias is not None
        return self.second(y), y.abs().max().item(), self.first.bias.sum().item()


def test_numbers_that_are_returned_are_needed() -> None:
    model, masks, x = Returning(lambda s, y: y), masked(bias=False), images(3)
    small = materialize(plan_speedup(model, images(), masks))

    with torch.no_grad():
        expected, got = apply_masks(model, masks)(x), small(x)

    assert float((expected[0] - got[0]).abs().max()) < 1e-9
    assert expected[1:] == pytest.approx(got[1:], abs=1e-9)


def test_another_number_in_the_small_model_is_noticed() -> None:
    """Verification compares the op that reads the number and the one that gets it."""
    model = Net(lambda s, y: y * s.low.item())
    other: Any = Net(lambda s, y: y * 0.7)
    plan = plan_speedup(model, images(), masked(bias=True))

    verify(plan, materialize(plan))
    small: Any = materialize(plan, verify="none")
    small.step = other.step

    with pytest.raises(StructureError, match="item"):
        verify(plan, small)


def facts_of(model: nn.Module) -> tuple[Fact, ...]:
    traced = trace_call(model, example_from(images()))
    return constants.find_constants(traced.graph, traced.tensors, resolve_masks(model, None), STANDARD)


def numbers(graph: Graph) -> list[Any]:
    return [v for v in graph.values if v.is_number]


def named(graph: Graph, name: str) -> Op:
    return next(op for op in graph.ops if op.name == name)


def test_numbers_are_operands_of_the_ops_that_get_them() -> None:
    model = Net(lambda s, y: y.clamp(min=s.low.item(), max=y.mean().item()).roll((s.count.item(),), (2,)))
    graph = trace_call(model, example_from(images())).graph
    facts = facts_of(model)
    low, mean, count = numbers(graph)

    assert [v.dtype for v in (low, mean, count)] == [torch.float64, torch.float64, torch.int64]
    assert named(graph, "clamp").operands[1:] == (low, mean)
    assert named(graph, "roll").arguments["shifts"] == (count,)
    assert [facts[v.index].is_all_known() for v in (low, mean, count)] == [True, False, True]
    assert float(facts[low.index].value) == pytest.approx(0.7)


def test_known_numbers_stand_in_the_graph_that_rules_see() -> None:
    model = Net(lambda s, y: y.clamp(min=s.low.item(), max=y.mean().item()).roll((s.count.item(),), (2,)))
    graph = trace_call(model, example_from(images())).graph
    seen = settle_numbers(graph, facts_of(model))
    low, mean, _ = numbers(graph)

    assert named(seen, "clamp").arguments["min"] == Settled(low, LOW)
    assert named(seen, "clamp").operands[1:] == (mean,)
    assert named(seen, "roll")["shifts"] == (3,)
    assert settle_numbers(seen, facts_of(model)) == seen


def test_rules_that_cannot_read_an_unknown_number_keep_everything() -> None:
    model = Net(
        lambda s, y: y.roll((y > 0).sum().item(), 2).clamp(max=y.mean().item())  # type: ignore[arg-type]
    )
    graph = trace_call(model, example_from(images())).graph

    assert rule_of(named(graph, "roll"), STANDARD) is OPEN_NUMBER
    assert rule_of(named(graph, "clamp"), STANDARD) is not OPEN_NUMBER
    assert rule_of(named(graph, "conv2d"), STANDARD) is STANDARD[torch.ops.aten.conv2d]


def test_operators_run_with_plain_numbers() -> None:
    model = Net(lambda s, y: y.clamp(min=s.low.item()) * s.count.item())
    graph = trace_call(model, example_from(images())).graph
    y = torch.tensor([-1.0, 2.0], dtype=torch.float32)

    (clamped,) = evaluate(named(graph, "clamp"), [y, torch.tensor(0.5, dtype=torch.float64)])
    (product,) = evaluate(named(graph, "mul"), [y.int(), torch.tensor(3)])
    (read,) = evaluate(named(graph, "item"), [torch.tensor(0.25)])

    assert clamped.tolist() == [0.5, 2.0] and clamped.dtype == torch.float32
    assert product.tolist() == [-3, 6] and product.dtype == torch.int32
    assert float(read) == 0.25 and read.dtype == torch.float64


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda s, y: y * (s.count.item() / 7), 3 / 7),
        (lambda s, y: y * (s.count.item() // -2), 3 // -2),
        (lambda s, y: y * (-s.low.item() % 0.4), -LOW % 0.4),
        (lambda s, y: y * (s.count.item() ** 2 + (s.count.item() << 3)), 33),
        (lambda s, y: y * (0.1 - s.low.item()), 0.1 - LOW),
        (lambda s, y: y * round(s.pair[1].item()), 2),
        (lambda s, y: y * math.trunc(s.pair[1].item() * -1), -2),
    ],
    ids=["division", "floor", "remainder", "integers", "a literal first", "round", "trunc"],
)
def test_arithmetic_is_that_of_python(step: Step, expected: float) -> None:
    """In double precision, whatever types the tensors have."""
    model = Net(step)
    graph = trace_call(model, example_from(images())).graph
    product = next(op for op in reversed(graph.ops) if op.name == "mul" and not op.result.is_number)

    found = facts_of(model)[product.operands[-1].index].value.item()

    assert found == pytest.approx(expected, rel=1e-15, abs=0) and type(found) is type(expected)


def test_checks_that_export_adds_are_no_ops_of_the_graph() -> None:
    """What it asserts of a number names extents of the example."""
    model = Net(lambda s, y: y + torch.zeros(3, dtype=torch.float64)[: (y > 0).sum().item()].sum())
    with pytest.raises(ExportError, match="depends on the data"):
        trace_call(model, example_from(images()))

    graph = trace_call(Net(checked), example_from(images())).graph

    assert [op.name for op in graph.ops] == ["conv2d", "item", "mul", "conv2d"]


def checked(self: Net, y: Tensor) -> Tensor:
    number = self.count.item()
    torch._check(number >= 1)
    torch._check(number <= 10)
    return y * number


def test_results_that_no_graph_can_hold_are_refused_where_they_are_used() -> None:
    model = Net(lambda s, y: y * round(y.mean().item(), 1))

    with pytest.raises(ExportError):
        trace_call(model, example_from(images()))
    require_exact(model, masked(bias=False))


def test_liveness_reaches_through_numbers() -> None:
    model = Net(lambda s, y: y * s.mix.sum().item())
    traced = trace_call(model, example_from(images()))
    facts = constants.find_constants(traced.graph, traced.tensors, resolve_masks(model, None), STANDARD)
    lives = liveness.find_liveness(traced.graph, facts, STANDARD)
    mix = next(v for v in traced.graph.state if v.name == "mix")

    assert bool(lives[mix.index].all())
