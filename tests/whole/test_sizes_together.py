"""Models whose inputs have sizes that depend on each other, at sizes that were not planned for.

None of them can change alone, so that all of what is asked about sizes is found only where several change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedup import apply_masks, materialize, plan_speedup

Join = Callable[[nn.Module, nn.Module, tuple[Tensor, ...]], Tensor]
Sizes = Callable[[int, int], tuple[tuple[int, ...], ...]]


def _with(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`change` of maps whose channels come last."""
    return change(x.movedim(-1, 1)).movedim(1, -1)


def _doubled(enter: nn.Module, side: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    x, y = given
    joined: Tensor = enter(x) + side(y).repeat_interleave(2, 1)
    return joined


def _shifted(enter: nn.Module, side: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    x, y = given
    joined: Tensor = enter(x) + side(y)[:, 1:]
    return joined


def _paired(enter: nn.Module, side: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    x, y = given
    joined: Tensor = enter(x) + side(y).unflatten(1, (-1, 2)).mean(2)
    return joined


def _three_to_two(enter: nn.Module, side: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    x, y = given
    # Stacked, so that a length of one does not fit any other.
    parts = (enter(x).unflatten(1, (-1, 3)).mean(2), side(y).unflatten(1, (-1, 2)).mean(2))
    return torch.stack(parts).sum(0)


def _with_past(enter: nn.Module, side: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    x, past, mask = given
    return torch.cat([side(past), enter(x)], 1) * mask.unsqueeze(-1)


def _at_scales(enter: nn.Module, side: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    fine, half, coarse = given
    twice = nn.Upsample(scale_factor=2)
    return enter(fine) + _with(side(half) + _with(enter(coarse), twice), twice)


def _pooled(enter: nn.Module, side: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    fine, half, coarse = given
    joined: Tensor = _with(_with(enter(fine), nn.AvgPool2d(2)) + side(half), nn.AvgPool2d(2)) + side(coarse)
    return joined


def _guided(enter: nn.Module, side: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    x, condition = given
    joined: Tensor = torch.cat([enter(x)] * 2) + side(condition)
    return joined


def _of_boxes(enter: nn.Module, side: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    x, boxes = given
    joined: Tensor = enter(x).flatten(0, 1) + side(boxes)
    return joined


def _at_positions(enter: nn.Module, side: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    x, positions = given
    joined: Tensor = enter(x).flatten(1, 2) + side(positions)
    return joined


def _cropped(enter: nn.Module, side: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    x, y = given
    joined: Tensor = _with(enter(x), lambda maps: F.avg_pool2d(maps, 3, 1)) + side(y)
    return joined


def _attending(enter: nn.Module, side: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    x, context, bias = given
    query, key = enter(x), side(context)
    attended: Tensor = ((query @ key.transpose(1, 2)) + bias).softmax(-1) @ key
    return attended


# How the inputs are joined, and the sizes of inputs by their number and the batch.
JOINS: Mapping[str, tuple[Join, Sizes]] = MappingProxyType(
    {
        "one is twice the other": (_doubled, lambda n, b: ((b, 2 * n, 5), (b, n, 5))),
        "one is half the other": (_paired, lambda n, b: ((b, n, 5), (b, 2 * n, 5))),
        "as three to two": (_three_to_two, lambda n, b: ((b, 3 * n, 5), (b, 2 * n, 5))),
        "one is longer by one": (_shifted, lambda n, b: ((b, n, 5), (b, n + 1, 5))),
        "one is as long as two": (_with_past, lambda n, b: ((b, 2, 5), (b, n, 5), (b, n + 2))),
        "three scales": (
            _at_scales,
            lambda n, b: ((b, 4 * n, 8 * n, 5), (b, 2 * n, 4 * n, 5), (b, n, 2 * n, 5)),
        ),
        "three pooled scales": (
            _pooled,
            lambda n, b: ((b, 4 * n, 8 * n, 5), (b, 2 * n, 4 * n, 5), (b, n, 2 * n, 5)),
        ),
        "two batches": (_guided, lambda n, b: ((n, 3, 5), (2 * n, 3, 5))),
        "boxes of all images": (_of_boxes, lambda n, b: ((b, n, 5), (b * n, 5))),
        "a position each": (_at_positions, lambda n, b: ((b, n, 2 * n + 1, 5), (1, n * (2 * n + 1), 5))),
        "a border less": (_cropped, lambda n, b: ((b, n + 4, 2 * n + 3, 5), (b, n + 2, 2 * n + 1, 5))),
        "attention with a bias": (_attending, lambda n, b: ((b, n, 5), (b, n + 3, 5), (b, n, n + 3))),
    }
)


# Where so much would have to be tried that it is not, and the plan says so.
TOO_MANY = ("three pooled scales", "a position each", "a border less")


class Joined(nn.Module):
    """Joins its inputs, and goes another way by a size of the first, or of what is joined."""

    def __init__(self, join: Join, question: str, bound: int) -> None:
        super().__init__()
        self.join, self.question, self.bound = join, question, bound
        self.enter, self.side = nn.Linear(5, 8), nn.Linear(5, 8)
        self.again, self.other, self.leave = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, *given: Tensor) -> Tensor:
        y = torch.tanh(self.join(self.enter, self.side, given))
        size = given[0].shape[1] if self.question == "of an input" else y.shape[-2]
        if self.question == "rounds":
            for _ in range(size // self.bound):
                y = torch.tanh(self.again(y))
            return self.leave(y)
        if self.question == "states":
            # No operator says that as many are stacked as there were steps.
            y = y + torch.stack([torch.tanh(self.again(part)) for part in y.unbind(-2)], -2)
            return self.leave(torch.tanh(self.other(y)) if y.shape[-2] > self.bound else y)
        if self.question == "together":
            side = torch.tanh(self.again(y)) if size > self.bound else 0
            return self.leave(y + side if given[0].shape[0] == 1 else y)
        return self.leave(torch.tanh(self.again(y)) if size > self.bound else y)


@pytest.mark.parametrize(
    ("question", "bound"),
    [
        ("of an input", 12),
        ("of what is joined", 3),
        ("of what is joined", 12),
        ("rounds", 3),
        ("states", 3),
        ("together", 12),
    ],
)
@pytest.mark.parametrize("name", JOINS)
def test_sizes_that_change_together_are_looked_at(name: str, question: str, bound: int) -> None:
    torch.manual_seed(0)
    join, sizes = JOINS[name]
    model, rows = Joined(join, question, bound).double().eval(), torch.arange(8) > 2
    masks = {f"{layer}.weight": rows[:, None].expand(8, 8) for layer in ("again", "other")}
    masks |= {f"{layer}.bias": rows for layer in ("again", "other")}
    masks |= {f"{layer}.weight": rows.flip(0)[:, None].expand(8, 5) for layer in ("enter", "side")}
    masks |= {f"{layer}.bias": rows.flip(0) for layer in ("enter", "side")}

    def call(number: int, batch: int) -> tuple[Tensor, ...]:
        return tuple(torch.randn(size, dtype=torch.float64) for size in sizes(number, batch))

    plan = plan_speedup(model, call(2, 2), masks)
    if question == "states" and name in TOO_MANY:
        assert any("several sizes change together" in line for line in plan.assumptions)
        return
    small, masked = materialize(plan), apply_masks(model, masks)
    for number in (1, 2, 3, 5, 6, 13, 16):
        for batch in (1, 3):
            given = call(number, batch)
            torch.testing.assert_close(small(*given), masked(*given), rtol=1e-9, atol=1e-12)


class Inner(nn.Module):
    """What lies between the first and the last, of which there may be nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.leave(torch.tanh(self.enter(x)[:, 1:-1]))
        return result


@pytest.mark.parametrize("length", [2, 3])
def test_a_call_of_which_nothing_is_left_is_planned_for(length: int) -> None:
    torch.manual_seed(0)
    model, rows = Inner().double().eval(), torch.arange(8) > 2
    masks = {"enter.weight": rows[:, None].expand(8, 5), "enter.bias": rows}
    given = torch.randn(2, length, 5, dtype=torch.float64)
    plan = plan_speedup(model, given, masks, others=[torch.randn(1, 2, 5, dtype=torch.float64)])
    small, masked = materialize(plan), apply_masks(model, masks)
    for tokens in (2, 3, 6):
        x = torch.randn(3, tokens, 5, dtype=torch.float64)
        torch.testing.assert_close(small(x), masked(x), rtol=1e-9, atol=1e-12)
