"""Attention whose output projection is wholly masked: one head is left, however its shapes are stated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speedup import apply_masks, materialize, plan_speedup
from tests.support.measure import relative_error

DIM, HEADS, HEAD = 16, 4, 4


class Attention(nn.Module):
    """As transformers' Llama: one variable states the shape for query, key and value."""

    def __init__(self, groups: int = HEADS) -> None:
        super().__init__()
        self.heads, self.head, self.groups, self.scale = HEADS, HEAD, groups, HEAD**-0.5
        self.query, self.output = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.key, self.value = nn.Linear(DIM, groups * HEAD), nn.Linear(DIM, groups * HEAD)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.head)
        query = self.query(x).view(shape).transpose(1, 2)
        key = self.key(x).view(shape).transpose(1, 2)
        value = self.value(x).view(shape).transpose(1, 2)
        out: Tensor = self.output(self.attend(query, key, value).reshape(*x.shape[:-1], -1))
        return out


class FromWidth(Attention):
    """As nanoGPT."""

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        query = self.query(x).view(b, t, self.heads, c // self.heads).transpose(1, 2)
        key = self.key(x).view(b, t, self.heads, c // self.heads).transpose(1, 2)
        value = self.value(x).view(b, t, self.heads, c // self.heads).transpose(1, 2)
        out: Tensor = self.output(self.attend(query, key, value).contiguous().view(b, t, c))
        return out


class InOneLine(Attention):
    """One piece of source splits the heads of all three, which then have to agree."""

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        h = self.heads
        layers = (self.query, self.key, self.value)
        query, key, value = (layer(x).view(b, t, h, c // h).transpose(1, 2) for layer in layers)
        out: Tensor = self.output(self.attend(query, key, value).reshape(b, t, c))
        return out


class Unflattened(Attention):
    def forward(self, x: Tensor) -> Tensor:
        projected = (self.query(x), self.key(x), self.value(x))
        query, key, value = (one.unflatten(-1, (self.heads, self.head)).transpose(1, 2) for one in projected)
        out: Tensor = self.output(self.attend(query, key, value).flatten(2))
        return out


class InAList(Attention):
    def forward(self, x: Tensor) -> Tensor:
        shape = [x.shape[0], x.shape[1], self.heads, self.head]
        query = self.query(x).view(shape).transpose(1, 2)
        key = self.key(x).reshape(shape).transpose(1, 2)
        value = self.value(x).view(*shape).transpose(1, 2)
        out: Tensor = self.output(self.attend(query, key, value).reshape(x.shape))
        return out


class Added(Attention):
    """As transformers' older models."""

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.size()[:-1], self.heads, self.head)
        query = self.query(x).view(shape).permute(0, 2, 1, 3)
        key = self.key(x).view(shape).permute(0, 2, 1, 3)
        value = self.value(x).view(shape).permute(0, 2, 1, 3)
        found = torch.softmax(torch.matmul(query, key.transpose(-1, -2)) * self.scale, -1) @ value
        found = found.permute(0, 2, 1, 3).contiguous()
        whole = (*found.size()[:-2], DIM)
        out: Tensor = self.output(found.view(whole))
        return out


class ByFunction(Attention):
    def forward(self, x: Tensor) -> Tensor:
        def split(one: Tensor) -> Tensor:
            return one.view(x.shape[0], -1, self.heads, self.head).transpose(1, 2)

        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        found = torch.softmax(query @ key.transpose(2, 3) * self.scale, -1) @ value
        out: Tensor = self.output(found.transpose(1, 2).reshape(x.shape[0], -1, self.heads * self.head))
        return out


class Einsum(Attention):
    def forward(self, x: Tensor) -> Tensor:
        b, t = x.shape[:2]
        query, key, value = (
            one.reshape(b, t, self.heads, -1) for one in (self.query(x), self.key(x), self.value(x))
        )
        weights = torch.einsum("bihd,bjhd->bhij", query, key).softmax(-1)
        out: Tensor = self.output(torch.einsum("bhij,bjhd->bihd", weights, value).reshape(b, t, -1))
        return out


class Turned(Attention):
    """With a table of positions for query and key, whose heads keep their dimensions."""

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[2], device=x.device)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
        return x * angles.cos() + torch.cat([-x[..., 2:], x[..., :2]], -1) * angles.sin()

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return super().attend(self.turn(query), self.turn(key), value)


def repeated(x: Tensor, times: int) -> Tensor:
    batch, groups, length, head = x.shape
    if times == 1:
        return x
    x = x[:, :, None, :, :].expand(batch, groups, times, length, head)
    return x.reshape(batch, groups * times, length, head)


class Grouped(Turned):
    """Two query heads share one of keys and values."""

    def __init__(self) -> None:
        super().__init__(groups=HEADS // 2)
        self.times = HEADS // self.groups

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = repeated(self.turn(key), self.times), repeated(value, self.times)
        weights = torch.softmax(self.turn(query) @ key.transpose(2, 3) * self.scale, -1)
        return (weights @ value).transpose(1, 2)


def attend_in_groups(module: Grouped, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return Grouped.attend(module, query, key, value)


WAYS = {"eager": attend_in_groups}


class LookedUp(Grouped):
    """What is found in a table, as transformers finds its attention, is not written anew."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return WAYS["eager"](self, query, key, value)


class Spread(Attention):
    """The size of a head stands behind sizes that are spread."""

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).view(*x.shape[:-1], self.heads, 4).transpose(1, 2)
        key = self.key(x).view(*x.shape[:-1], self.heads, 4).transpose(1, 2)
        value = self.value(x).view(*x.shape[:-1], self.heads, 4).transpose(1, 2)
        out: Tensor = self.output(self.attend(query, key, value).reshape(*x.shape[:-1], DIM))
        return out


class MultiQuery(Attention):
    """All query heads share one of keys and values."""

    def __init__(self) -> None:
        super().__init__(groups=1)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        query = self.query(x).view(b, t, self.heads, self.head).transpose(1, 2)
        key, value = self.key(x)[:, None], self.value(x)[:, None]
        found = torch.softmax(query @ key.transpose(2, 3) * self.scale, -1) @ value
        out: Tensor = self.output(found.transpose(1, 2).reshape(b, t, c))
        return out


class Net(nn.Module):
    def __init__(self, kind: type[Attention]) -> None:
        super().__init__()
        self.attention, self.head = kind(), nn.Linear(DIM, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x + self.attention(x))
        return out


# What is kept of query, key, value: rows.
LEFT = {
    Attention: (4, 4, 1), FromWidth: (4, 4, 1), InOneLine: (4, 4, 4), Unflattened: (4, 4, 4),
    InAList: (4, 4, 1), Added: (1, 1, 1), ByFunction: (1, 1, 1), Einsum: (1, 1, 1), Turned: (4, 4, 1),
    Grouped: (4, 4, 1), LookedUp: (8, 4, 1), Spread: (4, 4, 1),
    MultiQuery: (1, 1, 1),
}  # fmt: skip


def shrunk(kind: type[Attention], masks: dict[str, dict[str, Tensor]]) -> Attention:
    torch.manual_seed(0)
    model = Net(kind).double().eval()
    small = materialize(plan_speedup(model, torch.randn(2, 5, DIM).double(), masks), verify="structure")
    masked = apply_masks(model, masks)
    for batch, length in ((1, 5), (3, 7), (2, 1)):
        calls = [(torch.randn(batch, length, DIM).double(),) for _ in range(2)]
        assert relative_error(masked, small, calls) < 1e-9
    assert isinstance(small, Net)
    return small.attention


@pytest.mark.parametrize("kind", LEFT, ids=lambda kind: kind.__name__)
def test_of_a_dead_attention_one_head_is_left(kind: type[Attention]) -> None:
    small = shrunk(kind, {"attention.output": {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}})
    rows = tuple(layer.out_features for layer in (small.query, small.key, small.value))
    assert rows == LEFT[kind]
    assert small.output.out_features == 1


@pytest.mark.parametrize("kind", [Attention, InOneLine, InAList, Turned], ids=lambda kind: kind.__name__)
def test_half_of_the_heads_go_as_before(kind: type[Attention]) -> None:
    kept = torch.arange(DIM) >= DIM // 2
    small = shrunk(kind, {"attention.output": {"weight": kept[None]}})
    assert (small.query.out_features, small.value.out_features) == (DIM // 2, DIM // 2)
