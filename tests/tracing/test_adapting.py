"""Calls and layouts that adapt to sizes by themselves, in lowered graphs and beside dimensions of one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.support.contract import shrunk
from tests.support.drawn import doubles

images = doubles(3, 4, 4)


class Lowered(nn.Module):
    """An in-place write to a view makes the whole graph be lowered."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 1), nn.Linear(8 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        scale = x.new_ones(4, 4)
        scale[:2] = 2.0
        return self.leave(self.between(self.enter(x) * scale))

    def between(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Chunked(Lowered):
    def between(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return torch.cat([first.tanh(), second], 1).flatten(1)


def test_lowered_flatten_follows_the_channels() -> None:
    _, small = shrunk(Lowered(), images, {"enter": (0, 5)})
    assert small.leave.in_features == 6 * 16 and type(small) is Lowered


def test_lowered_chunk_follows_the_channels() -> None:
    _, small = shrunk(Chunked(), images, {"enter": (0, 5)})
    assert small.leave.in_features == 6 * 16 and type(small) is Chunked


class Uneven(nn.Module):
    """Four features and one, split, squashed and joined again; nothing reads the one."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        four, one = torch.split(self.enter(x), [4, 1], 1)
        return self.leave(torch.cat([four.tanh(), one.tanh()], 1))


def test_unread_operand_of_one_feature_does_not_keep_the_others_from_going() -> None:
    unread = torch.ones(2, 5)
    unread[:, 4] = 0
    masks = {"leave": {"weight": unread}}
    _, small = shrunk(
        Uneven(), lambda b: torch.randn(b, 6, dtype=torch.float64), {"enter": (0, 1)}, masks=masks
    )
    assert (small.enter.out_features, small.leave.in_features) == (3, 3)
