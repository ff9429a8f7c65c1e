"""Tensors that are begun like another one, and then hold something else: they have channels of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from speedup import Plan, apply_masks, load, materialize, plan_speedup, save
from tests.support.lowered import sources
from tests.support.measure import relative_error

WIDE = 8
BASE, STATE = (0, 1), (0, 3, 4)


class Base(nn.Module):
    """A state is begun like `base`, all of whose channels are read, and then given what others compute."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.state = nn.Linear(4, WIDE), nn.Linear(4, WIDE)
        self.reads_base, self.reads_state = nn.Linear(WIDE, 3), nn.Linear(WIDE, 3)

    def begin(self, base: Tensor) -> Tensor:
        return torch.zeros_like(base)

    def forward(self, x: Tensor) -> Tensor:
        base = self.base(x)
        state = self.begin(base)
        for step in range(2):
            state = torch.tanh(state + self.state(x) * (step + 1))
        out: Tensor = self.reads_base(base) + self.reads_state(state)
        return out


class Ones(Base):
    def begin(self, base: Tensor) -> Tensor:
        return torch.ones_like(base)


class Filled(Base):
    def begin(self, base: Tensor) -> Tensor:
        return torch.full_like(base, 0.5)


class OfType(Base):
    def begin(self, base: Tensor) -> Tensor:
        return torch.zeros_like(base, dtype=torch.float64, device=base.device)


class OfAPart(Base):
    def forward(self, x: Tensor) -> Tensor:
        both = [self.base(x), self.state(x)]
        state = torch.zeros_like(both[0])
        state = state - both[1]
        out: Tensor = self.reads_base(both[0]) + self.reads_state(state)
        return out


class Joined(Base):
    """Zeros beside what they are like."""

    def forward(self, x: Tensor) -> Tensor:
        base = self.base(x)
        wide = torch.cat([base, torch.zeros_like(base)], -1)
        state = torch.cat([self.state(x), self.state(x * 2)], -1) + wide
        out: Tensor = self.reads_base(state[..., :WIDE]) + self.reads_state(state[..., WIDE:])
        return out


def made(kind: type[Base], base: tuple[int, ...], state: tuple[int, ...]) -> tuple[Plan, Base]:
    torch.manual_seed(0)
    model = kind().double().eval()
    masks = {}
    for name, gone in (("base", base), ("state", state)):
        kept = torch.tensor([n not in gone for n in range(WIDE)])
        masks[name] = {"weight": kept[:, None], "bias": kept}
    plan = plan_speedup(model, torch.randn(2, 5, 4).double(), masks)
    small, masked = materialize(plan, verify="structure"), apply_masks(model, masks)
    for batch, length in ((1, 5), (3, 2)):
        calls = [(torch.randn(batch, length, 4).double(),) for _ in range(2)]
        assert relative_error(masked, small, calls) < 1e-10
    assert isinstance(small, Base)
    return plan, small


@pytest.mark.parametrize("kind", [Base, Filled, OfType, OfAPart], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("base", "state"), [(BASE, STATE), (STATE, BASE)])
def test_it_is_as_wide_as_what_it_is_added_to(
    kind: type[Base], base: tuple[int, ...], state: tuple[int, ...]
) -> None:
    if kind is Filled:
        # What is begun with another number than 0 is no constant behind a tanh that follows the input.
        state = ()
    plan, small = made(kind, base, state)
    assert small.base.out_features == WIDE - len(base)
    assert small.state.out_features == WIDE - len(state)
    assert ".new_" in sources(plan)


def test_ones_are_counted_too() -> None:
    _, small = made(Ones, BASE, ())
    assert (small.base.out_features, small.state.out_features) == (WIDE - len(BASE), WIDE)


def test_zeros_beside_what_they_are_like_go_where_they_meet_zeros() -> None:
    _, small = made(Joined, BASE, STATE)
    assert small.reads_state.in_features == WIDE - len(set(BASE) & set(STATE))


class OfACall(Base):
    """What a call returns is not named, and would be computed several times."""

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(self.base(x)) + self.state(x)
        out: Tensor = self.reads_base(self.base(x)) + self.reads_state(state)
        return out


def test_it_stays_like_what_has_no_name() -> None:
    plan, small = made(OfACall, BASE, STATE)
    assert small.base.out_features == small.state.out_features == WIDE - len(set(BASE) & set(STATE))
    assert not sources(plan)


def test_a_small_model_with_it_is_saved_and_read(tmp_path: object) -> None:
    plan, small = made(OfType, BASE, STATE)
    save(small, plan, f"{tmp_path}/small.safetensors")
    again = load(f"{tmp_path}/small.safetensors", lambda: OfType().double()).eval()
    x = torch.randn(2, 3, 4).double()
    assert torch.equal(again(x), small(x))
