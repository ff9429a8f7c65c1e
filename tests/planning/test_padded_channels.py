"""Channels that a pad or a concatenation with zeros puts beside others: as many as are kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speedup import apply_masks, load, materialize, plan_speedup, save
from tests.support.lowered import images, sources
from tests.support.measure import relative_error

FEW, MANY, BESIDE = 6, 12, 3
# Of the wide layer, channels that meet zeros alone.
GONE = (0, 1, 10)


class Block(nn.Module):
    """A shortcut as in the ResNets for CIFAR: strided, with zeros for the channels that it has not."""

    def __init__(self) -> None:
        super().__init__()
        self.beside, self.planes = BESIDE, MANY
        self.conv = nn.Conv2d(FEW, MANY, 3, 2, 1)
        self.pool = nn.AvgPool2d(1, 2)
        self.pad = nn.ConstantPad3d((0, 0, 0, 0, BESIDE, BESIDE), 0.0)

    def shortcut(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.beside, self.beside))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + self.shortcut(x))


class Literal(Block):
    def shortcut(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3), "constant", 0)


class Computed(Block):
    def shortcut(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.planes // 4, self.planes // 4), "constant", 0)


class ByName(Block):
    def shortcut(self, x: Tensor) -> Tensor:
        half = x[:, :, ::2, ::2]
        return F.pad(input=half, pad=[0, 0, 0, 0, self.planes // 4, 3], mode="constant", value=0)


class InAVariable(Block):
    def shortcut(self, x: Tensor) -> Tensor:
        amounts = (0, 0, 0, 0, self.beside, self.beside)
        return F.pad(x[:, :, ::2, ::2], amounts)


class FromSizes(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        beside = (y.shape[1] - x.shape[1]) // 2
        return F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, beside, beside)))


class Constant(Block):
    def shortcut(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3), value=1.5)


class ByModule(Block):
    def shortcut(self, x: Tensor) -> Tensor:
        padded: Tensor = self.pad(x[:, :, ::2, ::2])
        return padded


class InSpaceToo(Block):
    def shortcut(self, x: Tensor) -> Tensor:
        return F.pad(x, (1, 0, 1, 0, 3, 3))[:, :, 1::2, 1::2]


class Cropped(Block):
    """A negative amount takes channels away: two behind, for four more before the others."""

    def shortcut(self, x: Tensor) -> Tensor:
        x = torch.cat([x, x[:, :4]], 1)[:, :, ::2, ::2]
        return F.pad(x, (0, 0, 0, 0, 4, -2))


class Joined(Block):
    def shortcut(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        before = x.new_zeros(x.shape[0], self.beside, *x.shape[2:])
        return torch.cat([before, x, x.new_zeros(x.shape[0], 3, *x.shape[2:])], 1)


class JoinedWithZeros(Block):
    def shortcut(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        b, _, h, w = x.shape
        before = torch.zeros(b, 3, h, w, dtype=x.dtype, device=x.device)
        behind = torch.zeros((b, self.planes // 4, h, w), dtype=x.dtype, device=x.device)
        return torch.cat([before, x, behind], dim=1)


class JoinedBySizes(Block):
    def forward(self, x: Tensor) -> Tensor:
        y, half = self.conv(x), self.pool(x)
        missing = y.size(1) - x.size(1)
        zeros = torch.zeros(y.size(0), missing, y.size(2), y.size(3), dtype=y.dtype)
        return F.relu(y + torch.cat([zeros[:, :3], half, zeros[:, 3:]], 1))


FORMS = (
    Block, Literal, Computed, ByName, InAVariable, FromSizes, Constant, ByModule, InSpaceToo, Joined,
    JoinedWithZeros, JoinedBySizes,
)  # fmt: skip


def rows(extent: int, *gone: int) -> dict[str, Tensor]:
    kept = torch.tensor([n not in gone for n in range(extent)])
    return {"weight": kept[:, None, None, None], "bias": kept}


def left(kind: type[Block], gone: tuple[int, ...] = GONE, before: tuple[int, ...] = ()) -> tuple[int, int]:
    """How many channels of the layer before such a block are left, and how many of the block's."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, FEW, 3, padding=1), kind(), nn.Conv2d(MANY, 4, 1)).double().eval()
    masks = {"1.conv": rows(MANY, *gone), "0": rows(FEW, *before)}
    small = materialize(plan_speedup(model, images(8, 2, 0), masks), verify="structure")
    for size, batch in ((8, 1), (11, 3), (1, 2)):
        calls = [(images(size, batch, seed),) for seed in (1, 2)]
        assert relative_error(apply_masks(model, masks), small, calls) < 1e-9
    assert isinstance(small, nn.Sequential)
    first, _, last = small
    assert isinstance(first, nn.Conv2d) and isinstance(last, nn.Conv2d)
    return first.out_channels, last.in_channels


@pytest.mark.parametrize("kind", FORMS, ids=lambda kind: kind.__name__)
def test_channels_that_meet_the_border_of_a_pad_go(kind: type[Block]) -> None:
    assert left(kind) == (FEW, MANY - len(GONE))


@pytest.mark.parametrize("kind", [Block, Literal, FromSizes, Joined], ids=lambda kind: kind.__name__)
def test_channels_that_are_padded_go_with_those_that_they_meet(kind: type[Block]) -> None:
    assert left(kind, (0, 3, 4, 11), before=(0, 1)) == (FEW - 2, MANY - 4)


def test_all_of_the_border_goes() -> None:
    assert left(Block, (0, 1, 2, 9, 10, 11)) == (FEW, FEW)


def test_what_is_cropped_is_counted_in_what_is_kept() -> None:
    assert left(Cropped, (0, 1, 6), before=(2,)) == (FEW - 1, MANY - 3)


def test_a_pad_whose_numbers_cannot_be_stated_keeps_its_border() -> None:
    amount = MANY // 4

    class ByLambda(Block):
        def __init__(self) -> None:
            super().__init__()
            self.beside_it = lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, amount, amount))

        def shortcut(self, x: Tensor) -> Tensor:
            padded: Tensor = self.beside_it(x)
            return padded

    assert left(ByLambda) == (FEW, MANY)
    assert left(ByLambda, (0, 3, 4, 11), before=(0, 1)) == (FEW - 2, MANY - 2)


class Early(nn.Module):
    """A border in time, zeros that add nothing to a sum over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(F.pad(self.first(x), (0, 0, 2, 0)).sum(1))
        return out


def test_a_border_in_time_stays() -> None:
    torch.manual_seed(0)
    model = Early().double().eval()
    kept = torch.arange(6) > 1
    masks = {"first": {"weight": kept[:, None], "bias": kept}}
    plan = plan_speedup(model, torch.randn(2, 5, 4).double(), masks)
    small = materialize(plan, verify="structure")
    for length in (1, 2, 9):
        x = torch.randn(3, length, 4).double()
        torch.testing.assert_close(small(x), apply_masks(model, masks)(x))
    assert "pad" not in sources(plan)


def test_a_small_model_with_other_amounts_is_saved_and_read(tmp_path: object) -> None:
    torch.manual_seed(0)
    model = (
        nn.Sequential(nn.Conv2d(3, FEW, 3, padding=1), InAVariable(), nn.Conv2d(MANY, 4, 1)).double().eval()
    )
    plan = plan_speedup(model, images(8, 2, 0), {"1.conv": rows(MANY, *GONE)})
    small = materialize(plan)
    assert "(*amounts[:4], 1, 2)" in sources(plan)
    save(small, plan, f"{tmp_path}/small.safetensors")
    again = load(f"{tmp_path}/small.safetensors", lambda: model)
    assert torch.equal(again(images(8, 2, 3)), small(images(8, 2, 3)))
