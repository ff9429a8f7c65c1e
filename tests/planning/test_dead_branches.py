"""Branches that are one constant throughout: where they are joined with others, one channel is left."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speedup import Plan, apply_masks, load, materialize, plan_speedup, save
from speedup.planning import coupling, verdicts
from tests.support.lowered import images, sources
from tests.support.measure import relative_error

WIDE = 12
Masks = dict[str, dict[str, Tensor]]


class Base(nn.Module):
    """Two branches side by side, `one` and `other`, between two convolutions; `join` says how they meet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, WIDE, 3, padding=1), nn.Conv2d(WIDE, 4, 1)
        self.one, self.third = nn.Conv2d(WIDE, WIDE, 1), nn.Conv2d(WIDE, WIDE, 1)
        self.other = nn.Conv2d(WIDE, WIDE, 5, padding=2)
        self.norm = nn.BatchNorm2d(WIDE)

    def join(self, x: Tensor) -> Tensor:
        return F.relu(self.one(x) + self.other(x))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.join(F.relu(self.stem(x))))
        return out


class DeadFirst(Base):
    def join(self, x: Tensor) -> Tensor:
        return F.relu(self.other(x) + self.one(x))


class OfThree(Base):
    def join(self, x: Tensor) -> Tensor:
        return F.relu(self.third(x) + self.other(x) + self.one(x))


class Summed(Base):
    """As a cell of DARTS adds up its operations."""

    def join(self, x: Tensor) -> Tensor:
        total: Tensor = sum([self.other(x), self.one(x), self.third(x)])
        return total


class Residual(Base):
    """As a block whose last layer is zero."""

    def join(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.other(F.relu(self.third(x)))))


class Subtracted(Base):
    def join(self, x: Tensor) -> Tensor:
        return F.relu(self.one(x) - self.other(x))


class SubtractedFrom(Base):
    def join(self, x: Tensor) -> Tensor:
        return F.relu(self.other(x) - self.one(x))


class Gated(Base):
    def join(self, x: Tensor) -> Tensor:
        return self.one(x) * torch.sigmoid(self.other(x))


class Divided(Base):
    def join(self, x: Tensor) -> Tensor:
        return self.one(x) / (1 + torch.exp(self.other(x)))


class Largest(Base):
    def join(self, x: Tensor) -> Tensor:
        return torch.maximum(self.one(x), self.other(x))


class Chosen(Base):
    def join(self, x: Tensor) -> Tensor:
        return torch.where(self.one(x) > 0, self.other(x), self.third(x))


class Choosing(Base):
    """What is never taken goes too."""

    def join(self, x: Tensor) -> Tensor:
        return torch.where(self.other(x) >= 0, self.one(x), self.third(x))


class Between(Base):
    def join(self, x: Tensor) -> Tensor:
        return torch.lerp(self.one(x), self.third(x), torch.sigmoid(self.other(x)))


class Multiplied(Base):
    def join(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.one(x), self.other(x), self.third(x))


class Resized(Base):
    """As a pyramid adds what is coarser."""

    def join(self, x: Tensor) -> Tensor:
        coarse = F.max_pool2d(self.other(x), 2)
        return self.one(x) + F.interpolate(coarse, size=x.shape[-2:])


class Pooled(Base):
    def join(self, x: Tensor) -> Tensor:
        return self.one(x) + F.adaptive_avg_pool2d(self.other(x), 1)


class NonLocal(Base):
    """Attention over positions, whose last layer is zero; channels are stated as numbers."""

    def join(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        query = self.third(x).view(b, WIDE, -1)
        found = torch.softmax(query.transpose(1, 2) @ query, -1) @ query.transpose(1, 2)
        found = found.transpose(1, 2).contiguous().view(b, WIDE, *x.size()[2:])
        return x + self.other(found).view(b, WIDE, *x.size()[2:])


class AsShaped(Base):
    def join(self, x: Tensor) -> Tensor:
        flat = self.other(x).flatten(2)
        return x + F.relu(flat).reshape(x.shape)


class InPlace(Base):
    def join(self, x: Tensor) -> Tensor:
        out = self.one(x)
        out += self.other(x)
        return F.relu(out)


FORMS = {
    Base: 0.25, DeadFirst: 0.25, OfThree: 0.4, Summed: 0.4, Residual: 0.2, Subtracted: 0.25,
    SubtractedFrom: 0.25, Gated: 0.25, Divided: 0.25, Largest: 0.25, Chosen: 0.4, Choosing: 0.25,
    Between: 0.4, Multiplied: 0.25, Resized: 0.25, Pooled: 0.25, NonLocal: 0.2, AsShaped: 0.2,
    InPlace: 0.25,
}  # fmt: skip


def dead(*names: str) -> Masks:
    """Masks of all that the layers compute with."""
    return {
        name: {"weight": torch.zeros(()).expand((1,) * (1 if name == "norm" else 4)), "bias": torch.zeros(1)}
        for name in names
    }


def made(kind: type[Base], masks: Masks, **options: object) -> tuple[Plan, Base]:
    """The plan of such a network and its small model, which is exact at sizes that were not planned for."""
    torch.manual_seed(0)
    model = kind().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    plan = plan_speedup(model, images(6, 2, 0), masks, **options)  # type: ignore[arg-type]
    small, masked = materialize(plan, verify="structure"), apply_masks(model, masks)
    for size, batch in ((6, 1), (9, 3), (2, 2)):
        assert relative_error(masked, small, [(images(size, batch, seed),) for seed in (1, 2)]) < 1e-9
    assert isinstance(small, Base)
    return plan, small


@pytest.mark.parametrize("kind", FORMS, ids=lambda kind: kind.__name__)
def test_of_a_dead_branch_one_channel_is_left(kind: type[Base]) -> None:
    plan, small = made(kind, dead("other", "norm") if kind is Residual else dead("other"), lowerings="none")
    assert small.other.out_channels == 1
    assert plan.macs_after < FORMS[kind] * plan.macs_before


class AddedTo(Base):
    """As torchvision writes a block."""

    def join(self, x: Tensor) -> Tensor:
        out = self.other(x)
        out = self.norm(out)
        out += x * 2
        return F.relu(out)


class OneName(Base):
    """As timm writes it."""

    def join(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.other(x)
        x += shortcut
        return x


class TakenFrom(Base):
    def join(self, x: Tensor) -> Tensor:
        out = self.other(x)
        out -= self.one(x) + 1
        return out


@pytest.mark.parametrize("kind", [AddedTo, OneName, TakenFrom])
def test_what_is_added_to_a_dead_branch_in_place_has_a_place_of_its_own(kind: type[Base]) -> None:
    masks = dead("other", "norm")
    plan, small = made(kind, masks)
    assert small.other.out_channels == 1
    assert plan.macs_after < 0.35 * plan.macs_before
    assert " = out " in sources(plan) or " = x " in sources(plan)


def test_a_small_model_with_it_is_saved_and_read(tmp_path: object) -> None:
    plan, small = made(AddedTo, dead("other", "norm"))
    save(small, plan, f"{tmp_path}/small.safetensors")
    again = load(f"{tmp_path}/small.safetensors", lambda: AddedTo().double())
    assert torch.equal(again.eval()(images(8, 2, 3)), small(images(8, 2, 3)))


class HeldTwice(Base):
    """What another name holds cannot be given another place."""

    def join(self, x: Tensor) -> Tensor:
        out = self.other(x)
        held = out
        out += self.one(x)
        return F.relu(held)


class ByMethod(Base):
    def join(self, x: Tensor) -> Tensor:
        out = self.other(x)
        out.add_(self.one(x))
        return F.relu(out)


@pytest.mark.parametrize("kind", [HeldTwice, ByMethod])
def test_what_is_written_to_keeps_its_channels_where_it_has_to_stay(kind: type[Base]) -> None:
    gone = torch.arange(WIDE) < 3
    masks = {**dead("other"), "one": {"weight": ~gone[:, None, None, None], "bias": ~gone}}
    _, small = made(kind, masks)
    assert small.one.out_channels == small.other.out_channels == WIDE - 3


class BothDead(Base):
    def join(self, x: Tensor) -> Tensor:
        return self.other(x) + self.norm(self.third(x))


def test_of_two_dead_branches_one_channel_each_is_left() -> None:
    _, small = made(BothDead, dead("other", "third", "norm"))
    assert (small.other.out_channels, small.third.out_channels) == (1, 1)


class Returned(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.other(x) + self.third(x)


def test_what_the_model_returns_is_as_wide_as_it_was() -> None:
    _, small = made(Returned, dead("other", "third"))
    assert sorted((small.other.out_channels, small.third.out_channels)) == [1, WIDE]


class NeededElsewhere(Base):
    def join(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x)[:, :4] + self.other(x)[:, :4], self.other(x)[:, 2:10]], 1)


def test_rows_that_something_else_needs_are_aligned_with_those_of_the_sum() -> None:
    masks: Masks = {"other": {"weight": torch.ones(WIDE, 1, 1, 1)}, "one": dead("one")["one"]}
    _, small = made(NeededElsewhere, masks)
    assert small.one.out_channels == 1


def test_state_that_is_one_constant_keeps_its_size() -> None:
    class Scaled(Base):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1, WIDE, 1, 1))

        def join(self, x: Tensor) -> Tensor:
            return self.one(x) * self.scale.expand(-1, -1, 1, 1) + self.other(x)

    torch.manual_seed(0)
    model = Scaled().double().eval()
    small = materialize(plan_speedup(model, images(8, 2, 0), dead("other")))
    assert small.scale.shape == (1, WIDE, 1, 1)


class Filled(Base):
    """What is filled with one number follows the input's extents all the same."""

    def join(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        return self.one(x) + torch.full((b, WIDE, h, w), 2.0, dtype=x.dtype) + x.new_ones(b, WIDE, h, w)


def test_extents_that_follow_the_input_are_not_broadcast() -> None:
    kept = torch.arange(WIDE) > 2
    masks = {"one": {"weight": kept[:, None, None, None], "bias": kept}}
    plan, small = made(Filled, masks)
    assert small.one.out_channels == WIDE - 3
    assert "(b, 1, h, w)" in sources(plan)


@pytest.mark.parametrize("kind", [Base, DeadFirst, OfThree, Residual, InPlace, AddedTo])
def test_a_branch_whose_channels_are_constants_of_their_own_computes_one(
    kind: type[Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "LEAST_SAVED", 0)
    monkeypatch.setattr(coupling, "CALL", 0)
    masks = {"other": {"weight": torch.zeros(1, 1, 1, 1)}}
    plan, small = made(kind, masks, lowerings={"rows"})
    assert small.other.out_channels == 1
    assert "add_rows" in sources(plan)


def test_with_an_alignment_a_dead_branch_is_no_wider_than_asked_for() -> None:
    _, small = made(Base, dead("other"), align=4)
    assert small.other.out_channels in (1, 4, WIDE)


def test_a_plan_says_nothing_of_what_a_dead_branch_might_have_kept() -> None:
    plan, _ = made(Base, dead("other"))
    told: Mapping[str, str] = {name: plan.explain(name) for name in ("other", "one")}
    assert "works element by element" not in told["other"]
    assert "stays as it is" in told["one"]
