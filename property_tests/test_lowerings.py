"""Networks made for lowerings: constants near borders, orders of channels, sums, and what needs all rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from attrs import frozen
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from property_tests.budget import LOWERED, NIGHTLY
from speedup import Plan, apply_masks, materialize, plan_speedup
from speedup.ir.edits import CombineColumns
from tests.support.lively import make_lively
from tests.support.lowered import sources
from tests.support.masking import Masks, random_row_masks
from tests.support.measure import relative_error

_LEAST = 200
_ACTIVATIONS = (nn.Identity, nn.ReLU6, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardswish)
_POOLS: tuple[Callable[[], nn.Module], ...] = (
    nn.Identity,
    nn.Identity,
    lambda: nn.AvgPool2d(2),
    lambda: nn.AdaptiveAvgPool2d(2),
)


class Shuffle(nn.Module):
    """Channels in another order, in one of the ways to write it."""

    def __init__(self, groups: int, way: int) -> None:
        super().__init__()
        self.groups, self.way = groups, way

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        if self.way == 0:
            x = x.view(b, self.groups, c // self.groups, h, w)
            x = torch.transpose(x, 1, 2).contiguous()
            return x.view(b, c, h, w)
        if self.way == 1:
            return x.reshape(b, self.groups, -1, h, w).permute(0, 2, 1, 3, 4).reshape(b, c, h, w)
        return x.unflatten(1, (self.groups, -1)).swapaxes(1, 2).flatten(1, 2)


class Sum(nn.Module):
    """A branch, and its input or a projection of it, added in one of the ways to write it."""

    def __init__(self, width: int, way: int, project: bool, bias: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=bias)
        )
        self.norm = nn.BatchNorm2d(width) if bias else nn.Identity()
        self.project = nn.Conv2d(width, width, 1) if project else nn.Identity()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        if self.way == 0:
            return self.project(x) + self.norm(self.branch(x))
        if self.way == 1:
            return torch.add(self.norm(self.branch(x)), self.project(x))
        shortcut = self.project(x)
        x = self.branch(x)
        x = self.norm(x)
        x += shortcut
        return x


class Whole(nn.Module):
    """A layer behind which something needs all of its channels, also those that are constants."""

    def __init__(self, width: int, way: int, bias: bool) -> None:
        super().__init__()
        self.layer = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.way = way
        self.norm = nn.GroupNorm(4, width) if way == 0 else nn.Conv2d(width, width, 1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        if self.way < 2:
            return self.norm(self.layer(x))
        if self.way == 2:
            return self.layer(x).softmax(1)
        if self.way == 3:
            return self.layer(x) + x.mean((2, 3), keepdim=True)
        # Heads of attention, each of which has rows of its own.
        q = self.layer(x).unflatten(1, (4, -1)).flatten(-2).transpose(-1, -2)
        return nn.functional.scaled_dot_product_attention(q, q, q).transpose(-1, -2).reshape(x.shape)


class Gated(nn.Module):
    """Channels that are widened, looked around in, and gated, in one of the ways to write it, or not."""

    def __init__(self, width: int, way: int, padding: int) -> None:
        super().__init__()
        wide = 6 * width
        self.first = nn.Sequential(nn.Conv2d(width, wide, 1), nn.SiLU())
        kernel, padding = (5, 2 * padding) if way == 3 else (3, padding)
        self.around = nn.Sequential(nn.Conv2d(wide, wide, kernel, padding=padding, groups=wide), nn.SiLU())
        self.down, self.up, self.last = (nn.Conv2d(a, b, 1) for a, b in ((wide, 8), (8, wide), (wide, width)))
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        x = self.around(self.first(x))
        if self.way == 3:
            return self.last(x)
        gate = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))
        if self.way == 0:
            return self.last(gate * x)
        if self.way == 1:
            return self.last(x.mul(gate))
        return self.last(x * gate.expand_as(x))


@frozen
class Case:
    """A network with masks, an example, and which lowerings may be used."""

    model: nn.Module
    masks: Masks
    size: int
    others: tuple[tuple[int, int], ...]
    lowerings: Any


@st.composite
def _around(draw: st.DrawFn, width: int) -> nn.Module:
    """A convolution that looks around in each channel, or a few of them together."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    padding: Any = draw(st.sampled_from(["same", (1, 1), (0, 1), (2, 1), 0]))
    stride: Any = 1 if padding == "same" else draw(st.sampled_from([1, 1, 2, (2, 1), 3]))
    groups = draw(st.sampled_from([width, width, width, width // 2]))
    bias = draw(st.booleans())
    dilation = draw(st.sampled_from([1, 1, 2]))
    return nn.Conv2d(width, width, kernel, stride, padding, dilation, groups, bias)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A few blocks that widen, look around, and narrow, with or without shuffles in between."""
    layers: list[nn.Module] = []
    channels = 3
    for _ in range(draw(st.integers(1, 2))):
        width = draw(st.sampled_from([24, 32]))
        layers += [
            nn.Conv2d(channels, width, draw(st.sampled_from([1, 3])), padding="same"),
            nn.BatchNorm2d(width),
        ]
        layers.append(draw(st.sampled_from(_ACTIVATIONS))())
        if draw(st.booleans()):
            # What reads them has to save more than a call costs.
            layers.append(Shuffle(draw(st.sampled_from([2, 4])), draw(st.integers(0, 2))))
            layers.append(nn.Conv2d(width, width, 3, padding="same"))
        for _ in range(draw(st.integers(0, 2))):
            # Inner layers have masks of their own, each row of either operand.
            layers.append(Sum(width, draw(st.integers(0, 2)), draw(st.booleans()), draw(st.booleans())))
            layers.append(draw(st.sampled_from(_ACTIVATIONS))())
        if draw(st.booleans()):
            layers.append(Whole(width, draw(st.integers(0, 4)), draw(st.booleans())))
        way = draw(st.sampled_from([None, None, 0, 1, 2, 3, 3, 3]))
        if way is not None:
            layers.append(Gated(width, way, draw(st.sampled_from([0, 1, 1]))))
        for _ in range(draw(st.integers(0, 2))):
            layers += [draw(_around(width)), draw(st.sampled_from(_ACTIVATIONS))()]
        layers.append(draw(st.sampled_from(_POOLS))())
        channels = draw(st.sampled_from([4, 6]))
        layers.append(nn.Conv2d(width, channels, draw(st.sampled_from([1, 1, 3])), padding="same"))
    model = nn.Sequential(*layers)
    seed = draw(st.integers(0, 2**16))
    masks = random_row_masks(model, draw(st.sampled_from([0.5, 0.75])), seed, _is_whole)
    del masks[str(len(layers) - 1)]
    size = draw(st.integers(8, 48))
    try:
        make_lively(model, _images(24, 8, seed).float(), seed, lambda _: masks)
        model.eval()(_images(size, 1, seed).float())
    except RuntimeError:
        # Strides and pools may leave less of a map than the next window takes.
        reject()
    others = draw(st.lists(st.tuples(st.integers(6, 24), st.integers(6, 24)), min_size=2, max_size=3))
    options = [
        "auto",
        "auto",
        "auto",
        "auto",
        {"carriers"},
        {"shuffles"},
        {"rows"},
        {"fills"},
        {"gates"},
        {"carriers", "maps"},
        "none",
    ]
    lowerings = draw(st.sampled_from(options))
    return Case(model.double(), masks, size, tuple(others), lowerings)


def _is_whole(name: str, layer: nn.Module) -> bool:
    """Whether a layer is no convolution in groups: masks of those would leave nothing near borders."""
    return isinstance(layer, nn.Conv2d) and layer.groups == 1


def _images(size: int | tuple[int, int], batch: int, seed: int) -> Tensor:
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed)).double()


def _taken(plan: Plan) -> set[str]:
    found = {"carriers"} if any(isinstance(e, CombineColumns) for e in plan.edits) else set()
    named = {
        "shuffles": "select_indices(",
        "rows": "add_rows(",
        "fills": "fill_rows(",
        "gates": "gate_rows(",
        "maps": "add_border(",
    }
    return found | {name for name, helper in named.items() if helper in sources(plan)}


def test_small_model_equals_masked_model_with_each_lowering() -> None:
    taken: Counter[str] = Counter()

    @settings(max_examples=LOWERED)
    @given(case=cases())
    def search(case: Case) -> None:
        plan = plan_speedup(case.model, _images(case.size, 2, 0), case.masks, lowerings=case.lowerings)
        taken.update(_taken(plan))
        small, masked = materialize(plan, verify="none"), apply_masks(case.model, case.masks).eval()
        sizes: tuple[int | tuple[int, int], ...] = (case.size, *case.others)
        for size in sizes:
            calls = [(_images(size, 1, seed),) for seed in (1, 2)]
            try:
                masked(*calls[0])
            except RuntimeError:
                continue
            assert relative_error(masked, small, calls) < 1e-9, size

    search()
    least = _LEAST if NIGHTLY else 1
    assert {name: count for name, count in taken.items() if count >= least}.keys() == {
        "carriers",
        "shuffles",
        "rows",
        "fills",
        "gates",
        "maps",
    }
