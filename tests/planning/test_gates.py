"""Channels that only a gate tells from constants: they are not computed, what they add is kept."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from speedup import Plan, apply_masks, load, materialize, plan_speedup, save
from speedup.errors import PlanFormatError
from speedup.ir.edits import NewBias
from speedup.lowerings.gate_rows import GateRows, gate_rows
from tests.support.lively import make_lively
from tests.support.lowered import (
    are_alike,
    expressions,
    images,
    require_any_batch_and_compiled_whole,
    require_exact,
    require_refused,
    require_same_in_channels_last,
    require_traced_by_fx,
    rewritten,
    sources,
)
from tests.support.masking import Masks, rows
from tests.support.measure import relative_error

WIDE, GONE, NARROW = 96, 48, 16
LOWERINGS = ("carriers", "gates")
SIZES = (64, 33, 5, 1)


class Gate(nn.Module):
    """Squeeze and excitation; `scale` says how the gate and the channels come together."""

    def __init__(self, wide: int = WIDE) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(wide, 6, 1), nn.Conv2d(6, wide, 1)

    def gate(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.gate(x)
        return scale * x


class RowsFirst(Gate):
    """As timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class ByFunction(Gate):
    def forward(self, x: Tensor) -> Tensor:
        return torch.mul(self.gate(x), x)


class ByMethod(Gate):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x).mul(self.gate(x))


class Expanded(Gate):
    """As the first implementations write it."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(WIDE, 6), nn.Linear(6, WIDE)

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        y = torch.sigmoid(self.excite(F.relu(self.squeeze(y)))).view(b, c, 1, 1)
        return x * y.expand_as(x)


class Spread(Gate):
    """The channels tell how often the gate is repeated, and are not read for that."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x).expand_as(x)


class InPlace(Gate):
    """Of what a layer of its own has made."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Conv2d(WIDE, WIDE, 1, groups=WIDE)

    def forward(self, x: Tensor) -> Tensor:
        x = self.own(x)
        x *= self.gate(x)
        return x


class OneForAll(Gate):
    """A gate that all samples have in common."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.gate(x).mean(0, keepdim=True)
        return x * scale


class Network(nn.Module):
    """A gate behind a depthwise convolution, between two that read and make all channels."""

    def __init__(self, gate: nn.Module, last: nn.Module | None = None, pad: int = 1) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 2 * NARROW, 3, padding=1), nn.Conv2d(2 * NARROW, WIDE, 1)
        self.depthwise = nn.Conv2d(WIDE, WIDE, 3, padding=pad, groups=WIDE)
        self.gate, self.last = gate, last or nn.Conv2d(WIDE, NARROW, 1)
        self.head = nn.LazyLinear(5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.depthwise(F.silu(self.first(F.relu(self.stem(x))))))
        result: Tensor = self.head(self.last(self.gate(x)).mean((2, 3)))
        return result


def masked(model: nn.Module, *names: str, example: Tensor | None = None) -> tuple[nn.Module, Masks]:
    """In float64 and lively, with half of the rows of the layers `names` (the first one) masked."""
    x = images(16, 8, 3).float() if example is None else example.float()
    model(x)
    generator = torch.Generator().manual_seed(1)
    masks = {}
    for name in names or ("first",):
        gone = torch.randperm(WIDE, generator=generator)[:GONE].tolist()
        masks[name] = {"weight": rows(model.get_submodule(name), *gone)["weight"]}
    make_lively(model, x, seed=5, recipe=lambda _: masks)
    return model.double().eval(), masks


def planned(model: nn.Module, masks: Masks, x: Tensor | None = None) -> tuple[Plan, Plan]:
    """Without gates, and with them."""
    x = images(64, 2, 0) if x is None else x
    x = x.to(next(model.parameters()).dtype)
    without = plan_speedup(model, x, masks, lowerings={"carriers"})
    return without, plan_speedup(model, x, masks, lowerings=set(LOWERINGS))


def extent(small: nn.Module, name: str, dim: int = 0) -> int:
    """The size of a parameter along `dim`."""
    return small.get_parameter(name).shape[dim]


@pytest.mark.parametrize(
    "gate", [Gate, RowsFirst, ByFunction, ByMethod, Spread, InPlace, OneForAll], ids=lambda c: c.__name__
)
def test_channels_behind_a_gate_go_however_it_is_written(gate: Callable[[], nn.Module]) -> None:
    model, masks = masked(Network(gate()))
    without, plan = planned(model, masks)
    assert rewritten(without) == [] and rewritten(plan) == ["gate"]
    small = require_exact(plan, model, masks, SIZES)
    # Nine classes of positions, or fifteen where both ends meet, are all that tells constants apart.
    assert extent(small, "first.weight") == extent(small, "last.weight", 1) <= WIDE - GONE + 16
    assert plan.report.macs[1] < without.report.macs[1]


@pytest.mark.parametrize("gate", [Gate, Expanded], ids=lambda c: c.__name__)
def test_where_there_are_no_borders_one_channel_carries_all(gate: Callable[[], nn.Module]) -> None:
    model, masks = masked(Network(gate(), pad=0))
    small = require_exact(planned(model, masks)[1], model, masks, (64, 33, 5))
    assert extent(small, "first.weight") == WIDE - GONE + 1


class Conditioned(nn.Module):
    """A gate that something else than the channels decides, along the last dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.told = nn.Linear(3, WIDE), nn.Linear(WIDE, NARROW), nn.Linear(3, WIDE)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.tanh(self.told(x.mean(1, keepdim=True)))
        result: Tensor = self.second(F.gelu(self.first(x)) * gate)
        return result


def test_the_last_dimension_may_list_the_channels() -> None:
    x = torch.randn(2, 4096, 3, generator=torch.Generator().manual_seed(0)).double()
    model, masks = masked(Conditioned(), example=x)
    plan = planned(model, masks, x)[1]
    small = materialize(plan)
    assert extent(small, "first.weight") == extent(small, "second.weight", 1) == WIDE - GONE + 1
    assert extent(small, "told.weight") == WIDE
    for batch, length in ((1, 7), (3, 4097)):
        calls = [(torch.randn(batch, length, 3).double(),) for _ in range(2)]
        assert relative_error(apply_masks(model, masks), small, calls) < 1e-9


class Widened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(WIDE, 4, 1, stride=2), nn.Conv2d(WIDE, 4, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.other(x)], 1)


@pytest.mark.parametrize(
    "last",
    [Widened, lambda: nn.Conv2d(WIDE, 2, 3, padding=1), lambda: nn.Conv2d(WIDE, 5, (1, 3), bias=False)],
    ids=["two readers", "a padded window", "no bias"],
)
def test_all_that_reads_the_channels_is_made_up_for(last: Callable[[], nn.Module]) -> None:
    model, masks = masked(Network(Gate(), last()))
    plan = planned(model, masks)[1]
    assert rewritten(plan) == ["gate"]
    require_exact(plan, model, masks, (64, 33, 5))


def test_rows_that_go_from_the_reader_need_no_making_up_for() -> None:
    model, masks = masked(Network(Gate()))
    masks["last"] = rows(model.get_submodule("last"), 0, 3)
    plan = planned(model, masks)[1]
    require_exact(plan, model, masks, SIZES)
    (held,) = (e.value.tensor for e in plan.edits if isinstance(e, NewBias) and e.attribute == "gated_rows")
    (choice,) = (c for c in plan.report.choices if c.lowering == "gates")
    assert held.shape[1] == choice.channels
    small = materialize(plan)
    assert held.shape[0] < extent(small, "last.weight") + 17


def test_constants_behind_the_gate_help_those_that_are_none() -> None:
    """Where the gate is constant too; those have to be made up for by channels of their own kind."""
    model, masks = masked(Network(Gate()), "first", "gate.up")
    small = require_exact(planned(model, masks)[1], model, masks, SIZES)
    assert extent(small, "first.weight") <= WIDE - GONE + 18


class BesideAFill(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(WIDE, NARROW, 1), nn.Conv2d(NARROW, WIDE, 3, padding=1)
        self.norm, self.third = nn.GroupNorm(4, WIDE), nn.Conv2d(WIDE, NARROW, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.third(self.norm(self.second(self.first(x))))
        return result


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = Network(Gate(), BesideAFill())
        self.before = nn.Sequential(
            nn.Conv2d(3, WIDE, 7, padding=3), nn.GroupNorm(4, WIDE), nn.Conv2d(WIDE, 3, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x + self.before(x))
        return result


def test_constants_are_put_in_elsewhere_in_the_same_network() -> None:
    """The copies that stand for these come before some ops and after others."""

    model, masks = masked(Both(), "network.first", "network.last.second", "before.0")
    plan = plan_speedup(model, images(64, 2, 0), masks)
    taken = {(c.lowering, c.path) for c in plan.report.choices if not c.why_not}
    assert taken >= {("gates", "network.gate"), ("fills", "network.last.norm"), ("fills", "before.1")}
    assert "network.gate" in rewritten(plan)
    require_exact(plan, model, masks, (64, 33, 5))


class OfPositions(Gate):
    """A factor for each position too."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x))))


class Returned(nn.Module):
    """The channels behind the gate beside what is made of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Conv2d(3, WIDE, 1), Gate(), nn.Conv2d(WIDE, NARROW, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.gate(F.silu(self.first(x)))
        return x, self.last(x)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.GroupNorm(4, WIDE), nn.Conv2d(WIDE, NARROW, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.norm(x))
        return result


class AlsoNormed(Normed):
    """A norm and a layer read the channels."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(x) + self.norm(x)[:, :NARROW]
        return result


class AlsoSummed(AlsoNormed):
    """A sum without weights and a layer read them."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(x) + x.sum(1, keepdim=True)
        return result


class Called(nn.Module):
    """One gate for two sets of channels, in one of which other ones are constant."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.other = Gate(), nn.Conv2d(WIDE, WIDE, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.own(x)) + self.own(self.other(x))


@pytest.mark.parametrize(
    "model",
    [
        lambda: Network(OfPositions()),
        Returned,
        lambda: Network(Gate(), Normed()),
        lambda: Network(Gate(), AlsoNormed()),
        lambda: Network(Gate(), AlsoSummed()),
        lambda: Network(Gate(), nn.Conv2d(WIDE, WIDE, 3, padding=1, groups=WIDE)),
        lambda: Network(Called()),
    ],
    ids=[
        "a factor for each position",
        "the model returns them",
        "a norm",
        "a norm too",
        "a sum too",
        "a depthwise layer",
        "two calls",
    ],
)
def test_what_has_to_stay(model: Callable[[], nn.Module]) -> None:
    network, masks = masked(model())
    without, plan = planned(network, masks)
    assert plan.edits == without.edits
    assert not any(choice.lowering == "gates" and not choice.why_not for choice in plan.report.choices)


def test_weights_that_cannot_express_those_that_go_keep_them() -> None:
    """More rows than columns that stay."""
    model, masks = masked(Network(Gate(), nn.Conv2d(WIDE, WIDE + NARROW, 1)))
    without, plan = planned(model, masks)
    assert plan.edits == without.edits
    (choice,) = (c for c in plan.report.choices if c.lowering == "gates")
    assert choice.why_not == "weights of the channels that stay cannot express those that go"


def test_it_is_not_taken_where_it_does_not_pay() -> None:
    model, masks = masked(Network(Gate()))
    without, plan = planned(model, masks, images(8, 2, 0))
    assert plan.edits == without.edits
    (choice,) = (c for c in plan.report.choices if c.lowering == "gates")
    assert choice.why_not == "that saves less than putting together what they add costs"
    assert choice.channels > 0 and choice.macs == 0


def test_macs_are_those_that_the_helper_does() -> None:
    model, masks = masked(Network(Gate()))
    plan = planned(model, masks)[1]
    small, calls = materialize(plan), list[tuple[Any, ...]]()
    (layer,) = (layer for layer in plan.report.layers if layer.path == "gate")
    small.get_submodule("gate").register_forward_pre_hook(lambda _, given: calls.append(given))
    small(images(64, 2, 0))
    with FlopCounterMode(display=False) as counter:
        small.get_submodule("gate")(*calls[0])
    assert layer.macs_before == 0
    within = sum(one.macs_after for one in plan.report.layers if one.path.startswith("gate"))
    assert counter.get_total_flops() == 2 * within > 2 * layer.macs_after > 0


def test_the_small_model_is_native(tmp_path: Path) -> None:
    model, masks = masked(Network(Gate()))
    plan = planned(model, masks)[1]
    small = materialize(plan)
    assert "return gate_rows(scale, x, 1, [" in sources(plan) and ", self.gated_rows)" in sources(plan)
    require_same_in_channels_last(materialize(plan))
    require_any_batch_and_compiled_whole(small)
    require_traced_by_fx(small, gate_rows)
    path = tmp_path / "small.safetensors"
    save(small, plan, path)
    again = load(path, lambda: masked(Network(Gate()))[0])
    assert torch.equal(again(images(33, 2, 1)), small(images(33, 2, 1)))
    assert Plan.from_json(plan.to_json()) == plan
    small.train()(images(16, 2, 1)).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in small.parameters())


def test_single_precision_is_as_good_as_before() -> None:
    model, masks = masked(Network(Gate()))
    model = model.float()
    x = images(64, 4, 7).float()
    wanted = apply_masks(model.double(), masks)(x.double())
    model = model.float()
    with torch.no_grad():
        own = float((apply_masks(model, masks)(x) - wanted).abs().max())
        found = float((materialize(planned(model, masks)[1])(x) - wanted).abs().max())
    assert found < 4 * own


def test_under_autocast_it_runs_in_the_types_that_the_model_does() -> None:
    model, masks = masked(Network(Gate()))
    model = model.float()
    small, x = materialize(planned(model, masks)[1]), images(33, 2, 7).float()
    exact = apply_masks(model, masks)(x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, wanted = small(x), apply_masks(model, masks)(x)
    assert found.dtype is wanted.dtype
    masked_error = float((wanted.float() - exact).abs().max())
    assert float((found.float() - exact).abs().max()) < 4 * masked_error


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("gate_rows(scale, x,", "gate_rows(scale, self,"),
        lambda text: text.replace("self.gated_rows", "self.up"),
        lambda text: text.replace("gate_rows(scale, x, 1,", "gate_rows(scale, x, len,"),
    ],
)
def test_a_changed_plan_is_refused(change: Callable[[str], str]) -> None:
    model, masks = masked(Network(Gate()))
    require_refused(planned(model, masks)[1], model, change)


def test_a_parameter_of_another_name_is_refused() -> None:
    model, masks = masked(Network(Gate()))
    text = planned(model, masks)[1].to_json()
    with pytest.raises(PlanFormatError):
        Plan.from_json(text.replace("gated_rows", "weights"))


@pytest.mark.parametrize(
    ("before", "after", "may"),
    [
        ("a * b", "gate_rows(a, b, 1, [0, 2], [1], [0], self.gated_rows)", True),
        ("a * b", "gate_rows(b, a, 1, 3, [1], [0], self.gated_rows_2)", True),
        ("f() * b", "gate_rows(b, f(), 1, 3, [1], [0], self.gated_rows)", False),
        ("a * b", "gate_rows(a, b, 1, 3, [1], f(), self.gated_rows)", False),
        ("a * b", "gate_rows(a, b, 1, 3, [1], self.gated_rows)", False),
        ("a * b", "gate_rows(a, b, 1, 3, [1], [0], self.weight)", False),
        ("a + b", "gate_rows(a, b, 1, 3, [1], [0], self.gated_rows)", False),
        (
            "x * f()",
            "gate_rows(rows=x, gate=f(), dim=1, indices=0, carriers=[1], into=[0], left_out=self.gated_rows)",
            True,
        ),
    ],
)
def test_what_a_file_may_say(before: str, after: str, may: bool) -> None:
    old, new = expressions(before, after)
    assert isinstance(old, ast.BinOp)
    assert GateRows.may_replace_operation(old, new, are_alike) is may


@pytest.mark.parametrize("last", [False, True])
def test_the_helper_adds_what_rows_left_out_would(last: bool) -> None:
    """Row 1 is twice row 0 and row 3 is row 0 less row 4, before the gate."""
    generator = torch.Generator().manual_seed(0)
    rows_, gate = (torch.randn(s, generator=generator).double() for s in ((3, 5, 7), (3, 5, 1)))
    rows_[:, 1], rows_[:, 3] = 2 * rows_[:, 0], rows_[:, 0] - rows_[:, 4]
    weight = torch.randn(2, 5, generator=generator).double()
    wanted = torch.einsum("rc,nct->nrt", weight, gate * rows_)
    kept, gone = [0, 2, 4], [1, 3]
    into = [0, 1]
    shares = torch.linalg.solve(weight[:, [kept[n] for n in into]], weight[:, gone])
    left_out = torch.cat([shares, torch.tensor([[2.0, 1.0], [0.0, -1.0]]).double()])
    small, dim = rows_[:, kept], 1
    if last:
        gate, small, dim = gate.mT, small.mT, 2
    found = gate_rows(gate, small, dim, kept, [0, 2], into, left_out)
    assert found.shape == small.shape
    found = found.mT if last else found
    torch.testing.assert_close(torch.einsum("rc,nct->nrt", weight[:, kept], found), wanted)
