"""Attention beyond whole heads: widths of values and of queries, shared keys, gated layers, experts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedup.testing.modules import SharedKeys
from tests.support.contract import shrunk
from tests.support.drawn import doubles

HEADS, WIDE, DIM = 6, 4, 24


sequences = doubles(5, DIM)


class Attention(nn.Module):
    """Each projection's own width; `scale` is stated, or left to what the widths say when None."""

    def __init__(self, scale: float | None = 0.5, keys: int = HEADS) -> None:
        super().__init__()
        self.scale, self.shared = scale, HEADS // keys
        self.q, self.o = nn.Linear(DIM, HEADS * WIDE), nn.Linear(HEADS * WIDE, 3)
        self.k, self.v = nn.Linear(DIM, keys * WIDE), nn.Linear(DIM, keys * WIDE)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).view(x.shape[0], x.shape[1], HEADS, -1).transpose(1, 2)
        k = self.k(x).view(x.shape[0], x.shape[1], HEADS, -1).transpose(1, 2)
        v = self.v(x).view(x.shape[0], x.shape[1], HEADS, -1).transpose(1, 2)
        found = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.o(found.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))


def repeat(x: Tensor, times: int) -> Tensor:
    batch, heads, length, wide = x.shape
    if times == 1:
        return x
    return x[:, :, None].expand(batch, heads, times, length, wide).reshape(batch, heads * times, length, wide)


class Grouped(Attention):
    """Queries share keys: the keys are repeated in so many words, or the kernel is told."""

    def __init__(self, told: bool) -> None:
        super().__init__(keys=2)
        self.told = told

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            one.view(x.shape[0], x.shape[1], -1, WIDE).transpose(1, 2)
            for one in (self.q(x), self.k(x), self.v(x))
        )
        if self.told:
            found = F.scaled_dot_product_attention(q, k, v, scale=0.5, enable_gqa=True)
        else:
            weights = (q @ repeat(k, self.shared).transpose(-2, -1)).softmax(-1)
            found = weights @ repeat(v, self.shared)
        return self.o(found.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))


class Gated(nn.Module):
    """GEGLU: gate and value in one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(DIM, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.enter(x).chunk(2, -1)
        return self.leave(value * F.gelu(gate))


class Experts(nn.Module):
    """Each position is sent to the expert that it scores highest."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(DIM, 4)
        self.enter = nn.Parameter(torch.randn(4, DIM, 10))
        self.leave = nn.Parameter(torch.randn(4, 10, 3))

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.router(x).argmax(-1).flatten()
        inner = torch.relu(torch.bmm(x.flatten(0, 1)[:, None], self.enter[chosen]))
        return torch.bmm(inner, self.leave[chosen]).unflatten(0, x.shape[:2]).squeeze(2)


def within_heads(indices: Sequence[int]) -> tuple[int, ...]:
    return tuple(head * WIDE + at for head in range(HEADS) for at in indices)


def whole_heads(heads: Sequence[int]) -> tuple[int, ...]:
    return tuple(head * WIDE + at for head in heads for at in range(WIDE))


def test_values_get_narrower_heads() -> None:
    _, small = shrunk(Attention(), sequences, {"v": within_heads([1, 2])})
    assert (small.v.out_features, small.o.in_features) == (HEADS * 2, HEADS * 2)
    assert small.q.out_features == HEADS * WIDE


def test_queries_and_keys_get_narrower_heads_under_a_stated_scale() -> None:
    cut = within_heads([0])
    _, small = shrunk(Attention(), sequences, {"q": cut, "k": cut})
    assert (small.q.out_features, small.k.out_features, small.v.out_features) == (18, 18, 24)


def test_queries_keep_their_width_where_the_scale_follows_it() -> None:
    cut = within_heads([0])
    _, small = shrunk(Attention(scale=None), sequences, {"q": cut, "k": cut, "v": within_heads([1])})
    assert (small.q.out_features, small.v.out_features) == (24, 18)


def test_layer_without_any_head_still_runs() -> None:
    _, small = shrunk(Attention(), sequences, {"v": range(HEADS * WIDE)})
    assert small.v.out_features < HEADS * WIDE


@pytest.mark.parametrize("told", [False, True])
def test_query_heads_go_from_groups_in_equal_numbers_whichever_they_are(told: bool) -> None:
    masks = {"o": {"weight": _columns(whole_heads([0, 5]))}}
    _, small = shrunk(Grouped(told), sequences, masks=masks)
    assert (small.q.out_features, small.k.out_features) == (4 * WIDE, 2 * WIDE)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("gone", [(0, 1), (0, 1, 5)])
def test_groups_that_would_lose_different_numbers_of_query_heads_are_filled_up(
    gone: Sequence[int], told: bool
) -> None:
    masks = {"o": {"weight": _columns(whole_heads(gone))}}
    _, small = shrunk(Grouped(told), sequences, masks=masks)
    assert (small.q.out_features, small.k.out_features) == ((6 - 2 * (len(gone) - 2)) * WIDE, 2 * WIDE)


def test_values_that_query_heads_share_get_narrower() -> None:
    """One width is zero in both key heads, another in one only, where the other head still needs it."""
    model = SharedKeys(DIM, HEADS, 2, WIDE)
    _, small = shrunk(model, sequences, {"v_proj": (1, WIDE + 1, 3)})
    assert (small.v_proj.out_features, small.o_proj.in_features) == (2 * (WIDE - 1), HEADS * (WIDE - 1))


@pytest.mark.parametrize("told", [False, True])
def test_group_goes_with_all_its_query_heads(told: bool) -> None:
    masks = {"o": {"weight": _columns(whole_heads([3, 4, 5]))}}
    _, small = shrunk(Grouped(told), sequences, masks=masks)
    assert (small.q.out_features, small.k.out_features) == (3 * WIDE, WIDE)


def _columns(dropped: Sequence[int]) -> Tensor:
    mask = torch.ones(3, HEADS * WIDE)
    mask[:, list(dropped)] = 0
    return mask


def test_gate_and_value_in_one_matrix_go_together() -> None:
    _, small = shrunk(Gated(), sequences, {"enter": (0, 1, 8, 9)})
    assert (small.enter.out_features, small.leave.in_features) == (12, 6)


def test_experts_get_narrower_where_all_of_them_do() -> None:
    mask = torch.ones(4, DIM, 10)
    mask[:, :, [2, 7]] = 0
    mask[0, :, 3] = 0
    _, small = shrunk(Experts(), sequences, masks={"": {"enter": mask}})
    assert tuple(small.enter.shape) == (4, DIM, 8) and tuple(small.leave.shape) == (4, 8, 3)
