"""What constants that differ near borders add to a convolution becomes a map, exactly at every size."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speedup import Plan, apply_masks, load, materialize, plan_speedup, save
from speedup.errors import PlanFormatError
from speedup.lowerings.add_border import AddBorder, add_border
from speedup.planning import coupling, verdicts
from tests.support.lively import make_lively
from tests.support.lowered import (
    are_alike,
    expressions,
    images,
    require_any_batch_and_compiled_whole,
    require_exact,
    require_refused,
    require_same_in_channels_last,
    rewritten,
    sources,
)
from tests.support.masking import Masks, filters
from tests.support.measure import relative_error

WIDE, GONE = 64, 44
SIZES = (1, 2, 3, 4, 5, 8, 13, 16)
LOWERINGS = ("carriers", "maps")
KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Inverted(nn.Module):
    """Widen, look around in each channel, narrow."""

    def __init__(self, *look: nn.Module, last: nn.Module | None = None, rank: int = 2) -> None:
        super().__init__()
        self.widen = KINDS[rank - 1](3, WIDE, 1)
        self.look = nn.ModuleList(look)
        self.last = last or KINDS[rank - 1](WIDE, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.widen(x))
        for layer in self.look:
            x = F.silu(layer(x))
        out: Tensor = self.last(x)
        return out


def around(kernel: Any = 3, rank: int = 2, **options: Any) -> nn.Module:
    return KINDS[rank - 1](WIDE, WIDE, kernel, groups=WIDE, **{"padding": 1, **options})


def masked(model: nn.Module, rank: int = 2) -> tuple[nn.Module, Masks]:
    masks = {"widen": filters(model.widen, *range(GONE))}
    make_lively(model, images(8, 8, 3, rank).float(), seed=5, recipe=lambda _: masks)
    return model.double().eval(), masks


def planned(model: nn.Module, masks: Masks, size: int = 8, rank: int = 2) -> tuple[Plan, Plan]:
    """With carriers, and with maps too."""
    x = images(size, 2, 0, rank).to(next(model.parameters()).dtype)
    without = plan_speedup(model, x, masks, lowerings={"carriers"})
    return without, plan_speedup(model, x, masks, lowerings=set(LOWERINGS))


def width(plan: Plan) -> int:
    """How many channels are computed."""
    return materialize(plan, verify="none").get_parameter("widen.weight").shape[0]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps cost nothing."""
    for module, name in ((verdicts, "CALLS_OF_MAP"), (verdicts, "ADDED"), (coupling, "CALL")):
        monkeypatch.setattr(module, name, 0)


WINDOWS: Mapping[str, Callable[[], Sequence[nn.Module]]] = {
    "3x3": lambda: [around()],
    "5x5": lambda: [around(5, padding=2)],
    "apart": lambda: [around(padding=2, dilation=2)],
    "even": lambda: [around(2)],
    "same": lambda: [around(padding="same")],
    "same, even": lambda: [around(2, padding="same")],
    "more padding than it reaches over": lambda: [around(padding=2)],
    "one way": lambda: [around((3, 1), padding=(1, 0))],
    "two ways": lambda: [around((5, 3), padding=(2, 1))],
    "twice": lambda: [around(), around(5, padding=2)],
    "without padding behind": lambda: [around(), around(padding=0)],
    "a bias is missing": lambda: [around(bias=False)],
}


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("name", WINDOWS)
def test_no_channel_has_to_carry_others(name: str) -> None:
    model, masks = masked(Inverted(*WINDOWS[name]()))
    without, plan = planned(model, masks)
    assert width(without) > width(plan) == WIDE - GONE and rewritten(plan) == ["last"]
    require_exact(
        plan, model, masks, [size for size in SIZES if size > 2 or name != "without padding behind"]
    )


LAST: Mapping[str, Callable[[], nn.Module]] = {
    "with a window": lambda: nn.Conv2d(WIDE, 8, 3, padding=1),
    "with a window and no padding": lambda: nn.Conv2d(WIDE, 8, 3),
    "with windows of two kinds": lambda: nn.Conv2d(WIDE, 8, (3, 2), padding=(1, 0), dilation=(1, 2)),
    "with no bias": lambda: nn.Conv2d(WIDE, 8, 1, bias=False),
    "with a norm": lambda: nn.Sequential(nn.Conv2d(WIDE, 8, 1, bias=False), nn.BatchNorm2d(8)),
    "in groups": lambda: nn.Conv2d(WIDE, 8, 1, groups=2),
}


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("name", LAST)
def test_any_convolution_may_read_them(name: str) -> None:
    model, masks = masked(Inverted(around(), last=LAST[name]()))
    without, plan = planned(model, masks)
    assert width(without) > width(plan) >= WIDE - GONE and len(rewritten(plan)) == 1
    require_exact(plan, model, masks, SIZES[2:])


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("rank", [1, 3])
def test_along_one_axis_and_three(rank: int) -> None:
    model, masks = masked(Inverted(around(3, rank), rank=rank), rank)
    without, plan = planned(model, masks, 6, rank)
    assert width(without) > width(plan) == WIDE - GONE
    require_exact(plan, model, masks, (1, 2, 3, 6), rank)


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("name", ["stride", "stride of the last", "twice"])
def test_where_ends_do_not_tell_positions_apart_channels_carry_others(name: str) -> None:
    """What a stride skips at the end follows the length before it."""
    last = nn.Conv2d(WIDE, 8, 3, 2, 1) if name == "stride of the last" else None
    look = {"stride": [around(stride=2)], "twice": [around(), around(stride=2)]}.get(name, [around()])
    model, masks = masked(Inverted(*look, last=last))
    without, plan = planned(model, masks)
    assert without.edits == plan.edits
    require_exact(plan, model, masks, SIZES)


class Shared(nn.Module):
    """Two layers read the channels, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(WIDE, 8, 1), nn.Conv2d(WIDE, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.one(x) + self.other(x)
        return result


class Twice(Shared):
    """One layer reads the channels, and what is made of them."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.one(x) + self.one(torch.tanh(x))
        return result


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("last", [Shared, Twice])
def test_several_readers(last: Callable[[], nn.Module]) -> None:
    model, masks = masked(Inverted(around(), last=last()))
    plan = planned(model, masks)[1]
    assert rewritten(plan) == (["last.one", "last.other"] if last is Shared else [])
    require_exact(plan, model, masks, SIZES)


def test_a_map_is_added_where_it_pays() -> None:
    model, masks = masked(Inverted(around(5, padding=2)))
    plan = planned(model, masks, 64)[1]
    (choice,) = (c for c in plan.report.choices if c.lowering == "maps")
    assert not choice.why_not and choice.channels > 0 and choice.macs > 0
    assert "return add_border(F.conv2d(\n" in sources(plan)
    assert ", self.border_map, [2, 2])" in sources(plan)
    assert plan.report.macs[1] < planned(model, masks, 64)[0].report.macs[1]


def test_it_is_not_added_where_it_does_not_pay() -> None:
    model, masks = masked(Inverted(around()))
    without, plan = planned(model, masks)
    assert without.edits == plan.edits
    (choice,) = (c for c in plan.report.choices if c.lowering == "maps")
    assert choice.why_not == "that saves less than adding a map costs" and choice.macs == 0


def test_numbers_that_are_added_count() -> None:
    """A result with many channels on a large map costs more than carriers do."""
    model, masks = masked(Inverted(around(), last=nn.Conv2d(WIDE, 200, 1, groups=2)))
    without, plan = planned(model, masks, 64)
    (choice,) = (c for c in plan.report.choices if c.lowering == "maps")
    assert without.edits == plan.edits and choice.channels > 0
    assert choice.why_not == "that saves less than adding a map costs"


def test_maps_alone_do_nothing() -> None:
    model, masks = masked(Inverted(around(5, padding=2)))
    x = images(64, 2, 0)
    plan = plan_speedup(model, x, masks, lowerings={"maps"})
    assert plan.edits == plan_speedup(model, x, masks, lowerings="none").edits


@pytest.mark.usefixtures("free")
def test_the_small_model_is_native(tmp_path: Path) -> None:
    model, masks = masked(Inverted(around()))
    plan = planned(model, masks)[1]
    small = materialize(plan)
    assert isinstance(small.get_submodule("last"), nn.Conv2d)
    require_same_in_channels_last(materialize(plan))
    require_any_batch_and_compiled_whole(small)
    path = tmp_path / "small.safetensors"
    save(small, plan, path)
    again = load(path, lambda: masked(Inverted(around()))[0])
    assert torch.equal(again(images(13, 2, 1)), small(images(13, 2, 1)))
    assert Plan.from_json(plan.to_json()) == plan
    small.train()(images(8, 2, 1)).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in small.parameters())


@pytest.mark.usefixtures("free")
def test_an_export_may_leave_the_size_open() -> None:
    model, masks = masked(Inverted(around(5, padding=2)))
    small = materialize(planned(model, masks)[1])
    ends = {
        0: torch.export.Dim("n", max=64),
        2: torch.export.Dim("h", max=64),
        3: torch.export.Dim("w", max=64),
    }
    exported = torch.export.export(small, (images(16, 2, 0),), dynamic_shapes=(ends,)).module()
    for shape in ((3, 3, 5, 4), (2, 3, 2, 9), (2, 3, 31, 17)):
        x = torch.randn(shape).double()
        torch.testing.assert_close(exported(x), small(x))


@pytest.mark.usefixtures("free")
def test_single_samples_and_other_types() -> None:
    model, masks = masked(Inverted(around()))
    small, whole = materialize(planned(model, masks)[1]), apply_masks(model, masks)
    x = images(9, 1, 2)[0]
    torch.testing.assert_close(small(x), whole(x))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert small.float()(images(9, 2, 2).float()).dtype is torch.bfloat16


@pytest.mark.usefixtures("free")
def test_several_examples_keep_carriers() -> None:
    """Their calls share the weight."""
    model, masks = masked(Inverted(around()))
    calls = [images(size, 2, 0) for size in (8, 12)]
    plan = plan_speedup(model, calls[0], masks, others=calls[1:], lowerings=set(LOWERINGS))
    assert rewritten(plan) == []
    small, whole = materialize(plan), apply_masks(model, masks)
    assert relative_error(whole, small, [(images(13, 1, seed),) for seed in (3, 4)]) < 1e-9


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("self.border_map", "self.bias"),
        lambda text: text.replace(
            "input, weight, bias, self.stride, self.p", "weight, weight, bias, self.stride, self.p"
        ),
        lambda text: text.replace("self.border_map, [1, 1]", "self.border_map, len"),
    ],
)
def test_a_changed_plan_is_refused(change: Callable[[str], str]) -> None:
    model, masks = masked(Inverted(around()))
    require_refused(planned(model, masks)[1], model, change)


@pytest.mark.usefixtures("free")
def test_a_parameter_of_another_name_is_refused() -> None:
    model, masks = masked(Inverted(around()))
    text = planned(model, masks)[1].to_json()
    with pytest.raises(PlanFormatError):
        Plan.from_json(text.replace("border_map", "weights"))


@pytest.mark.parametrize(
    ("after", "may"),
    [
        ("add_border(f(x, w), self.border_map, [1, 1])", True),
        ("add_border(f(x, w), self.border_map_2, [0, 2])", True),
        ("add_border(f(x, y), self.border_map, [1, 1])", False),
        ("add_border(f(x, w), self.weight, [1, 1])", False),
        ("add_border(f(x, w), self.border_map, g())", False),
        ("add_border(f(x, w), self.border_map)", False),
        ("add_rows(f(x, w), self.border_map, [1, 1])", False),
    ],
)
def test_what_a_file_may_say(after: str, may: bool) -> None:
    old, new = expressions("f(x, w)", after)
    assert isinstance(old, ast.Call)
    assert AddBorder.may_replace(old, new, are_alike) is may


@pytest.mark.parametrize("last", [False, True])
def test_the_helper_adds_by_distances_from_the_ends(last: bool) -> None:
    """Hundreds tell the distance from the first position, tens that from the last, each up to two."""
    numbers = torch.tensor([100.0 * before + 10 * after for before in range(3) for after in range(3)])
    result = torch.zeros(2, 1, 3, 5)
    if last:
        result = result.contiguous(memory_format=torch.channels_last)
    found = add_border(result, numbers.reshape(1, 1, 9), [0, 2])
    assert found is result
    assert found[1, 0, 2].tolist() == [20, 120, 220, 210, 200]
    assert add_border(torch.zeros(1, 2), numbers.reshape(1, 9), [2]).tolist() == [[10, 100]]
