"""Channels that a view takes apart by a number that follows the input's length are all there at each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from speedup import apply_masks, materialize, plan_speedup
from tests.support.measure import relative_error

WIDTH = 16
Turn = Callable[[Tensor, int], Tensor]

# How channels `h` (batch, length, channels) are taken apart into `k` parts and turned.
TURNS: Mapping[str, Turn] = {
    "unflattened": lambda h, k: h.unflatten(-1, (-1, k)).transpose(-1, -2).flatten(2),
    "unflattened, number first": lambda h, k: h.unflatten(-1, (k, -1)).transpose(-1, -2).flatten(2),
    "all stated": lambda h, k: h.view(*h.shape[:2], k, WIDTH // k).transpose(-1, -2).reshape(h.shape),
    "behind the length": lambda h, k: h.reshape(*h.shape[:2], k, -1).swapaxes(-1, -2).reshape(h.shape),
    "last": lambda h, k: h.reshape(*h.shape[:2], -1, k).swapaxes(-1, -2).reshape(h.shape),
    "rows": lambda h, k: h.reshape(-1, k).cumsum(-1).reshape(h.shape),
    "rows of parts": lambda h, k: h.reshape(-1, k, WIDTH // k).transpose(1, 2).reshape(h.shape),
    "before the length": lambda h, k: (
        h.transpose(1, 2)
        .reshape(len(h), k, -1, h.shape[1])
        .transpose(1, 2)
        .reshape(len(h), -1, h.shape[1])
        .transpose(1, 2)
    ),
    "as another": lambda h, k: (
        h.view_as(h.new_empty(*h.shape[:2], k, WIDTH // k)).swapaxes(-1, -2).reshape(h.shape)
    ),
    "heads": lambda h, k: (
        nn.functional.scaled_dot_product_attention(
            *(t.unflatten(-1, (k, -1)).transpose(1, 2) for t in (h, h * 2, h * 3))
        )
        .transpose(1, 2)
        .flatten(2)
    ),
}
NUMBERS: Mapping[str, Callable[[int], int]] = {
    "even or odd": lambda n: n % 2 + 1,
    "twos": lambda n: 2 * (n % 2) + 2,
    "from a list": lambda n: [1, 2, 4][n % 3],
    "by a branch": lambda n: 2 if n > 7 else 1,
}


class Apart(nn.Module):
    def __init__(self, turn: Turn, number: Callable[[int], int]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 5)
        self.turn, self.number = turn, number

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.leave(self.turn(self.enter(x), self.number(x.shape[1])))
        return result


_ROWS = torch.arange(WIDTH) % 4 != 1
MASKS: Mapping[str, Mapping[str, Tensor]] = {
    "dead": {"enter.weight": _ROWS[:, None].expand(WIDTH, 4), "enter.bias": _ROWS},
    "constant": {"enter.weight": _ROWS[:, None].expand(WIDTH, 4)},
    "unread": {"leave.weight": _ROWS[None].expand(5, WIDTH)},
}


@pytest.mark.parametrize("planned", [6, 7])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("turn", TURNS)
def test_what_a_length_takes_apart_is_all_there(turn: str, number: str, mask: str, planned: int) -> None:
    torch.manual_seed(0)
    model = Apart(TURNS[turn], NUMBERS[number]).double().eval()
    plan = plan_speedup(model, torch.randn(2, planned, 4).double(), MASKS[mask])
    small, masked = materialize(plan, verify="structure"), apply_masks(model, MASKS[mask])
    for batch, length in ((1, 1), (3, 2), (1, 3), (2, 4), (1, 6), (3, 7), (2, 8), (1, 11)):
        calls = [(torch.randn(batch, length, 4).double(),) for _ in range(2)]
        assert relative_error(masked, small, calls) < 1e-9


class Heads(nn.Module):
    """Parts that the input's own width says, or what stands in the place of lengths of one."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        h = self.enter(x)
        match self.form:
            case "width":
                h = h.view(batch, length, 4, width // 4)
            case "rows":
                h = h.view(batch * length, 4, -1).view(batch, length, 4, -1)
            case "rows and back":
                h = h.view(-1, h.shape[-1]).view(batch, length, 4, -1)
            case "with the batch":
                h = h.view(batch, length, -1, 4).transpose(1, 2)
                h = h.reshape(batch * h.shape[1], length, 4).view(batch, -1, length, 4).transpose(1, 2)
        result: Tensor = self.leave(h.square().flatten(2))
        return result


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        *product(("width", "rows", "rows and back"), ((2, 5), (1, 5), (2, 1), (1, 1))),
        *product(("with the batch",), ((1, 5), (1, 1))),
    ],
)
def test_sizes_that_take_nothing_apart_keep_nothing(form: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model, index = Heads(form).double().eval(), torch.arange(WIDTH)
    # One of the four heads, or one row of each.
    part = index // 4 > 0 if form == "with the batch" else index % 4 < 3
    masks = {"leave.weight": part[None].expand(5, WIDTH)}
    small = materialize(plan_speedup(model, torch.randn(*shape, WIDTH).double(), masks), verify="structure")
    assert isinstance(small.enter, nn.Linear) and small.enter.out_features == 12
    for batch, length in ((1, 1), (3, 2), (1, 2), (2, 7)):
        calls = [(torch.randn(batch, length, WIDTH).double(),) for _ in range(2)]
        assert relative_error(apply_masks(model, masks), small, calls) < 1e-9
