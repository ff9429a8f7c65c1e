"""Ops that need all rows of what they are given: constants among them are put in, not computed."""

from __future__ import annotations

import ast
import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speedup import Plan, apply_masks, load, materialize, plan_speedup, save, verify
from speedup.errors import PlanFormatError
from speedup.ir.edits import ConstantTensor, NewBias
from speedup.ir.inputs import example_from
from speedup.lowerings.fill_rows import FillRows, fill_rows
from speedup.tracing.islands import survey
from tests.support import lowered
from tests.support.lowered import (
    are_alike,
    expressions,
    half_masked,
    images,
    plans_with,
    require_any_batch_and_compiled_whole,
    require_refused,
    require_same_in_channels_last,
    require_traced_by_fx,
    rewritten,
    sources,
)
from tests.support.lowered_networks import Shuffle
from tests.support.masking import Masks, filters, rows
from tests.support.measure import relative_error

WIDE = 64
TOKEN, HEADS = 192, 4


class Normed(nn.Module):
    """A convolution in front of a norm over groups of channels."""

    def __init__(self, groups: int = 4, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(WIDE, WIDE, 3, padding=1, bias=bias)
        self.norm: nn.Module = nn.GroupNorm(groups, WIDE)
        self.second = nn.Conv2d(WIDE, WIDE, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(F.silu(self.norm(self.first(x))))
        return out


class OneGroup(Normed):
    def __init__(self) -> None:
        super().__init__(1)


class ByFunction(Normed):
    def forward(self, x: Tensor) -> Tensor:
        x = F.group_norm(self.first(x), 4, self.norm.weight, self.norm.bias)  # type: ignore[arg-type]
        out: Tensor = self.second(x)
        return out


class WithTime(Normed):
    """As diffusion models add what they know of the time."""

    def forward(self, x: Tensor) -> Tensor:
        time = x.mean((2, 3)).tanh()[:, :, None, None]
        out: Tensor = self.second(F.silu(self.norm(self.first(x) + time)))
        return out


class Softmax(Normed):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.first(x), dim=1)


class Grouped(Normed):
    """Groups that keep other counts each."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Conv2d(WIDE, WIDE, 3, padding=1, groups=8)


class InNoRule(Normed):
    """An operator without a rule."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cummax(self.first(x), 1).values


class ByMethod(Normed):
    def forward(self, x: Tensor) -> Tensor:
        return (self.first(x)).cumsum(1)


class Twice(Normed):
    """Two in one module, one inside the other."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.second(torch.softmax(self.first(x), 1)), 1)


class Reread(Normed):
    """Two readers need all rows: each is given them."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return torch.softmax(y, 1) + torch.tanh(y) * x


class Highway(Normed):
    """A gate and what it lets pass are masked differently, and what is around them is whole."""

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.first(x))
        return gate * torch.relu(self.second(x)) + (1 - gate) * x


class HighwayByMethods(Normed):
    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.first(x))
        passed = torch.relu(self.second(x)).where(x > 0, x)
        return torch.lerp(x, passed, weight=gate).mul(gate)


class HighwayByFunctions(Normed):
    def forward(self, x: Tensor) -> Tensor:
        gate = self.first(x)
        return torch.maximum(x, other=torch.tanh(self.second(x))) + torch.where(x > 0, x, gate.sin())


HIGHWAYS = (Highway, HighwayByMethods, HighwayByFunctions)
FORMS = (
    *HIGHWAYS,
    Normed,
    OneGroup,
    ByFunction,
    WithTime,
    Softmax,
    Grouped,
    InNoRule,
    ByMethod,
    Twice,
    Reread,
)


def net(kind: Callable[[], nn.Module] = Normed) -> nn.Module:
    """One block of a kind between layers that are not masked."""
    return nn.Sequential(nn.Conv2d(3, WIDE, 3, padding=1), kind(), nn.Conv2d(WIDE, 5, 1))


def lively(model: nn.Module, *whole: str) -> tuple[nn.Module, Masks]:
    grouped = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    return half_masked(model, ("0", "2", *grouped, *whole))


plans = partial(plans_with, "fills")
require_exact = partial(lowered.require_exact, sizes=(5, 8, 16, 33))


@pytest.mark.parametrize("kind", FORMS)
def test_constants_are_put_in_however_the_call_is_written(kind: type[Normed]) -> None:
    model, masks = lively(net(kind))
    without, plan = plans(model, masks)
    assert plan.macs_after < 0.8 * without.macs_after
    assert "fill_rows(" in str(plan.edits)
    small = require_exact(plan, model, masks)
    assert len(small.get_parameter("1.first.weight")) == WIDE // 2
    verify(plan, small)
    read = materialize(Plan.from_json(plan.to_json()), model=model)
    x = images(16, 2, 0)
    assert torch.equal(read.eval()(x), small.eval()(x))


def test_the_source_reads_well() -> None:
    model, masks = lively(net(WithTime))
    _, plan = plans(model, masks)
    assert "self.norm(fill_rows(self.first(x), 1, [" in sources(plan)
    assert "], self.constant_rows) + time)" in sources(plan)
    model, masks = lively(net())
    masks["1.first"] = filters(model.get_submodule("1.first"), *range(20))
    _, plan = plans(model, masks)
    # Rows that follow one another are told by the first; torch's own forward is one of the model's here.
    assert rewritten(plan) == ["1.norm"]
    assert "F.group_norm(fill_rows(input, 1, 20, self.constant_rows), self.num_groups" in sources(plan)


def test_constants_are_a_parameter_of_what_needs_them() -> None:
    model, masks = lively(net())
    _, plan = plans(model, masks)
    (bias,) = (edit for edit in plan.edits if isinstance(edit, NewBias))
    assert bias.name == "1.norm.constant_rows"
    gone = ~torch.as_tensor(masks["1.first"]["weight"]).flatten(1).any(1)
    assert torch.equal(bias.value.tensor != 0, gone)
    assert "folded into constant_rows" in plan.explain("1.first")
    small = materialize(plan)
    assert set(small.state_dict()) - set(model.state_dict()) == {bias.name}
    assert plan.parameters_after == sum(p.numel() for p in small.parameters())


def test_zeros_need_no_parameter() -> None:
    model, masks = lively(net())
    masks["1.first"] = rows(model.get_submodule("1.first"), *range(0, WIDE, 2))
    _, plan = plans(model, masks)
    assert rewritten(plan) == ["1.norm"]
    assert not any(isinstance(edit, NewBias) for edit in plan.edits)
    small = require_exact(plan, model, masks)
    assert list(small.state_dict()) == list(model.state_dict())


class Attention(nn.Module):
    """Attention over tokens; subclasses split heads in other ways."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(TOKEN, TOKEN) for _ in range(3))
        self.packed = nn.Linear(TOKEN, 3 * TOKEN)
        self.out = nn.Linear(TOKEN, TOKEN)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.q(x).view(x.shape[0], -1, HEADS, TOKEN // HEADS).transpose(1, 2)
        k = self.k(x).view(x.shape[0], -1, HEADS, TOKEN // HEADS).transpose(1, 2)
        v = self.v(x).view(x.shape[0], -1, HEADS, TOKEN // HEADS).transpose(1, 2)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.out(y)
        return out


class Spread(Attention):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = (*x.shape[:-1], HEADS, -1)
        q = self.q(x).view(*shape).transpose(1, 2)
        k = self.k(x).reshape(*shape).transpose(1, 2)
        v = self.v(x).reshape(shape).transpose(1, 2)
        return q, k, v


class Packed(Attention):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, c = x.shape
        qkv = self.packed(x).reshape(b, n, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return q, k, v


class Unflattened(Attention):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.q(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        k = torch.unflatten(self.k(x), -1, (HEADS, -1)).transpose(1, 2)
        v = self.v(x).unflatten(2, (HEADS, -1)).transpose(1, 2)
        return q, k, v


def tokens(length: int, batch: int, seed: int) -> Tensor:
    return torch.randn(batch, length, TOKEN, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("kind", [Attention, Spread, Packed, Unflattened])
@pytest.mark.parametrize("with_bias", [False, True])
def test_heads_whose_masks_differ_compute_what_follows_the_input(
    kind: type[Attention], with_bias: bool
) -> None:
    model = nn.Sequential(nn.Linear(TOKEN, TOKEN), nn.Tanh(), kind()).double().eval()
    generator = torch.Generator().manual_seed(2)
    masks: Masks = {}
    for name in ("q", "k", "v", "packed"):
        layer = model.get_submodule(f"2.{name}")
        gone = torch.randperm(len(layer.get_parameter("weight")), generator=generator)
        masks[f"2.{name}"] = dict(rows(layer, *gone[: len(gone) // 2].tolist()))
        if with_bias:
            del masks[f"2.{name}"]["bias"]
    plan = plan_speedup(model, tokens(100, 2, 0), masks, lowerings={"fills"})
    made = 1 if kind is Packed else 3
    assert sources(plan).count("fill_rows(") == made
    small, masked = materialize(plan), apply_masks(model, masks).eval()
    for length, batch in ((1, 1), (7, 3), (48, 2)):
        calls = [(tokens(length, batch, seed),) for seed in (1, 2)]
        assert relative_error(masked, small.eval(), calls) < 1e-9


class Named(Normed):
    def __init__(self) -> None:
        super().__init__()
        self.constant_rows = nn.Parameter(torch.randn(()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.first(x), dim=1) * self.constant_rows


def test_names_that_the_module_has_are_left_alone() -> None:
    model, masks = lively(net(Named))
    _, plan = plans(model, masks)
    assert [e.attribute for e in plan.edits if isinstance(e, NewBias)] == ["constant_rows_2"]
    require_exact(plan, model, masks)


class Looped(Normed):
    """One line for several norms that are given other rows."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            x = torch.softmax(layer(x), 1)
        return x


class InPlace(Normed):
    """What is written to where it stands is no copy's to be."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y.cumsum_(1)
        return y


def without_source() -> nn.Module:
    names = {"nn": nn, "torch": torch, "Normed": Normed}
    exec(
        "class Hidden(Normed):\n    def forward(self, x):\n        return torch.softmax(self.first(x), 1)",
        names,
    )
    made = names["Hidden"]()  # type: ignore[operator]
    assert isinstance(made, nn.Module)
    return made


@pytest.mark.parametrize("kind", [Looped, InPlace, without_source])
def test_what_cannot_be_restated_stays(kind: Callable[[], nn.Module]) -> None:
    model, masks = lively(net(kind))
    without, plan = plans(model, masks)
    assert plan.edits == without.edits
    require_exact(plan, model, masks)


def test_modules_that_are_to_be_kept_keep_their_norm() -> None:
    model, masks = lively(net())
    plan = plan_speedup(model, images(32, 2, 0), masks, keep=["1.norm"])
    assert rewritten(plan) == []
    require_exact(plan, model, masks)


@pytest.mark.parametrize(("size", "pays"), [(7, False), (8, True)])
def test_what_pays_is_told_by_one_sample(size: int, pays: bool) -> None:
    """Here 18,432 multiply-accumulates are saved at each position."""
    model, masks = lively(net())
    for batch in (1, 2, 5):
        plan = plan_speedup(model, images(size, batch, 0), masks, lowerings={"fills"})
        assert bool(rewritten(plan)) is pays, f"batch {batch}"


def test_rows_that_cost_little_are_computed() -> None:
    """Putting a number in its place takes the time of 40 multiply-accumulates; these rows take 32."""
    model = net()
    model.get_submodule("1").first = nn.Conv2d(WIDE, WIDE, 1)
    lively_model, masks = lively(model)
    without, plan = plans(lively_model, masks, 64)
    assert plan.edits == without.edits


@pytest.mark.parametrize(("width", "pays"), [(128, False), (192, True)])
def test_along_the_last_dimension_numbers_are_put_in_one_by_one(width: int, pays: bool) -> None:
    """That takes the time of 80 multiply-accumulates; these rows take half of the width."""
    model = nn.Sequential(nn.Linear(width, width), nn.Softmax(-1)).double().eval()
    masks = {"0": rows(model.get_submodule("0"), *range(0, width, 2))}
    x = torch.randn(1, 400, width, generator=torch.Generator().manual_seed(0)).double()
    assert bool(rewritten(plan_speedup(model, x, masks))) is pays


def test_a_few_rows_less_are_not_worth_a_call() -> None:
    model, masks = lively(net())
    masks["1.first"] = filters(model.get_submodule("1.first"), 0, 1, 2)
    without, plan = plans(model, masks, 64)
    assert plan.edits == without.edits


class ByLength(Attention):
    """Asks how long its input is, so that several lengths are planned for."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flip(1) if x.shape[1] > 90 else x
        return super().forward(x)


def test_what_pays_at_the_example_s_size_is_taken_for_all_sizes() -> None:
    model = nn.Sequential(nn.Linear(TOKEN, TOKEN), nn.Tanh(), ByLength()).double().eval()
    gone = torch.randperm(TOKEN, generator=torch.Generator().manual_seed(0))[: TOKEN // 2]
    masks = {f"2.{name}": rows(model.get_submodule(f"2.{name}"), *gone.tolist()) for name in "qkv"}
    plan = plan_speedup(model, tokens(100, 1, 0), masks)
    assert sources(plan).count("fill_rows(") == 3
    small, masked = materialize(plan), apply_masks(model, masks).eval()
    for length in (1, 89, 90, 91, 130):
        calls = [(tokens(length, 2, seed),) for seed in (1, 2)]
        assert relative_error(masked, small.eval(), calls) < 1e-9


def test_what_pays_at_other_sizes_only_is_not_taken() -> None:
    model = nn.Sequential(nn.Linear(TOKEN, TOKEN), nn.Tanh(), ByLength()).double().eval()
    gone = torch.randperm(TOKEN, generator=torch.Generator().manual_seed(0))[: TOKEN // 2]
    masks = {f"2.{name}": rows(model.get_submodule(f"2.{name}"), *gone.tolist()) for name in "qkv"}
    plan = plan_speedup(model, tokens(40, 1, 0), masks)
    assert plan.subject.found, "lengths beyond 90 were looked at"
    assert sources(plan).count("fill_rows(") == 0


def test_all_lowerings_go_together() -> None:
    class Residual(Normed):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x + super().forward(x))

    look = [nn.Conv2d(WIDE, WIDE, 3, padding=1) for _ in range(2)]
    layers = [Residual(), look[0], nn.ReLU(), Shuffle(), look[1], Residual()]
    model, masks = half_masked(
        nn.Sequential(nn.Conv2d(3, WIDE, 3, padding=1), *layers, nn.Conv2d(WIDE, 5, 1)), ("0", "7")
    )
    plan = plan_speedup(model, images(32, 1, 0), masks)
    assert all(f"{name}(" in sources(plan) for name in ("add_rows", "fill_rows", "select_indices"))
    require_exact(plan, model, masks)
    assert Plan.from_json(plan.to_json()).edits == plan.edits


def test_channels_last_stays_and_gives_the_same() -> None:
    model, masks = lively(net(WithTime))
    _, plan = plans(model, masks)
    require_same_in_channels_last(materialize(plan).eval())
    last = torch.channels_last
    whole = fill_rows(images(16, 2, 0).contiguous(memory_format=last), 1, [0, 2, 3], 5)
    assert whole.is_contiguous(memory_format=last)


@pytest.mark.parametrize("kind", [Normed, WithTime])
def test_the_small_model_lives_like_the_other(kind: type[Normed], tmp_path: Path) -> None:
    model, masks = lively(net(kind))
    _, plan = plans(model, masks)
    small = materialize(plan)
    x = images(16, 2, 0)
    again = copy.deepcopy(small)
    again.load_state_dict(small.state_dict())
    assert torch.equal(again.eval()(x), small.eval()(x))
    save(small, plan, tmp_path / "small.safetensors")
    read = load(tmp_path / "small.safetensors", lambda: net(kind).double()).eval()
    assert torch.equal(read(x), small.eval()(x))
    assert torch.equal(pickle.loads(pickle.dumps(small)).eval()(x), small.eval()(x))
    require_any_batch_and_compiled_whole(small.eval())


@pytest.mark.parametrize("kind", [Normed, WithTime])
def test_it_trains_on(kind: type[Normed]) -> None:
    model, masks = lively(net(kind))
    _, plan = plans(model, masks)
    small = materialize(plan).train()
    optimizer = torch.optim.SGD(small.parameters(), 0.01)
    x = images(16, 2, 0)
    before = {name: p.detach().clone() for name, p in small.named_parameters()}
    small(x).square().mean().backward()
    optimizer.step()
    changed = {name for name, p in small.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(before)


def test_gradients_are_those_of_all_rows() -> None:
    part = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    constants = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p, c: fill_rows(p, 1, [0, 2, 3], c), (part, constants))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 4), (1, 3, 1, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("indices", [[0, 2, 3], 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_put_where_they_belong(
    shape: tuple[int, ...], channels_last: bool, indices: int | list[int], dtype: torch.dtype
) -> None:
    part = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    if channels_last and part.ndim == 4:
        part = part.contiguous(memory_format=torch.channels_last)
    where = [1, 2, 3] if isinstance(indices, int) else indices
    constants = torch.tensor([7.0, 8.0, 9.0, 10.0, 11.0])
    constants[where] = 0
    wanted = constants.to(dtype).reshape(1, -1, *(1,) * (part.ndim - 2)).repeat(shape[0], 1, *shape[2:])
    wanted[:, where] = part
    found = fill_rows(part, 1, indices, constants)
    assert found.dtype == dtype
    assert torch.equal(found, wanted)
    wanted[:, [i for i in range(5) if i not in where]] = 0
    assert torch.equal(fill_rows(part, 1, indices, 5), wanted)


def test_it_runs_under_autocast() -> None:
    model, masks = lively(net(WithTime))
    _, plan = plans(model.float(), masks)
    small, masked = materialize(plan).eval(), apply_masks(model, masks).eval()
    x = images(16, 2, 0).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert relative_error(masked, small, [(x,), (x + 1,)]) < 0.1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("F.group_norm(x, 4)", "F.group_norm(fill_rows(x, 1, [0, 2], 5), 4)"),
        ("F.group_norm(x, 4)", "F.group_norm(fill_rows(x, 1, 3, self.constant_rows), 4)"),
        ("f(x).view(*shape)", "fill_rows(f(x), 1, [0], 2).view(*shape)"),
        ("f(x, eps=1)", "f(fill_rows(x, -1, [0], self.constant_rows_2), eps=1)"),
        ("f(x, y)", "f(x, fill_rows(y, 1, [0], 2))"),
        ("f(x, y=y)", "f(fill_rows(x, 1, 1, 2), y=fill_rows(y, 1, [0], self.constant_rows))"),
        ("x.f(y)", "x.f(fill_rows(y, 1, [0], 2))"),
    ],
)
def test_what_source_from_a_file_may_hold(old: str, new: str) -> None:
    before, after = expressions(old, new)
    assert isinstance(before, ast.Call)
    assert FillRows.may_replace(before, after, are_alike)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("f(x)", "f(fill_rows(y, 1, [0], 2))"),
        ("f(x)", "g(fill_rows(x, 1, [0], 2))"),
        ("f(x, y)", "f(fill_rows(x, 1, [0], 2), z)"),
        ("f(x, y)", "f(x, fill_rows(x, 1, [0], 2))"),
        ("f(x, y)", "f(fill_rows(x, 1, [0], 2))"),
        ("f(x, y)", "f(x, fill_rows(y, 1, [0], other.weight))"),
        ("f(x, y=y)", "f(x, z=fill_rows(y, 1, [0], 2))"),
        ("x.f(y)", "x.g(fill_rows(y, 1, [0], 2))"),
        ("f(x, eps=y)", "f(fill_rows(x, 1, [0], 2), eps=z)"),
        ("f(x)", "f(fill_rows(x, 1, [0], self.training_step()))"),
        ("f(x)", "f(fill_rows(x, 1, [0], self.weight))"),
        ("f(x)", "f(fill_rows(x, n, [0], 2))"),
        ("f(x)", "f(fill_rows(x, 1, places, 2))"),
        ("f(x)", "f(other.fill_rows(x, 1, [0], 2))"),
        ("f(x)", "f(fill_rows(x, 1, [0], 2, more=1))"),
        ("f(x)", "fill_rows(f(x), 1, [0], 2)"),
        ("x.view(4)", "fill_rows(x, 1, [0], 2).reshape(4)"),
    ],
)
def test_what_source_from_a_file_may_not_hold(old: str, new: str) -> None:
    before, after = expressions(old, new)
    assert isinstance(before, ast.Call)
    assert not FillRows.may_replace(before, after, are_alike)


@pytest.mark.parametrize(
    ("new", "may"),
    [
        ("fill_rows(x, 1, [0], 2) + y", True),
        ("fill_rows(x, 1, [0], 2) - y", False),
        ("fill_rows(y, 1, [0], 2) + x", False),
        ("x + fill_rows(y, 1, [0], 2)", True),
        ("fill_rows(x, 1, 2, 4) + fill_rows(y, 1, [0], self.constant_rows)", True),
        ("fill_rows(fill_rows(x, 1, 2, 4), 1, [0], 2) + y", False),
        ("x + fill_rows(x, 1, [0], 2)", False),
    ],
)
def test_what_an_operation_from_a_file_may_become(new: str, may: bool) -> None:
    before, after = expressions("x + y", new)
    assert isinstance(before, ast.BinOp)
    assert FillRows.may_replace_operation(before, after, are_alike) is may


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("self.constant_rows)", "self.weight)"),
        lambda text: text.replace("fill_rows(input,", "fill_rows(self.weight,"),
    ],
)
def test_files_that_say_something_else_are_refused(change: Callable[[str], str]) -> None:
    model, masks = lively(net())
    _, plan = plans(model, masks)
    require_refused(plan, model, change)


def test_a_parameter_of_another_name_is_refused() -> None:
    model, masks = lively(net())
    _, plan = plans(model, masks)
    with pytest.raises(PlanFormatError):
        Plan.from_json(plan.to_json().replace('"constant_rows"', '"weight"'))


def test_torch_fx_traces_the_call_as_it_is() -> None:
    model, masks = lively(net(WithTime))
    _, plan = plans(model, masks)
    require_traced_by_fx(materialize(plan).eval(), fill_rows)


def test_both_tensors_of_a_call_are_filled() -> None:
    class Product(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a * b

    both = tuple(torch.ones(3, 2) for _ in range(2))
    (op,) = survey(Product(), (example_from(both, None),)).trace.graph.ops
    first = FillRows("self", 1, (0,), 2, "first", ConstantTensor(torch.tensor([0.0, 5.0])))
    lowering = FillRows("other", 1, (1,), 2, "second", ConstantTensor(torch.tensor([7.0, 0.0])), first)
    a, b = torch.randn(3, 1), torch.randn(3, 1)
    (result,) = lowering.compute(op, op.arguments, [a, b])
    assert torch.equal(result, torch.cat([a * 7, 5 * b], 1))
    assert [bias.name for bias in lowering.biases("")] == ["second", "first"]
