"""Channel shuffles: any channel may go, as one selection in place of a view, a transpose and a view."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speedup import Plan, materialize, plan_speedup, verify
from speedup.ir.edits import RewriteForward
from speedup.lowerings import PassOn
from tests.support import lowered
from tests.support.lowered import (
    are_alike,
    expressions,
    half_masked,
    images,
    plans_with,
    require_any_batch_and_compiled_whole,
    require_refused,
    rewritten,
)
from tests.support.masking import Masks, rows
from tests.support.vision import torchvision_models

WIDE = 24


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    x = x.view(batch, channels, height, width)
    return x


class Net(nn.Module):
    """Two blocks, each of which changes half of the channels and mixes them with the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2 * WIDE, 3, padding=1)
        self.first, self.second = (nn.Conv2d(WIDE, WIDE, 3, padding=1) for _ in range(2))
        self.last = nn.Conv2d(2 * WIDE, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for layer in (self.first, self.second):
            kept, changed = x.chunk(2, dim=1)
            x = self.shuffle(torch.cat((kept, F.relu(layer(changed))), dim=1))
        out: Tensor = self.last(x)
        return out

    def shuffle(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Called(nn.Module):
    """A shuffle in a module of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return channel_shuffle(x, 2)


class Nested(Net):
    """One module for each shuffle, as both are to select other indices."""

    def __init__(self) -> None:
        super().__init__()
        self.shuffles = nn.ModuleList([self.made() for _ in range(2)])

    def made(self) -> nn.Module:
        return Called()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for layer, shuffle in zip((self.first, self.second), self.shuffles, strict=True):
            kept, changed = x.chunk(2, dim=1)
            x = shuffle(torch.cat((kept, F.relu(layer(changed))), dim=1))
        out: Tensor = self.last(x)
        return out


class InOneLine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.reshape(b, 2, c // 2, h, w).permute(0, 2, 1, 3, 4).reshape(b, c, h, w)


class ByNames(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(torch.swapaxes(x.unflatten(1, (2, -1)), 1, 2), 1, 2)


class OfASum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return (x + 1).view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w) * 2


plans = partial(plans_with, "shuffles")
require_exact = partial(lowered.require_exact, sizes=(1, 2, 5, 16, 33))


def lively(model: nn.Module) -> tuple[nn.Module, Masks]:
    return half_masked(model, ("last",))


def net(kind: type[nn.Module]) -> tuple[nn.Module, Masks]:
    class Of(Nested):
        def made(self) -> nn.Module:
            return kind()

    return lively(Of())


@pytest.mark.parametrize("kind", [Called, InOneLine, ByNames, OfASum])
def test_any_channel_goes_however_the_shuffle_is_written(kind: type[nn.Module]) -> None:
    model, masks = net(kind)
    without, plan = plans(model, masks)
    assert plan.macs_after < 0.8 * without.macs_after
    assert {"shuffles.0", "shuffles.1"} <= set(rewritten(plan))
    require_exact(plan, model, masks)
    verify(plan, materialize(plan))


def test_torchvision_s_blocks_select() -> None:
    block = torchvision_models().shufflenetv2.InvertedResidual(2 * WIDE, 2 * WIDE, 1)
    model, masks = lively(
        nn.Sequential(nn.Conv2d(3, 2 * WIDE, 3, padding=1), block, nn.Conv2d(2 * WIDE, 4, 1))
    )
    del masks["2"]
    without, plan = plans(model, masks, 64)
    assert plan.macs_after < without.macs_after
    small = require_exact(plan, model, masks)
    assert type(small.get_submodule("1")).__name__ == "InvertedResidual"


class Once(Net):
    """One function, called twice in one forward, which cannot select this here and that there."""

    def shuffle(self, x: Tensor) -> Tensor:
        return channel_shuffle(x, 2)


def test_source_that_two_calls_share_stays() -> None:
    model, masks = lively(Once())
    without, plan = plans(model, masks)
    assert plan.edits == without.edits
    require_exact(plan, model, masks)


def test_source_that_is_not_at_hand_stays() -> None:
    scope: dict[str, type[nn.Module]] = {"nn": nn}  # type: ignore[dict-item]
    exec(
        "class Hidden(nn.Module):\n"
        "    def forward(self, x):\n"
        "        b, c, h, w = x.shape\n"
        "        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)\n",
        scope,
    )
    model, masks = net(scope["Hidden"])
    without, plan = plans(model, masks)
    assert plan.edits == without.edits
    require_exact(plan, model, masks)


def test_modules_that_are_to_be_kept_keep_their_shuffle() -> None:
    model, masks = net(Called)
    x = images(32, 2, 0)
    plan = plan_speedup(model, x, masks, keep=["shuffles.0"])
    assert "shuffles.0" not in rewritten(plan)
    require_exact(plan, model, masks)


def test_what_saves_less_than_a_call_is_not_taken() -> None:
    model, masks = net(Called)
    without, plan = plans(model, masks, size=4)
    assert plan.edits == without.edits


class Plain(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 2 * WIDE, 3, padding=1), Called(), nn.Conv2d(2 * WIDE, 32, 3, padding=1)
        )


@pytest.mark.parametrize(("gone", "selects"), [((0, 1, WIDE, WIDE + 1), False), ((0, 1, 2, 3), True)])
def test_masks_that_agree_need_no_selection(gone: tuple[int, ...], selects: bool) -> None:
    model = Plain().double().eval()
    masks = {"0": rows(model.get_submodule("0"), *gone)}
    without, plan = plans(model, masks)
    assert (plan.macs_after < without.macs_after) is selects
    assert (plan.edits == without.edits) is not selects
    require_exact(plan, model, masks)


def test_a_shuffle_that_needs_no_selection_stays_beside_one_that_does() -> None:
    model = nn.Sequential(Plain(), nn.Conv2d(32, 2 * WIDE, 3, padding=1), *list(Plain())[1:]).double().eval()
    masks = {
        "0.0": rows(model.get_submodule("0.0"), 0, 1, WIDE, WIDE + 1),
        "1": rows(model.get_submodule("1"), 0, 1),
    }
    _, plan = plans(model, masks)
    assert rewritten(plan) == ["2"]
    require_exact(plan, model, masks)


@pytest.mark.parametrize(("size", "pays"), [(15, False), (16, True)])
def test_what_pays_is_told_by_one_sample(size: int, pays: bool) -> None:
    """Here 1,260 multiply-accumulates are saved at each position."""
    model = Plain().double().eval()
    masks = {"0": rows(model.get_submodule("0"), 0, 1, 2, 3)}
    for batch in (1, 2, 5):
        plan = plan_speedup(model, images(size, batch, 0), masks)
        assert any(isinstance(edit, RewriteForward) for edit in plan.edits) is pays, f"batch {batch}"


def test_the_small_model_lives_like_the_other() -> None:
    model, masks = net(Called)
    _, plan = plans(model, masks)
    small = materialize(plan)
    x = images(16, 2, 0)
    again = copy.deepcopy(small)
    assert list(again.state_dict()) == list(model.state_dict())
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(x), small(x))
    read = materialize(Plan.from_json(plan.to_json()), model=model)
    assert torch.equal(read(x), small(x))
    small.train()(x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in small.parameters())


def test_it_exports_with_any_batch_and_compiles_whole() -> None:
    model, masks = net(Called)
    _, plan = plans(model, masks)
    small = materialize(plan).eval()
    require_any_batch_and_compiled_whole(small)


CHANGES: Mapping[str, Callable[[str], str]] = {
    "another function": lambda source: source.replace("select_indices(", "exit("),
    "another tensor": lambda source: source.replace("select_indices(x", "select_indices(groups"),
    "what is no number": lambda source: source.replace(", 1, [", ", x, ["),
}


@pytest.mark.parametrize("name", CHANGES)
def test_source_that_was_tampered_with_is_refused(name: str) -> None:
    model, masks = net(Called)
    _, plan = plans(model, masks)
    require_refused(plan, model, CHANGES[name])


@pytest.mark.parametrize(
    ("old", "new", "may"),
    [
        ("x.view(b, 2, -1)", "x", True),
        ("torch.transpose(x, 1, 2)", "x", True),
        ("torch.transpose(x, 1, 2)", "y", False),
        ("check(x)", "x", False),
        ("x.clamp(0, 1)", "x", False),
    ],
)
def test_source_from_files_may_leave_out_calls_that_arrange(old: str, new: str, may: bool) -> None:
    one, other = expressions(old, new)
    assert isinstance(one, ast.Call)
    assert PassOn.may_replace(one, other, are_alike) is may
