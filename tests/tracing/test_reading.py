"""Python that reads the model's own tensors, and `.data` of what it computes, do not end a trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedup import OtherWeightsError, Plan, StaleModelError, apply_masks, materialize, plan_speedup
from speedup.errors import ExportError
from speedup.ir.inputs import example_from
from speedup.tracing.trace import trace_call

Step: TypeAlias = Callable[[Any, Tensor], Tensor]
DROPPED = (0, 4, 5)


class Net(nn.Module):
    """Two convolutions and a step between them, which may read the tensors that the model holds."""

    scale: Tensor
    rounds: Tensor
    table: Tensor
    chosen: Tensor
    steps: Tensor

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 4, 1)
        self.gains = nn.Parameter(torch.linspace(0.5, 1.5, 10))
        self.register_buffer("scale", torch.tensor(3.0))
        self.register_buffer("rounds", torch.tensor(2))
        self.register_buffer("table", torch.tensor([1.0, 0.5, 2.0]))
        self.register_buffer("chosen", torch.tensor([True, False, True]))
        self.register_buffer("steps", torch.tensor(0))
        self.loose = torch.tensor([1.0, 2.0])
        self.step = step
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.step(self, F.relu(self.first(x))))


def images(batch: int = 2, extent: int = 8) -> Tensor:
    return torch.randn(batch, 3, extent, extent + 1, dtype=torch.float64)


def rows(dropped: tuple[int, ...] = DROPPED) -> Tensor:
    mask = torch.ones(10)
    mask[list(dropped)] = 0
    return mask


MASKS = {"first": {"weight": rows().view(10, 1, 1, 1), "bias": rows()}}


def require_exact(model: nn.Module, masks: Any = MASKS) -> tuple[Plan, Any]:
    """Plan, through JSON, and compare after several calls each, at the example's and at other sizes."""
    plan = plan_speedup(model, images(), masks)
    assert Plan.from_json(plan.to_json()) == plan == plan_speedup(model, images(), masks)
    small: Any = materialize(plan)
    oracle, tried = apply_masks(model, masks).eval(), copy.deepcopy(small).eval()
    with torch.no_grad():
        for x in (images(), images(1), images(5), images(3, 11)):
            expected = oracle(x)
            assert float((expected - tried(x)).abs().max()) < 1e-9 * max(float(expected.std()), 1)
    return plan, small


def rectified(self: Net, y: Tensor) -> Tensor:
    z = y - 0.3
    z.data.clamp_(min=0)
    return z


def multiplied(self: Net, y: Tensor) -> Tensor:
    for number in self.table:
        y = y * float(number)
    return y


def counted_up(self: Net, y: Tensor) -> Tensor:
    total = torch.zeros(2)
    total[0] += 3
    return y * 2 if float(total.sum()) > 2 else y.mean(1, keepdim=True) + y * 0


DATA: dict[str, Step] = {
    "of an activation": lambda s, y: y.data * 2,
    "of a sum": lambda s, y: (y + 1 - 1).data,
    "of data": lambda s, y: y.data.data,
    "straight through": lambda s, y: y + (torch.round(y) - y).data,
    "straight through with a sign": lambda s, y: (torch.sign(y) - y).data + y,
    "of a largest value": lambda s, y: y - y.amax((2, 3), keepdim=True).data * 0.1,
    "of a view": lambda s, y: y.view(y.shape[0], y.shape[1], -1).data.view_as(y),
    "of a parameter": lambda s, y: y * s.gains.data.view(1, -1, 1, 1),
    "written in place": rectified,
}

READ: dict[str, Step] = {
    "float": lambda s, y: y * float(s.scale),
    "int": lambda s, y: y * int(s.rounds),
    "a branch": lambda s, y: y if s.scale > 0 else -y,
    "a branch on all": lambda s, y: y if (s.table > 0).all() else -y,
    "any": lambda s, y: y if s.chosen.any() else y.mean(1, keepdim=True).expand_as(y),
    "rounds": lambda s, y: sum((y for _ in range(int(s.rounds))), start=y),
    "a check of a parameter": lambda s, y: y * 0 if torch.isnan(s.gains).any() else y,
    "an item of a parameter": lambda s, y: y if s.gains[2].item() > 0.1 else -y,
    "rounds by an item": lambda s, y: sum((y for _ in range(s.rounds.item())), start=y),
    "a list": lambda s, y: y * sum(s.table.tolist()) if s.table.tolist()[1] < 1 else y,
    "numpy": lambda s, y: y * float(np.sum(s.table.cpu().numpy())),
    "an array": lambda s, y: y * float(np.asarray(s.table).max()),
    "nonzero": lambda s, y: y * len(torch.nonzero(s.chosen)),
    "one by one": multiplied,
    "what is computed": lambda s, y: y * float((s.table * s.scale).sum().sqrt()),
    "bool": lambda s, y: y * 2 if bool(s.rounds) else y,
    "contained": lambda s, y: y * 2 if 0.5 in s.table else y,
    "equal": lambda s, y: y * 2 if torch.equal(s.table, s.table * 1) else y,
    "a text": lambda s, y: y * len(f"{s.scale:.3f}"),
    "unique": lambda s, y: y * torch.unique(s.table).shape[0],
    "selected": lambda s, y: y * s.table[s.chosen].sum(),
    "no buffer": lambda s, y: y * float(s.loose.sum()) if s.loose[0] > 0 else y,
    "constants": lambda s, y: y.mean(torch.arange(2, y.ndim).tolist(), keepdim=True) + y,
    "a constant that is written": counted_up,
}


@pytest.mark.parametrize("name", DATA)
def test_data_is_followed_like_what_is_detached(name: str) -> None:
    plan, small = require_exact(Net(DATA[name]))

    assert small.second.in_channels == 7 and not plan.report.islands


@pytest.mark.parametrize("name", READ)
def test_python_gets_the_numbers_of_state(name: str) -> None:
    plan, small = require_exact(Net(READ[name]))

    assert small.second.in_channels == 7 and not plan.report.islands


class Selecting(Net):
    """Reads, by numpy, which channels to go on with (network slimming's channel selection)."""

    def __init__(self) -> None:
        super().__init__(lambda s, y: y)
        self.indexes = nn.Parameter(torch.ones(10, dtype=torch.float64))
        self.second = nn.Conv2d(7, 4, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        chosen = np.squeeze(np.argwhere(self.indexes.data.cpu().numpy()))
        return self.second(y[:, chosen, :, :])


def test_python_gets_the_numbers_of_the_masked_model() -> None:
    """Under other numbers the forward would not even run."""
    masks = {**MASKS, "": {"indexes": rows((1, 2, 9))}}

    _, small = require_exact(Selecting(), masks)

    # Of the seven that are selected four are not zero.
    assert small.first.out_channels == 4 and small.second.in_channels == 4


@pytest.mark.parametrize("name", ["float", "a branch"])
def test_what_python_read_is_relied_on_and_said(name: str) -> None:
    model = Net(READ[name])
    plan = plan_speedup(model, images(), MASKS)
    assert plan.assumptions == ("'scale' keeps its numbers: Python code of the forward reads them",)
    assert "scale" not in plan.subject.value_independent and "table" in plan.subject.value_independent

    other = copy.deepcopy(model)
    other.table.mul_(2)
    materialize(plan, other)
    other.scale.neg_()
    with pytest.raises(OtherWeightsError, match="'scale'"):
        materialize(plan, other)

    model.scale.neg_()
    with pytest.raises(StaleModelError, match="scale"):
        materialize(plan)


def test_what_python_read_stays_whole() -> None:
    """A parameter may be cut; one whose numbers Python reads may not."""
    model = Net(lambda s, y: y * s.gains.view(1, -1, 1, 1) * float(s.gains.sum()))

    _, small = require_exact(model)

    assert small.gains.shape == (10,) and torch.equal(small.gains, model.gains)


class Gate(nn.Module):
    """Branches on a number of its own."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(3.0))

    def forward(self, y: Tensor) -> Tensor:
        return y * float(self.scale) if self.scale > 2 else y.mean(1, keepdim=True) + y * 0


class Stating(Net):
    """States its channels as a number; what it holds reads state."""

    def __init__(self) -> None:
        super().__init__(lambda s, y: y)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        return self.second(self.gate(y.view(x.shape[0], 10, x.shape[2], x.shape[3])))


def test_numbers_are_read_where_the_source_is_rewritten() -> None:
    _, small = require_exact(Stating())

    assert small.second.in_channels == 7


class Outer(nn.Module):
    """Branches on its data, and so is descended into."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Net(READ["a branch"])

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() > 1e9 else self.inner(x * 2)


def test_parts_of_a_model_read_their_own_numbers() -> None:
    masks = {"inner.first": MASKS["first"]}

    plan, small = require_exact(Outer(), masks)

    assert [one.path for one in plan.report.islands] == ["inner"] and small.inner.second.in_channels == 7
    assert any("'inner.scale' keeps its numbers" in line for line in plan.assumptions)


class Sometimes(Net):
    """Writes, in the one kind of call, what it reads in the other."""

    def forward(self, x: Tensor, is_told: bool = False) -> Tensor:
        if is_told:
            self.scale.copy_(x.mean())
            return self.second(F.relu(self.first(x)))
        return self.second(self.step(self, F.relu(self.first(x))))


def test_what_another_call_writes_is_not_read() -> None:
    model = Sometimes(READ["float"])

    plan = plan_speedup(model, images(), MASKS, others=[(images(), True)])

    assert plan.report.islands and not plan.assumptions


def counting(self: Net, y: Tensor) -> Tensor:
    self.steps += 1
    return y if self.steps < 3 else -y


def counting_late(self: Net, y: Tensor) -> Tensor:
    late = bool(self.steps >= 2)
    self.steps.add_(1)
    return -y if late else y


def replaced(self: Net, y: Tensor) -> Tensor:
    late = float(self.steps)
    self.steps = self.steps + 1
    return y * late


@pytest.mark.parametrize("step", [counting, counting_late, replaced])
def test_what_the_forward_writes_is_not_read(step: Step) -> None:
    """The next call finds another number."""
    model = Net(step)
    with pytest.raises(ExportError):
        trace_call(model, example_from(images()))

    plan, _ = require_exact(model)

    assert "" in [one.path for one in plan.report.outside]


def test_numbers_of_sizes_that_python_reads_may_be_others() -> None:
    """As many numbers as there are columns: where there are more of these, all channels count."""

    def widest(self: Net, y: Tensor) -> Tensor:
        is_narrow = int(torch.arange(y.shape[3]).max()) < 9
        return y * 2 if is_narrow else y.softmax(1)

    _, small = require_exact(Net(widest))

    assert small.second.in_channels == 10


def test_numbers_that_follow_the_input_are_not_read() -> None:
    for step in (lambda s, y: y if y.sum() > 0 else -y, lambda s, y: y * float(torch.rand(()) > 2)):
        with pytest.raises(ExportError):
            trace_call(Net(step), example_from(images()))
