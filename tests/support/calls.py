"""Models that are called in several ways: with a cache, an optional argument, a task, another image size."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.masked_model import MaskedModel, masked_model, normal
from tests.support.measure import MakeInputs
from tests.support.sized import MaskedRows, Rows

WIDTH = 8
XS = normal(5, 6)


class Decoder(nn.Module):
    """A block of a language model; returns features and the keys and values so far."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.embed, self.out = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x = self.embed(x)
        q, k, v = (f(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        before = k.shape[2] - q.shape[2]
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(before)
        weights = (q @ k.transpose(-1, -2)).masked_fill(~seen, -1e9).softmax(-1)
        x = x + self.o((weights @ v).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(x)))
        return self.out(x), (k, v)


class Optional(nn.Module):
    """Adds what a second argument says, if there is one, by a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.side = nn.Linear(6, WIDTH), nn.Linear(4, WIDTH)
        self.last = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        x = self.first(x)
        if more is not None:
            x = x + self.side(more)
        return self.last(torch.relu(x))


class Tasks(nn.Module):
    """One trunk, a head for each task by name."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(6, WIDTH)
        self.hidden = nn.ModuleDict({task: nn.Linear(WIDTH, 10) for task in "ab"})
        self.heads = nn.ModuleDict({"a": nn.Linear(10, 2), "b": nn.Linear(10, 5)})

    def forward(self, x: Tensor, task: str = "a") -> Tensor:
        x = torch.sigmoid(self.trunk(x))
        return self.heads[task](torch.relu(self.hidden[task](x)))


class Shifted(nn.Module):
    """Adds one to its features, or what else it is told; or leaves them."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, by: float = 0.0) -> Tensor:
        return self.o(torch.tanh(self.q(x)) + by)


class Either(nn.Module):
    """Has two last layers, of which a flag chooses one."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o, self.p = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor, wide: bool = False) -> Tensor:
        x = torch.sigmoid(self.q(x))
        return self.p(x) if wide else self.o(x)


class Resolutions(nn.Module):
    """Large images are pooled and have a layer of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.large, self.last = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        if x.shape[-1] > 10:
            x = torch.relu(self.large(F.max_pool2d(x, 2)))
        return self.last(x)


class IdsOrEmbeddings(nn.Module):
    """Takes tokens, or what stands for them, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> Tensor:
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids)
        return self.down(F.gelu(self.up(inputs_embeds)))


class Heads(nn.Module):
    """Splits its features into heads, by number in one call and by width in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 3
        self.q, self.o = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor, by_width: bool = False) -> Tensor:
        x = self.q(x)
        if by_width:
            x = x.view(*x.shape[:2], -1, self.width).cumsum(3)
        else:
            x = x.view(*x.shape[:2], self.heads, -1).cumsum(3)
        return self.o(torch.tanh(x).reshape(*x.shape[:2], self.heads * self.width))


class HeadsNamed(Heads):
    """The same, but one call looks at the number of heads and takes another way with fewer."""

    def forward(self, x: Tensor, by_width: bool = False) -> Tensor:
        if by_width and self.heads != 4:
            return self.o(self.q(x).exp())
        return super().forward(x, by_width)


class Forked(nn.Module):
    """Takes one of two ways by the values of its input, and so is planned in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.positive, self.negative = (
            nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.positive(x) if x.sum() > 0 else self.negative(x)


def prepared(
    model: nn.Module,
    constant: Rows | None = None,
    gone: Rows | None = None,
    make_inputs: MakeInputs = XS,
) -> MaskedModel:
    """`model` in float64, lively on one kind of call, with rows masked without and with their biases."""
    return masked_model(model, MaskedRows(constant or {}, gone or {}), make_inputs)


def decoder() -> MaskedModel:
    """A decoder with three constants in its feed-forward layer."""
    return prepared(Decoder(), {"up": (0, 3, 7)})


def cache(batch: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Keys and values of `length` tokens before, for a `Decoder`."""
    generator = torch.Generator().manual_seed(seed)
    k, v = torch.randn(2, batch, 2, length, WIDTH // 2, generator=generator, dtype=torch.float64)
    return k, v


def step(batch: int, seed: int, length: int = 5) -> Mapping[str, object]:
    """A call of a `Decoder` with one token behind `length` others."""
    return {"x": normal(1, 6)(batch, seed), "past": cache(batch, length, seed)}
