"""Rows of residual branches: constants are not computed, the others are added to their places."""

from __future__ import annotations

import ast
import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speedup import Plan, apply_masks, load, materialize, plan_speedup, save, verify
from speedup.errors import PlanFormatError
from speedup.ir.edits import NewBias
from speedup.lowerings.add_rows import AddRows, add_rows
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
from tests.support.masking import Masks, filters, rows
from tests.support.measure import relative_error
from tests.support.vision import torchvision_models

WIDE = 32


class Block(nn.Module):
    """A branch of two convolutions beside its input; `join` says how they come together."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(WIDE, WIDE, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(WIDE)
        self.drop = nn.Dropout(0.5)

    def branch(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.second(F.relu(self.first(x))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.branch(x))


class BranchFirst(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + x)


class InPlace(Block):
    """As torchvision writes it."""

    def forward(self, x: Tensor) -> Tensor:
        identity = x

        out = self.first(x)
        out = F.relu(out)
        out = self.second(out)
        out = self.norm(out)

        if self.training and self.drop.p == 0:
            identity = self.norm(x)

        out += identity
        return F.relu(out)


class OneName(Block):
    """As timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.first(x)
        x = F.relu(x)
        x = self.second(x)
        x = self.norm(x)
        if self.drop is not None:
            x = self.drop(x)
        x += shortcut
        return F.relu(x)


class InABranch(Block):
    """As torchvision writes mobile networks."""

    def forward(self, x: Tensor) -> Tensor:
        result = self.first(x)
        result = self.norm(self.second(F.relu(result)))
        if x.shape[1] == WIDE:
            result = self.drop(result)
            result += x
        return result


class ByFunction(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.branch(x)).relu()


class ByMethod(Block):
    def forward(self, x: Tensor) -> Tensor:
        return (self.branch(x).add(x)).relu()


class OverLines(Block):
    def forward(self, x: Tensor) -> Tensor:
        return (
            (self.branch(x))  # what is learned
            + (x)  # and what is there
        )


class Twice(Block):
    """Two sums in one module, one inside the other."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) + self.second(x)


class InAMethod(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.joined(self.branch(x), x))

    def joined(self, out: Tensor, stream: Tensor) -> Tensor:
        return stream + out


class ScaledBefore(Block):
    """The branch has a factor per channel, written first, as ConvNeXt writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((WIDE, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.branch(x)


class ScaledInPlace(ScaledBefore):
    """As torchvision's ConvNeXt writes it."""

    def forward(self, x: Tensor) -> Tensor:
        result = self.scale * self.branch(x)
        result = self.drop(result)
        result += x
        return result


class HeldToo(ScaledBefore):
    """The sum is written where another name holds the branch: it stays."""

    def forward(self, x: Tensor) -> Tensor:
        scaled = self.scale * self.branch(x)
        result = self.drop(scaled)
        result += x
        return torch.maximum(result, scaled.tanh())


FORMS: Sequence[type[Block]] = (
    Block, BranchFirst, InPlace, OneName, InABranch, ByFunction, ByMethod, OverLines, Twice, InAMethod,
    ScaledBefore, ScaledInPlace,
)  # fmt: skip


class Net(nn.Module):
    """Two blocks of one kind between layers that are not masked."""

    def __init__(self, kind: type[Block] = Block, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDE, 3, padding=1)
        self.blocks = nn.ModuleList([kind() for _ in range(blocks)])
        self.last = nn.Conv2d(WIDE, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.last(x)
        return out


def lively(model: nn.Module, *whole: str) -> tuple[nn.Module, Masks]:
    return half_masked(model, ("stem", "last", *whole))


plans = partial(plans_with, "rows")
require_exact = partial(lowered.require_exact, sizes=(3, 8, 16, 33))


@pytest.mark.parametrize("kind", FORMS)
def test_rows_that_are_constants_are_not_computed_however_the_sum_is_written(kind: type[Block]) -> None:
    model, masks = lively(Net(kind))
    without, plan = plans(model, masks)
    assert plan.macs_after < 0.85 * without.macs_after
    assert rewritten(plan) == ["blocks.0", "blocks.1"]
    small = require_exact(plan, model, masks)
    assert len(small.get_parameter("blocks.0.second.weight")) == WIDE // 2
    assert type(small.get_submodule("blocks.0")) is not kind
    assert type(small.get_submodule("blocks.0")).__name__ == kind.__name__
    verify(plan, small)
    read = materialize(Plan.from_json(plan.to_json()), model=model)
    x = images(16, 2, 0)
    assert torch.equal(read.eval()(x), small.eval()(x))


def test_the_source_reads_well() -> None:
    model, masks = lively(Net(InPlace))
    _, plan = plans(model, masks)
    assert "    out = add_rows(identity, out, 1, [" in sources(plan)
    assert "], self.stream_bias)\n" in sources(plan)
    model, masks = lively(Net(BranchFirst))
    _, plan = plans(model, masks)
    assert "F.relu(add_rows(rows=self.branch(x), stream=x, dim=1, indices=[" in sources(plan)


def test_constants_of_what_is_not_computed_are_a_bias_of_the_sum() -> None:
    model, masks = lively(Net())
    _, plan = plans(model, masks)
    biases = [edit for edit in plan.edits if isinstance(edit, NewBias)]
    assert [edit.name for edit in biases] == ["blocks.0.stream_bias", "blocks.1.stream_bias"]
    gone = ~torch.as_tensor(masks["blocks.0.second"]["weight"]).flatten(1).any(1)
    assert torch.equal(biases[0].value.tensor != 0, gone)
    assert "folded into stream_bias" in plan.explain("blocks.0.second")
    small = materialize(plan)
    assert set(small.state_dict()) - set(model.state_dict()) == {edit.name for edit in biases}
    assert plan.parameters_after == sum(p.numel() for p in small.parameters())


def test_zeros_need_no_bias() -> None:
    model = Net()
    for block in model.blocks:
        block.norm = nn.Identity()
    model.double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=torch.Generator().manual_seed(0))
    second = model.get_submodule("blocks.0.second")
    masks = {f"blocks.{n}.second": {**filters(second, *range(16))} for n in (0, 1)}
    for n in (0, 1):
        masks[f"blocks.{n}.second"] = rows(model.get_submodule(f"blocks.{n}.second"), *range(16))
    _, plan = plans(model, masks)
    assert rewritten(plan) == ["blocks.0", "blocks.1"]
    assert not any(isinstance(edit, NewBias) for edit in plan.edits)
    # Rows that follow one another are told by the first.
    assert "add_rows(x, self.branch(x), 1, 16)" in sources(plan)
    small = require_exact(plan, model, masks)
    assert list(small.state_dict()) == list(model.state_dict())


def test_rows_that_follow_one_another_go_beside_others_too() -> None:
    model, masks = lively(Net())
    for name in ("blocks.0.second", "blocks.1.second"):
        masks[name] = filters(model.get_submodule(name), *range(10))
    _, plan = plans(model, masks)
    assert rewritten(plan) == ["blocks.0", "blocks.1"]
    assert "add_rows(x, self.branch(x), 1, 10, self.stream_bias)" in sources(plan)
    require_exact(plan, model, masks)


class Projected(Block):
    """The input is projected: both operands have rows that are constants."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(WIDE, WIDE, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x) + self.branch(x)


def test_of_two_branches_the_cheaper_one_computes_all_rows() -> None:
    model, masks = lively(Net(Projected))
    _, plan = plans(model, masks, 64)
    assert rewritten(plan) == ["blocks.0", "blocks.1"]
    small = require_exact(plan, model, masks)
    block = small.get_submodule("blocks.0")
    assert len(block.get_parameter("second.weight")) == WIDE // 2 < len(block.get_parameter("project.weight"))


class Tokens(nn.Module):
    """Features last, and two sums that need biases of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.other = nn.Linear(64, 96), nn.Linear(96, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.outer(F.gelu(self.inner(x)))
        x = x + self.other(x)
        return x


@pytest.mark.parametrize("shape", [(2, 600, 64), (1, 3, 210, 64)])
def test_rows_are_features_of_any_number_of_dimensions(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(Tokens(), nn.Linear(64, 64), Tokens(), nn.Linear(64, 3)).double().eval()
    masks = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and name.endswith(("outer", "other")):
            masks[name] = {"weight": rows(layer, *range(0, 64, 2))["weight"]}
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    plan = plan_speedup(model, x, masks, lowerings={"rows"})
    assert rewritten(plan) == ["0", "2"]
    names = [edit.name for edit in plan.edits if isinstance(edit, NewBias)]
    assert names == ["0.stream_bias", "0.stream_bias_2", "2.stream_bias", "2.stream_bias_2"]
    small, masked = materialize(plan), apply_masks(model, masks).eval()
    calls = [
        (torch.randn((5, *shape[1:]), generator=torch.Generator().manual_seed(n)).double(),) for n in (1, 2)
    ]
    assert relative_error(masked, small.eval(), calls) < 1e-9


class Taken(Block):
    def __init__(self) -> None:
        super().__init__()
        self.stream_bias = nn.Parameter(torch.randn(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) * self.stream_bias


def test_names_that_the_module_has_are_left_alone() -> None:
    model, masks = lively(Net(Taken))
    _, plan = plans(model, masks)
    assert [e.attribute for e in plan.edits if isinstance(e, NewBias)] == ["stream_bias_2"] * 2
    require_exact(plan, model, masks)


class Looped(nn.Module):
    """One line for several sums that keep other rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(WIDE, WIDE, 3, padding=1) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


class Shared(Block):
    """One module, called twice: its sum has other constants each time."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(WIDE, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x + self.branch(x))


class Listed(Block):
    """What is changed in place is held elsewhere too, and read there."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        seen = [out]
        out += x
        return seen[0] * 2


class Renamed(Block):
    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.second(F.relu(self.first(x))))
        other = out
        out += x
        return other + out


class Passed(Block):
    """Dropout in eval mode returns what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.second(F.relu(self.first(x))))
        out = self.drop(y)
        out += x
        return y + 1


class OfTheCaller(Block):
    """The stream is changed in place, which the caller may see."""

    def forward(self, x: Tensor) -> Tensor:
        x += self.branch(x)
        return x


class Scaled(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.branch(x), alpha=2)


class Repeated(Block):
    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        for _ in range(2):
            out += x
        return out


class HeldInAList(ScaledBefore):
    """An operation gives the name something, but not the tensor that is written to."""

    def only(self, listed: list[Tensor]) -> Tensor:
        return listed[0]

    def forward(self, x: Tensor) -> Tensor:
        scaled = self.scale * self.branch(x)
        result: Any = [scaled] * 1
        result = self.only(result)
        result += x
        return torch.maximum(result, scaled.tanh())


@pytest.mark.parametrize(
    "kind", [Listed, Renamed, Passed, OfTheCaller, Scaled, Repeated, HeldToo, HeldInAList]
)
def test_sums_that_say_more_stay(kind: type[Block]) -> None:
    model, masks = lively(Net(kind))
    without, plan = plans(model, masks)
    assert plan.edits == without.edits
    require_exact(plan, model, masks)


def test_source_that_runs_for_other_rows_too_stays() -> None:
    model, masks = lively(nn.Sequential(nn.Conv2d(3, WIDE, 1), Looped(), nn.Conv2d(WIDE, 4, 1)), "0", "2")
    without, plan = plans(model, masks)
    assert plan.edits == without.edits
    require_exact(plan, model, masks)


class Norms(nn.Module):
    """One line for several sums that keep the same rows, but whose constants are others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDE, WIDE, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(WIDE) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = x + norm(self.conv(x))
        return x


def test_source_that_runs_for_other_constants_too_stays() -> None:
    model, masks = lively(nn.Sequential(nn.Conv2d(3, WIDE, 1), Norms(), nn.Conv2d(WIDE, 4, 1)), "0", "2")
    without, plan = plans(model, masks)
    assert plan.edits == without.edits
    require_exact(plan, model, masks)


def test_a_block_that_is_called_twice_holds_one_bias_or_stays() -> None:
    model = Net(Shared, 1)
    model.blocks.append(model.blocks[0])
    lively_model, masks = lively(model)
    _, plan = plans(lively_model, masks)
    assert len({edit.name for edit in plan.edits if isinstance(edit, NewBias)}) == len(
        [edit for edit in plan.edits if isinstance(edit, NewBias)]
    )
    require_exact(plan, lively_model, masks)


def test_modules_that_are_to_be_kept_keep_their_sum() -> None:
    model, masks = lively(Net())
    plan = plan_speedup(model, images(32, 2, 0), masks, keep=["blocks.0"])
    assert rewritten(plan) == ["blocks.1"]
    require_exact(plan, model, masks)


@pytest.mark.parametrize(("size", "pays"), [(20, False), (24, True)])
def test_what_pays_is_told_by_one_sample(size: int, pays: bool) -> None:
    """Here 2,448 multiply-accumulates are saved at each position."""
    model, masks = lively(Net(blocks=1))
    for batch in (1, 2, 5):
        plan = plan_speedup(model, images(size, batch, 0), masks)
        assert bool(rewritten(plan)) is pays, f"batch {batch}"


def test_a_few_rows_less_are_not_worth_a_call() -> None:
    model, masks = lively(Net())
    for name in ("blocks.0.second", "blocks.1.second"):
        masks[name] = filters(model.get_submodule(name), 0, 1, 2)
    without, plan = plans(model, masks, 64)
    assert plan.edits == without.edits


def test_a_sum_that_is_returned_is_whole() -> None:
    model, masks = lively(nn.Sequential(nn.Conv2d(3, WIDE, 3, padding=1), Block()), "0")
    without, plan = plans(model, masks)
    assert plan.macs_after < without.macs_after
    small = require_exact(plan, model, masks)
    assert small(images(8, 1, 0)).shape == (1, WIDE, 8, 8)


def test_constants_that_differ_near_borders_are_computed() -> None:
    """A padded convolution of constants is no one number."""

    class Bordered(Block):
        def __init__(self) -> None:
            super().__init__()
            self.around = nn.Conv2d(WIDE, WIDE, 3, padding=1, groups=WIDE)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.around(self.branch(x))

    model, masks = lively(Net(Bordered), "blocks.0.around", "blocks.1.around")
    for lowerings in ({"rows"}, {"rows", "carriers"}, "auto"):
        plan = plan_speedup(model, images(32, 2, 0), masks, lowerings=lowerings)
        require_exact(plan, model, masks)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "mobilenet_v2",
        pytest.param("mobilenet_v3_large", marks=pytest.mark.zoo),
        pytest.param("efficientnet_b0", marks=pytest.mark.zoo),
    ],
)
def test_torchvision_s_sums_are_taken(name: str) -> None:
    model = getattr(torchvision_models(), name)(num_classes=10)
    generator = torch.Generator().manual_seed(0)
    masks = {
        n: filters(m, *torch.randperm(m.out_channels, generator=generator)[: m.out_channels // 2])
        for n, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and m.groups == 1
    }
    x = images(224, 1, 0)
    plan = plan_speedup(model.double().eval(), x, masks)
    before = plan_speedup(model, x, masks, lowerings={"carriers", "shuffles"})
    assert "add_rows(" in sources(plan)
    assert plan.macs_after < before.macs_after


def test_channels_last_stays_and_gives_the_same() -> None:
    model, masks = lively(Net())
    _, plan = plans(model, masks)
    found = require_same_in_channels_last(materialize(plan).eval())
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_the_small_model_lives_like_the_other(tmp_path: Path) -> None:
    model, masks = lively(Net(InPlace))
    _, plan = plans(model, masks)
    small = materialize(plan)
    x = images(16, 2, 0)
    again = copy.deepcopy(small)
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(x), small(x))
    assert torch.equal(pickle.loads(pickle.dumps(small))(x), small(x))
    save(small, plan, tmp_path / "small.safetensors")
    loaded = load(tmp_path / "small.safetensors", lambda: lively(Net(InPlace))[0])
    assert torch.equal(loaded.eval()(x), small.eval()(x))
    small.train()(x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in small.parameters())


def test_biases_that_were_trained_on_are_saved(tmp_path: Path) -> None:
    model, masks = lively(Net())
    _, plan = plans(model, masks)
    small = materialize(plan).eval()
    with torch.no_grad():
        small.get_parameter("blocks.0.stream_bias").add_(1)
    save(small, plan, tmp_path / "small.safetensors")
    loaded = load(tmp_path / "small.safetensors", lambda: lively(Net())[0])
    x = images(16, 2, 0)
    assert torch.equal(loaded.eval()(x), small(x))


def test_it_exports_with_any_batch_and_compiles_whole() -> None:
    model, masks = lively(Net())
    _, plan = plans(model, masks)
    small = materialize(plan).eval()
    require_any_batch_and_compiled_whole(small)


def test_it_exports_with_any_resolution() -> None:
    model, masks = lively(Net())
    _, plan = plans(model, masks)
    small = materialize(plan).eval()
    height, width = (torch.export.Dim(name, min=4, max=64) for name in ("height", "width"))
    sizes = ({2: height, 3: width},)
    exported = torch.export.export(small, (images(16, 2, 0),), dynamic_shapes=sizes).module()
    x = images(19, 2, 1)[:, :, :7]
    torch.testing.assert_close(exported(x), small(x))


@pytest.mark.parametrize("kind", [Block, InPlace])
def test_types_under_autocast_are_those_of_the_sum(kind: type[Block]) -> None:
    model, masks = lively(Net(kind))
    _, plan = plans(model.float(), masks)
    small, masked = materialize(plan, verify="none").eval(), apply_masks(model, masks).eval()
    x = images(16, 2, 0).float()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found, wanted = small(x), masked(x)
    assert found.dtype is wanted.dtype is torch.bfloat16
    torch.testing.assert_close(found, wanted, rtol=0.1, atol=0.2)


@pytest.mark.parametrize("types", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
@pytest.mark.parametrize("bias", [None, torch.ones(4)])
def test_the_wider_type_wins(types: tuple[torch.dtype, torch.dtype], bias: Tensor | None) -> None:
    stream, part = torch.ones(4, dtype=types[0]), torch.ones(2, dtype=types[1])
    found = add_rows(stream, part, 0, [3, 1], bias)
    assert found.dtype is torch.float32
    assert found.tolist() == [2 + n % 2 - (bias is None) for n in range(4)]


CHANGES: Mapping[str, Callable[[str], str]] = {
    "another function": lambda text: text.replace("add_rows(x", "exit(x"),
    "another tensor": lambda text: text.replace("self.branch(x), 1", "self.branch(self), 1"),
    "what is no number": lambda text: text.replace("self.branch(x), 1,", "self.branch(x), x,"),
    "what others hold": lambda text: text.replace("self.stream_bias)", "self.norm.weight)"),
    "a call": lambda text: text.replace("self.stream_bias)", "self.stream_bias())"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_source_that_was_tampered_with_is_refused(name: str) -> None:
    model, masks = lively(Net())
    _, plan = plans(model, masks)
    require_refused(plan, model, CHANGES[name])


def test_biases_are_called_so() -> None:
    model, masks = lively(Net())
    _, plan = plans(model, masks)
    text = plan.to_json().replace('"attribute":"stream_bias"', '"attribute":"forward"')
    with pytest.raises(PlanFormatError, match="as no bias is"):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("old", "new", "may"),
    [
        ("x + y", "add_rows(x, y, 1, [2])", True),
        ("x + y", "add_rows(y, x, 1, 2)", True),
        ("f(x) + y", "add_rows(y, f(x), 1, 2)", False),
        ("f(x) + y", "add_rows(rows=f(x), stream=y, dim=1, indices=2)", True),
        ("f(x) + y", "add_rows(rows=f(x), stream=y, dim=1, indices=2, bias=self.stream_bias_2)", True),
        ("f(x) + y", "add_rows(stream=f(x), rows=y, dim=1, indices=2)", False),
        ("x - y", "add_rows(x, y, 1, 2)", False),
        ("x + y", "add_rows(x, z, 1, 2)", False),
        ("x + y", "add_rows(x, y, 1)", False),
        ("x + y", "add_rows(x, y, 1, 2, self.other)", False),
        ("x + y", "add_rows(x, y, 1, 2, f().stream_bias)", False),
    ],
)
def test_source_from_files_may_add_rows_of_the_same_tensors(old: str, new: str, may: bool) -> None:
    one, other = expressions(old, new)
    assert isinstance(one, ast.BinOp)
    assert AddRows.may_replace_operation(one, other, are_alike) is may


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("indices", [[4, 0, 2], 1])
def test_rows_are_added_to_their_places(
    dim: int, layout: torch.memory_format, indices: int | list[int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    stream = torch.randn(5, 5, 5, 5, generator=generator).contiguous(memory_format=layout)
    part = torch.randn(5, 5, 5, 5, generator=generator).narrow(dim, 0, 3).contiguous(memory_format=layout)
    before, bias = stream.clone(), torch.randn(5, generator=generator)
    places = indices if isinstance(indices, list) else [1, 2, 3]
    wanted = stream.clone()
    for n, place in enumerate(places):
        wanted.select(dim, place).add_(part.select(dim, n))
    torch.testing.assert_close(add_rows(stream, part, dim, indices), wanted)
    shape = [1] * 4
    shape[dim] = 5
    torch.testing.assert_close(add_rows(stream, part, dim, indices, bias), wanted + bias.reshape(shape))
    assert torch.equal(stream, before)


def test_torch_fx_traces_the_call_as_it_is() -> None:
    model, masks = lively(Net(InPlace))
    _, plan = plans(model, masks)
    require_traced_by_fx(materialize(plan).eval(), add_rows)
