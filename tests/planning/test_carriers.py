"""Constants that differ near borders: of many channels a few carry the others, exactly at every size."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speedup import Plan, apply_masks, materialize, plan_speedup
from speedup.errors import InputError, PlanFormatError
from speedup.ir.edits import CombineColumns
from tests.support import lowered
from tests.support.lively import make_lively
from tests.support.lowered import images
from tests.support.masking import Masks, filters

WIDE = 24
SIZES = (1, 2, 3, 4, 5, 8, 13, 16)


class Inverted(nn.Module):
    """Widen, look around in each channel, narrow: channels that the first layer's mask frees are constant."""

    def __init__(
        self, look: Callable[[int], nn.Module], rank: int = 2, behind: nn.Module | None = None
    ) -> None:
        super().__init__()
        conv, norm = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))[
            rank - 1
        ]
        self.widen = conv(3, WIDE, 1)
        self.first = norm(WIDE)
        self.look = look(WIDE)
        self.second = norm(WIDE)
        self.behind = nn.Identity() if behind is None else behind
        self.narrow = conv(WIDE, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.first(self.widen(x)))
        x = self.behind(F.silu(self.second(self.look(x))))
        out: Tensor = self.narrow(x)
        return out


def masks_of(model: nn.Module, count: int = 20) -> Masks:
    return {"widen": filters(model.widen, *range(count))}


def lively(model: nn.Module, masks: Masks, rank: int = 2) -> nn.Module:
    make_lively(model, images(8, 8, 3, rank).float(), seed=5, recipe=lambda _: masks)
    return model.double().eval()


def plans(model: nn.Module, masks: Masks, size: int = 8, rank: int = 2) -> tuple[Plan, Plan]:
    """Without carriers, and with them."""
    x = images(size, 2, 0, rank)
    without = plan_speedup(model, x, masks, lowerings="none")
    assert not any(isinstance(edit, CombineColumns) for edit in without.edits)
    return without, plan_speedup(model, x, masks)


def require_exact(
    plan: Plan, model: nn.Module, masks: Masks, rank: int = 2, sizes: Sequence[int] = SIZES
) -> None:
    lowered.require_exact(plan, model, masks, sizes, rank)


def width(plan: Plan, name: str = "narrow.weight") -> int:
    small = materialize(plan, verify="none")
    return small.get_parameter(name).shape[1]


def depthwise(rank: int = 2, **options: Any) -> Callable[[int], nn.Module]:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    return lambda channels: kind(channels, channels, groups=channels, **options)


WINDOWS: Mapping[str, tuple[dict[str, Any], int]] = {
    "3x3": ({"kernel_size": 3, "padding": 1}, 4 + 15),
    "every other": ({"kernel_size": 3, "padding": 1, "stride": 2}, 4 + 15),
    "every third": ({"kernel_size": 3, "padding": 1, "stride": 3}, 4 + 15),
    "apart": ({"kernel_size": 3, "padding": 2, "dilation": 2}, 4 + 15),
    "even": ({"kernel_size": 2, "padding": 1}, 4 + 8),
    "same": ({"kernel_size": 3, "padding": "same"}, 4 + 15),
    "same, even": ({"kernel_size": 2, "padding": "same"}, 4 + 3),
    "one way": ({"kernel_size": (3, 1), "padding": (1, 0)}, 4 + 3),
    "two ways": ({"kernel_size": (1, 3), "padding": (0, 1), "stride": (2, 1)}, 4 + 3),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_few_channels_carry_all_that_differ_near_borders(name: str) -> None:
    """No more than the classes of positions, less the one that a bias takes."""
    options, most = WINDOWS[name]
    model = Inverted(depthwise(**options))
    masks = masks_of(model)
    without, plan = plans(lively(model, masks), masks)
    assert width(without) == WIDE
    assert width(plan) <= min(most, WIDE - 1)
    require_exact(plan, model, masks)


def test_along_one_axis_three_carry() -> None:
    model = Inverted(depthwise(1, kernel_size=3, padding=1), rank=1)
    masks = masks_of(model)
    _, plan = plans(lively(model, masks, 1), masks, rank=1)
    assert width(plan) <= 4 + 3
    require_exact(plan, model, masks, 1, (1, 2, 3, 7, 16, 33))


def test_three_axes_have_classes_of_their_own() -> None:
    model = Inverted(depthwise(3, kernel_size=(3, 1, 2), padding=(1, 0, 1)), rank=3)
    masks = masks_of(model)
    _, plan = plans(lively(model, masks, 3), masks, rank=3)
    assert width(plan) < WIDE
    require_exact(plan, model, masks, 3, (1, 2, 3, 5))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_example_s_size_makes_no_difference(size: int) -> None:
    model = Inverted(depthwise(kernel_size=3, padding=1))
    masks = masks_of(model)
    lively(model, masks)
    _, plan = plans(model, masks)
    _, other = plans(model, masks, size)
    assert [e for e in plan.edits if isinstance(e, CombineColumns)] == [
        e for e in other.edits if isinstance(e, CombineColumns)
    ]
    require_exact(other, model, masks)


def test_windows_behind_windows_have_classes_together() -> None:
    def look(channels: int) -> nn.Module:
        one = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0), groups=channels)
        other = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0), stride=(2, 1), groups=channels)
        return nn.Sequential(one, nn.Tanh(), other)

    model = Inverted(look)
    masks = masks_of(model)
    without, plan = plans(lively(model, masks), masks)
    assert width(plan) < width(without)
    require_exact(plan, model, masks)


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(2)])
def test_averages_over_positions_mix_classes_alike(pool: nn.Module) -> None:
    model = Inverted(depthwise(kernel_size=3, padding=1), behind=pool)
    masks = masks_of(model)
    without, plan = plans(lively(model, masks), masks)
    assert width(plan) < width(without) == WIDE
    require_exact(plan, model, masks, sizes=SIZES[1:])


class Mean(nn.Module):
    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims, keepdim=True)


class Upsampled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear")


class Rolled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, 1)


# What stands before the last layer -> whether the channels that differ near borders can go all the same.
BEHIND: Mapping[str, tuple[Callable[[], nn.Module], bool]] = {
    "mean over space": (lambda: Mean(2, 3), True),
    "mean over one axis": (lambda: Mean(3), False),
    "upsampled": (Upsampled, True),
    "dropout": (nn.Dropout, True),
    "slopes": (lambda: nn.PReLU(WIDE), True),
    "maximum": (lambda: nn.MaxPool2d(2, ceil_mode=True), False),
    "a mean that counts padding": (lambda: nn.AvgPool2d(3, stride=2, padding=1), False),
    "group norm": (lambda: nn.GroupNorm(4, WIDE), False),
    "instance norm": (lambda: nn.InstanceNorm2d(WIDE), False),
    "mean, then not linear": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Sigmoid()), False),
    "softmax over channels": (lambda: nn.Softmax(1), False),
    "channels turned": (Rolled, False),
}


@pytest.mark.parametrize("name", BEHIND)
def test_readers_that_cannot_be_told_of_borders_keep_them(name: str) -> None:
    make, goes = BEHIND[name]
    model = Inverted(depthwise(kernel_size=3, padding=1), behind=make())
    masks = masks_of(model)
    without, plan = plans(lively(model, masks), masks)
    assert (width(plan) < width(without)) is goes
    require_exact(plan, model, masks, sizes=(2, 3, 5, 8))


class Folded(nn.Module):
    """Channels that differ near borders are added up with one another, or multiplied with others."""

    def __init__(self, fold: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.widen, self.other = nn.Conv2d(3, WIDE, 1), nn.Conv2d(3, WIDE, 1)
        self.look = nn.Conv2d(WIDE, WIDE, 3, padding=1, groups=WIDE)
        self.fold = fold

    def forward(self, x: Tensor) -> Tensor:
        return self.fold(self.look(torch.sigmoid(self.widen(x))), self.other(x))


def attend(a: Tensor, b: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(a, b, b, scale=0.1)


FOLDS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda a, b: a.sum(1) + b.sum(1),
    "mean": lambda a, b: a.mean(1),
    "norm": lambda a, b: torch.linalg.vector_norm(a, dim=1),
    "product": lambda a, b: torch.einsum("nchw,nchw->nhw", a, b),
    "product of matrices": lambda a, b: a.flatten(2).transpose(1, 2) @ b.flatten(2),
    "layer norm": lambda a, b: F.layer_norm(a.permute(0, 2, 3, 1), (WIDE,)).sum(-1),
    "distance": lambda a, b: torch.cdist(a.flatten(2).transpose(1, 2), b.flatten(2).transpose(1, 2)),
    "similarity": F.cosine_similarity,
    "attention": lambda a, b: attend(a.flatten(2).transpose(1, 2), b.flatten(2).transpose(1, 2)),
}


@pytest.mark.parametrize("name", FOLDS)
def test_channels_that_are_added_up_stay(name: str) -> None:
    model = Folded(FOLDS[name])
    masks = masks_of(model)
    lively(model, masks)
    _, plan = plans(model, masks)
    require_exact(plan, model, masks, sizes=(2, 3, 5, 8))


class Two(nn.Module):
    """Two layers look around the same constants; what they see is combined, or read by one layer in turn."""

    def __init__(self, kernels: tuple[int, int], combine: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.widen = nn.Conv2d(3, WIDE, 1)
        self.look, self.glance = (nn.Conv2d(WIDE, WIDE, k, padding=k // 2, groups=WIDE) for k in kernels)
        self.combine = combine
        self.narrow = nn.Conv2d(WIDE, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.widen(x))
        out: Tensor = self.narrow(self.combine(self.look(x), self.glance(x)))
        return out


@pytest.mark.parametrize(
    ("kernels", "combine", "goes"),
    [
        ((3, 3), torch.add, True),
        ((3, 3), torch.mul, True),
        ((3, 1), torch.add, True),
        ((3, 3), lambda a, b: torch.cat([a, b], 1)[:, :WIDE], False),
        ((3, 5), torch.add, False),
    ],
)
def test_operands_go_together_where_their_classes_do(
    kernels: tuple[int, int], combine: Callable[[Tensor, Tensor], Tensor], goes: bool
) -> None:
    model = Two(kernels, combine)
    masks = masks_of(model)
    without, plan = plans(lively(model, masks), masks)
    assert (width(plan) < width(without)) is goes
    require_exact(plan, model, masks)


class Reader(nn.Module):
    """`narrow` reads what differs near borders, in a way of its own."""

    def __init__(self, narrow: nn.Module, twice: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.widen = nn.Conv2d(3, WIDE, 1, bias=bias)
        self.look = nn.Conv2d(WIDE, WIDE, 3, padding=1, groups=WIDE)
        self.narrow = narrow
        self.twice = twice

    def forward(self, x: Tensor) -> Tensor:
        seen = F.silu(self.look(torch.sigmoid(self.widen(x))))
        out: Tensor = self.narrow(seen)
        return out + self.narrow(seen.flip(2)) if self.twice else out


@pytest.mark.parametrize(
    ("narrow", "least"),
    [
        (lambda: nn.Conv2d(WIDE, 8, 1, bias=False), 1),
        (lambda: nn.Conv2d(WIDE, 8, 3, padding=1), 1),
        (lambda: nn.Conv2d(WIDE, 8, 3, padding=1, padding_mode="reflect"), 0),
        (lambda: nn.Conv2d(WIDE, 8, 2, stride=2), 1),
        (lambda: nn.ConvTranspose2d(WIDE, 8, 2, stride=2), 1),
        (lambda: nn.Conv2d(WIDE, 8, 1, groups=2), 0),
    ],
)
def test_every_kind_of_layer_takes_over_what_its_input_lost(
    narrow: Callable[[], nn.Module], least: int
) -> None:
    model = Reader(narrow())
    masks = masks_of(model, 22)
    without, plan = plans(lively(model, masks), masks)
    assert sum(isinstance(e, CombineColumns) for e in plan.edits) >= least
    assert plan.parameters_after <= without.parameters_after - least
    require_exact(plan, model, masks, sizes=(2, 3, 5, 8))


def test_groups_carry_for_themselves() -> None:
    model = Reader(nn.Conv2d(WIDE, 8, 1, groups=2))
    model.look = nn.Conv2d(WIDE, WIDE, (3, 1), padding=(1, 0), groups=WIDE)
    masks = masks_of(model, 22)
    _, plan = plans(lively(model, masks), masks)
    assert len([e for e in plan.edits if isinstance(e, CombineColumns)]) == 2
    require_exact(plan, model, masks)


def test_weight_that_another_call_reads_too_stays_as_it_is() -> None:
    model = Reader(nn.Conv2d(WIDE, 8, 1), twice=True)
    masks = masks_of(model)
    without, plan = plans(lively(model, masks), masks)
    assert plan.edits == without.edits
    require_exact(plan, model, masks)


def test_calls_of_other_sizes_share_the_carriers() -> None:
    model = Inverted(depthwise(kernel_size=3, padding=1))
    masks = masks_of(model)
    lively(model, masks)
    plan = plan_speedup(model, images(8, 2, 0), masks, others=[images(5, 2, 0), images(1, 1, 0)])
    assert width(plan) < WIDE
    require_exact(plan, model, masks)


def test_output_keeps_all_of_its_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, WIDE, 1), nn.Conv2d(WIDE, WIDE, 3, padding=1, groups=WIDE))
    masks = {"0": filters(model[0], *range(20))}
    lively(model, masks)
    plan = plan_speedup(model, images(8, 2, 0), masks)
    assert plan.parameters_after == plan.parameters_before


def test_in_single_precision_the_error_stays_that_of_rounding() -> None:
    model = Inverted(depthwise(kernel_size=3, padding=1))
    masks = masks_of(model)
    lively(model, masks)
    exact = apply_masks(model, masks).eval()
    model.float()
    plan = plan_speedup(model, images(8, 2, 0).float(), masks)
    assert width(plan) < WIDE
    small = materialize(plan)
    x = images(13, 2, 1)
    with torch.no_grad():
        apart = (small(x.float()).double() - exact(x)).abs().max() / exact(x).std()
    assert apart < 1e-5


def test_plan_goes_to_text_and_back_and_onto_another_model() -> None:
    model = Inverted(depthwise(kernel_size=3, padding=1))
    masks = masks_of(model)
    _, plan = plans(lively(model, masks), masks)
    assert any(isinstance(edit, CombineColumns) for edit in plan.edits)
    again = Plan.from_json(plan.to_json())
    assert again == plan and again.to_json() == plan.to_json()
    one, other = materialize(plan), materialize(again, model=model)
    for first, second in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)


def test_text_with_the_wrong_number_of_factors_is_refused() -> None:
    model = Inverted(depthwise(kernel_size=3, padding=1))
    masks = masks_of(model)
    _, plan = plans(lively(model, masks), masks)
    body = json.loads(plan.to_json())
    edit = next(e for e in body["edits"] if e["kind"] == "CombineColumns")
    for change in ({"into": "0"}, {"columns": "99"}, {"rows": [4, 99]}, {"into": "0-99"}):
        edits = [{**edit, **change}]
        with pytest.raises(PlanFormatError, match=r"a CombineColumns of 'narrow\.weight'"):
            Plan.from_json(json.dumps({**body, "edits": edits}))


def test_plan_says_what_it_did_and_what_differs_without() -> None:
    model = Inverted(depthwise(kernel_size=3, padding=1))
    masks = masks_of(model)
    without, plan = plans(lively(model, masks), masks)
    assert "constants that differ near borders into 15 channels" in str(plan.explain("narrow"))
    assert "a few channels of what narrow reads" in str(plan.explain("widen"))
    assert "columns along dimension 1 to" in str(without.diff(plan))


def test_trains_on() -> None:
    model = Inverted(depthwise(kernel_size=3, padding=1))
    masks = masks_of(model)
    _, plan = plans(lively(model, masks), masks)
    small = materialize(plan).train()
    small(images(8, 2, 0)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in small.parameters())


@pytest.mark.parametrize(
    ("lowerings", "words"),
    [
        ("all", 'neither "auto" nor "none"'),
        ("carriers", "pass a set"),
        ({"carrier"}, "did you mean 'carriers'"),
        ({"magic"}, "there are carriers"),
        ([3], "names 3, which is none"),
    ],
)
def test_unknown_lowerings_are_refused(lowerings: Any, words: str) -> None:
    model = nn.Conv2d(3, 4, 1)
    with pytest.raises(InputError, match=words):
        plan_speedup(model, torch.randn(1, 3, 4, 4), {}, lowerings=lowerings)


def test_named_lowerings_are_those_of_auto() -> None:
    model = Inverted(depthwise(kernel_size=3, padding=1))
    masks = masks_of(model)
    lively(model, masks)
    plan = partial(plan_speedup, model, images(8, 2, 0), masks)
    assert plan(lowerings={"carriers", "maps"}) == plan()
    assert plan(lowerings=()) == plan(lowerings="none")
