"""Models of token sequences whose forward branches on the length or the batch size, or counts by it.

All start with two linear layers. Of `wide` two rows are masked with their biases, so that they can always go;
of `q` two rows without, so that what follows meets two constants, which become others at other sizes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from functools import partial
from math import log
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.sized import MaskedRows, Sized, normal

WIDTH = 8
_INPUTS = partial(normal, channels=6)
_GONE = {"wide": (2, 7)}
_CONSTANT = {"q": (1, 4)}
LENGTHS = (5, 2, 4, 7, 8, 9, 16)


class Tokens(nn.Module):
    """Maps (batch, length, 6) to whatever `middle` makes of 8 features a token, and those to 3."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.q, self.o = nn.Linear(6, 10), nn.Linear(10, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.middle(self.q(torch.tanh(self.wide(x))), x))

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError


class Function(Tokens):
    """A function of the features and the input."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return self.function(y, x)


@functools.lru_cache
def _halves(length: int) -> tuple[int, int]:
    return length // 2, length - length // 2


_SCALES = (0.5, 1.5, 2.0, -1.0, 0.25, 0.75, 3.0, 0.1, 0.2, 0.3, 0.4, 0.6)
_BY_NAME = {"in turn": lambda n: list(_SCALES)[n % 12]}


def _made() -> Callable[[int], float]:
    return lambda n: _SCALES[n % 12]


def _scales() -> list[float]:
    return list(_SCALES)


def _either(y: Tensor, x: Tensor) -> Tensor:
    try:
        return y * (0.5, 1.5, 2.5, 3.5, 4.5, 5.5)[x.shape[1]]
    except IndexError:
        return y + 1


def _through_a_head(y: Tensor) -> Tensor:
    """What attention of one head does to extents: a batch of one and the head can be taken for each other."""
    return (
        y.reshape(*y.shape[:2], 1, -1).permute(2, 0, 1, 3).flatten(0, 1).reshape(y.shape[0], 1, *y.shape[1:])
    )


def _of_larger_batches(y: Tensor, extent: int) -> Tensor:
    return y if extent == 1 else torch.tanh(y)


# Of an example with extents of 1, which views may take for one another.
ONES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "flat heads": lambda y, x: _of_larger_batches(y, len(_through_a_head(y).transpose(1, 2).flatten(2))),
    "merged with a head": lambda y, x: _of_larger_batches(y, len(_through_a_head(y).flatten(0, 1))),
    "squeezed between": lambda y, x: _of_larger_batches(y, y[:, None].transpose(0, 1).squeeze(0).shape[0]),
    "last of a view": lambda y, x: _of_larger_batches(y, y.view(*y.shape[1:], -1).shape[-1]),
    "rows": lambda y, x: _of_larger_batches(y, y.reshape(-1, 8).shape[0] // x.shape[1]),
    "unflattened": lambda y, x: _of_larger_batches(
        y, y.flatten(0, 1).unflatten(0, (-1, x.shape[1])).shape[0]
    ),
}


def _early(y: Tensor, x: Tensor) -> Tensor:
    if x.shape[1] < 5:
        return y
    y = torch.sigmoid(y)
    return y if x.shape[1] < 8 else y * 2


def _matched(y: Tensor, x: Tensor) -> Tensor:
    match x.shape[1]:
        case 2 | 4:
            return y * 2
        case 5:
            return y + 1
        case _:
            return torch.tanh(y)


def _asserted(y: Tensor, x: Tensor) -> Tensor:
    assert x.shape[1] <= 16, "too long"
    return y * x.shape[1]


def _counted(y: Tensor, x: Tensor) -> Tensor:
    steps = 0
    for _ in x.unbind(1):
        steps += 1
    return y * steps


def _dilated(y: Tensor, x: Tensor) -> Tensor:
    for d in range(int(math.log2(x.shape[1]))):
        y = y + 0.3 * F.pad(y, (0, 0, 2**d, 0))[:, : y.shape[1]]
    return y


def _halved_number(y: Tensor, x: Tensor) -> Tensor:
    n = x.shape[1]
    while n > 1:
        y, n = y * 0.5 + 1, n // 2
    return y


FUNCTIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "behind a padding": lambda y, x: y + F.pad(y, (0, 0, 0, 15))[:, 5:6],
    "behind a padding on both ends": lambda y, x: y + F.pad(torch.tanh(y), (0, 0, 2, 15))[:, 7, None],
    "padded and turned": lambda y, x: y + F.pad(y, (0, 0, 0, 15)).transpose(1, 2)[:, :, 6, None].mT,
    "function of a table": lambda y, x: y * _BY_NAME["in turn"](x.shape[1]),
    "function that is made": lambda y, x: y * _made()(x.shape[1]),
    "item of a list that is made": lambda y, x: y * _scales()[x.shape[1] % 12],
    "sorted": lambda y, x: y * sorted(_SCALES)[x.shape[1] % 12],
    "log-n scaling": lambda y, x: y * (math.log(x.shape[1]) / math.log(512)),
    "log bound before": lambda y, x: y * log(x.shape[1]),
    "log2 of the length": lambda y, x: y + math.log2(y.shape[1]),
    "square root": lambda y, x: y / math.sqrt(x.shape[1]),
    "square root as a power": lambda y, x: y * int(x.shape[1] ** 0.5),
    "square root by numpy": lambda y, x: y * float(np.sqrt(x.shape[1])),
    "numpy's number times a tensor": lambda y, x: y * torch.tensor(np.log(x.shape[1])),
    "product by numpy": lambda y, x: y / int(np.prod(x.shape[1:])),
    "ceil": lambda y, x: y + math.ceil(x.shape[1] / 4),
    "floor": lambda y, x: y + math.floor(x.shape[1] / 3),
    "round": lambda y, x: y * round(x.shape[1] * 0.3),
    "exp": lambda y, x: y * math.exp(-x.shape[1]),
    "float": lambda y, x: y / float(x.shape[1]),
    "int of a float": lambda y, x: y * int(x.shape[1] * 0.7),
    "string": lambda y, x: y * float(f"{x.shape[1]}.5"),
    "bit length": lambda y, x: y * x.shape[1].bit_length(),
    "divided": lambda y, x: y / x.shape[1],
    "remainder": lambda y, x: y + x.shape[1] % 3,
    "divmod": lambda y, x: y * divmod(x.shape[1], 3)[1],
    "lowest bit": lambda y, x: y + (x.shape[1] & 1),
    "bool": lambda y, x: y + bool(x.shape[1] - 5),
    "at least zero": lambda y, x: y + max(0, x.shape[1] - 5) * 0.1,
    "at least four": lambda y, x: y * max(x.shape[1], 4),
    "at most six": lambda y, x: y * min(x.shape[1], 6),
    "largest of the shape": lambda y, x: y * max(x.shape),
    "comparison": lambda y, x: y + 1 if x.shape[1] > 6 else y,
    "chain of comparisons": lambda y, x: y * 2 if 4 <= x.shape[1] < 8 else y + 1,
    "product of comparisons": lambda y, x: y * (x.shape[1] > 6) + (x.shape[1] == 4),
    "one of a few": lambda y, x: y + 1 if x.shape[1] in (4, 8, 16) else torch.tanh(y),
    "one of a set": lambda y, x: y + 1 if x.shape[1] in {5, 9} else y,
    "shape compared": lambda y, x: y + 1 if x.shape[1:] == (5, 6) else y * 2,
    "and or": lambda y, x: y * ((x.shape[1] > 4 and 3.0) or 2.0),
    "match": _matched,
    "asserted": _asserted,
    "try": _either,
    "early return": _early,
    "as many steps": _counted,
    "range": lambda y, x: y + sum(0.1 * i for i in range(x.shape[1] // 2)),
    "comprehension": lambda y, x: y * len([i for i in range(x.shape[1]) if i % 3 == 0]),
    "dilated": _dilated,
    "halving a number": _halved_number,
    "length of the first": lambda y, x: y * len(x[0]),
    "length of the batch": lambda y, x: y * len(x),
    "length of the shape's tail": lambda y, x: y * x.shape[1:].numel(),
    "number of elements": lambda y, x: y * (x.numel() / x.shape[0]),
    "elements of the features": lambda y, x: y * y.shape[1:].numel(),
    "shape in a tensor": lambda y, x: y * torch.tensor(x.shape)[1],
    "size in a tensor": lambda y, x: y + torch.tensor(float(x.size(1))),
    "filled with the length": lambda y, x: y * torch.full((x.shape[1], 1), float(x.shape[1])),
    "as a tensor": lambda y, x: y * torch.as_tensor([x.shape[1], 2]).sum(),
    "stride": lambda y, x: y * x.stride(0),
    "shape in a list": lambda y, x: y * sorted([*x.shape[1:], 3])[-1],
    "counting positions": lambda y, x: y + torch.arange(x.shape[1], dtype=y.dtype)[:, None] / x.shape[1],
    "last position": lambda y, x: y * torch.arange(x.shape[1])[-1],
    "between 0 and 1": lambda y, x: y * torch.linspace(0, 1, x.shape[1], dtype=y.dtype)[:, None],
    "sum of ones": lambda y, x: y * x.new_ones(x.shape[1]).sum(),
    "sum of a mask": lambda y, x: y / torch.ones_like(x[..., 0]).sum(1)[:, None, None],
    "sum over positions": lambda y, x: y.sum(1),
    "mean over positions": lambda y, x: y.mean(1),
    "running sum": lambda y, x: y.cumsum(1),
    "running mean": lambda y, x: y.cumsum(1) / torch.arange(1, y.shape[1] + 1)[:, None],
    "softmax over positions": lambda y, x: y.softmax(1),
    "deviation over positions": lambda y, x: y + y.std(1, correction=0, keepdim=True),
    "norm over positions": lambda y, x: F.normalize(y, dim=1),
    "padded to four": lambda y, x: F.pad(y, (0, 0, 0, max(0, 4 - x.shape[1]))).mean(1),
    "padded to a multiple": lambda y, x: F.pad(y, (0, 0, 0, -x.shape[1] % 4)).unflatten(1, (-1, 4)).sum(2),
    "cut to a multiple of two": lambda y, x: y[:, : x.shape[1] // 2 * 2].unflatten(1, (-1, 2)).amax(2),
    "shifted if odd": lambda y, x: F.pad(y, (0, 0, 1, 0))[:, :-1] if x.shape[1] % 2 else y,
    "cached arithmetic": lambda y, x: y * _halves(x.shape[1])[0] + _halves(x.shape[1])[1],
    "fourier": lambda y, x: torch.fft.rfft(y, dim=1).abs(),
    "outer product of positions": lambda y, x: torch.einsum("bic,bjc->bijc", y, y).sum(1) / y.shape[1],
}
BATCH_FUNCTIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "more than six": lambda y, x: y + 1 if x.shape[0] > 6 else y,
    "batch of one": lambda y, x: torch.tanh(y[0])[None] if x.shape[0] == 1 else torch.tanh(y),
    "shortcut of a batch of one": lambda y, x: y * 2 if x.shape[0] == 1 else y * 2 + 1,
    "root of the batch": lambda y, x: y / math.sqrt(x.shape[0]),
    "over the batch": lambda y, x: y - y.sum(0, keepdim=True),
    "each on its own": lambda y, x: torch.stack([y[i] * (i + 1) for i in range(len(x))]),
    "every second of the batch": lambda y, x: y * torch.arange(x.shape[0])[:, None, None].remainder(2),
}


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Attention of two heads over (batch, length, features)."""
    q, k, v = (t.unflatten(2, (2, -1)).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / 2 + bias).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class Attention(Tokens):
    """Attention whose values are the features; a value that is constant stays so."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, WIDTH), nn.Linear(6, WIDTH)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return attend(self.a(x), self.b(x), y, self.bias(x.shape[1]))

    def bias(self, length: int) -> Tensor | float:
        """What is added to the logits, (heads, length, length) or for all the same."""
        return 0.0


class Alibi(Attention):
    """A penalty for distance, built from the length."""

    def bias(self, length: int) -> Tensor:
        at = torch.arange(length)
        return -(at[None] - at[:, None]).abs() * torch.tensor([0.5, 0.25], dtype=torch.float64)[:, None, None]


class LogN(Attention):
    """Queries scaled with the logarithm of the length, values too."""

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        scale = math.log(x.shape[1] + 1, 8)
        return attend(self.a(x) * scale, self.b(x), y * scale)


class Buckets(Attention):
    """T5's buckets of relative positions, looked up in a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 2)

    def bias(self, length: int) -> Tensor:
        at = torch.arange(length)
        distance = at[None] - at[:, None]
        side, distance = (distance > 0).long() * 4, distance.abs()
        far = 2 + (torch.log(distance.clamp(min=1).float() / 2) / math.log(16 / 2) * 2).long()
        bucket = side + torch.where(distance < 2, distance, far.clamp(max=3))
        return self.table(bucket).permute(2, 0, 1)


class Chunked(Attention):
    """Attention within chunks of four tokens and what is left over; chunks know how long they are."""

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        triples = zip(self.a(x).split(4, 1), self.b(x).split(4, 1), y.split(4, 1), strict=True)
        return torch.cat([attend(q, k, v) * v.shape[1] for q, k, v in triples], 1)


class PaddedChunks(Attention):
    """Attention within blocks of four tokens, padded, with the padding cut off again."""

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        length = x.shape[1]
        extra = (4 - length % 4) % 4
        blocks = [F.pad(t, (0, 0, 0, extra)).reshape(-1, 4, WIDTH) for t in (self.a(x), self.b(x), y)]
        return attend(*blocks).reshape(x.shape[0], length + extra, -1)[:, :length]


class Causal(Attention):
    """Masked by a table of the longest length, cut to this one."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((16, 16), -1e9).triu(1), persistent=False)

    def bias(self, length: int) -> Tensor:
        return self.mask[:length, :length] if length > 1 else torch.zeros(1, 1)


class StepByStep(Tokens):
    """A recurrence over `range(length)`; the features enter each step."""

    def __init__(self) -> None:
        super().__init__()
        self.h = nn.Linear(WIDTH, WIDTH)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        h = y.new_zeros(y.shape[0], WIDTH)
        for t in range(x.size(1)):
            h = torch.tanh(y[:, t] + 0.3 * self.h(h))
        return h


class Unbound(StepByStep):
    """The same over the tokens themselves, and all states stacked."""

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        states = [torch.zeros_like(y[:, 0])]
        for token in y.unbind(1):
            states.append(torch.tanh(token + 0.3 * self.h(states[-1])))
        return torch.stack(states[1:], 1)


class HandWrittenLSTM(Tokens):
    """Gates by hand; two units have no way in but their biases."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.h = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(WIDTH, 4 * WIDTH, bias=False)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        h = c = y.new_zeros(y.shape[0], WIDTH)
        for t in range(x.size(1)):
            i, f, g, o = (self.i(y[:, t]) + self.h(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h


class Tree(Tokens):
    """Halves the tokens by a layer until one is left."""

    def __init__(self) -> None:
        super().__init__()
        self.join = nn.Linear(2 * WIDTH, WIDTH)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        while y.shape[1] > 1:
            if y.shape[1] % 2:
                y = F.pad(y, (0, 0, 0, 1))
            y = torch.tanh(self.join(torch.cat([y[:, 0::2], y[:, 1::2]], 2)))
        return y[:, 0]


class Rounds(Tokens):
    """A layer again and again, half as often as there are tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Linear(WIDTH, WIDTH)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        for _ in range(x.shape[1] // 2):
            y = torch.tanh(self.p(y))
        return y


class Added(Tokens):
    """A table of positions cut to the length; only the last token is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.pos = nn.Parameter(torch.zeros(1, 16, WIDTH))

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.sigmoid(y + self.pos[:, : x.shape[1]])[:, -1]


class RowOfLength(Added):
    """The row of the table that belongs to the length, for all tokens."""

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.sigmoid(y + self.pos[0, x.shape[1] - 1])


class Interpolated(Added):
    """The table stretched to the length where that is not its own, 5."""

    def __init__(self) -> None:
        super().__init__()
        self.pos = nn.Parameter(torch.zeros(1, 5, WIDTH))

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        pos: Tensor = self.pos
        if x.shape[1] != pos.shape[1]:
            pos = F.interpolate(pos.transpose(1, 2), size=x.shape[1], mode="linear").transpose(1, 2)
        return torch.sigmoid(y + pos)


class Registers(Tokens):
    """Learnt tokens behind the others, then the mean over all."""

    def __init__(self) -> None:
        super().__init__()
        self.registers = nn.Parameter(torch.zeros(1, 2, WIDTH))

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.cat([y, self.registers.expand(len(y), -1, -1)], 1).mean(1)


class ClassLast(Registers):
    """Learnt tokens behind the others, of which the last is read by number."""

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        y = torch.cat([y, self.registers.expand(len(y), -1, -1)], 1).cumsum(1)
        return y[:, x.shape[1] + 1]


class ListOfScales(Tokens):
    """Numbers in a list, chosen by the length."""

    scales = (0.5, 1.5, 2.0, 3.0, 0.1, 0.7)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return y * self.scales[min(x.shape[1], 3)] + list(self.scales)[x.shape[1] % 6]


class TableOfLengths(Tokens):
    """Numbers in a dict, by length, with another for all lengths that are not in it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = {5: 2.0, 8: 3.0}

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return y * self.table.get(x.shape[1], 0.5)


class OddAndEven(Tokens):
    """A layer of its own for odd lengths, another for even ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.relu(self.layers[x.shape[1] % 2](torch.relu(y)))


class Named(Tokens):
    """The same by a name that is made of the length."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({f"h{n}": nn.Linear(WIDTH, WIDTH) for n in range(2)})

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.relu(self.heads[f"h{x.shape[1] % 2}"](torch.relu(y)))


class AsDeep(Tokens):
    """Deeper for longer inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        for block in self.blocks[: x.shape[1] // 4]:
            y = torch.relu(block(y))
        return y


class LongerOnly(Tokens):
    """A layer that only inputs of more than six tokens meet."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Linear(WIDTH, WIDTH)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        y = torch.relu(y)
        if x.shape[1] > 6:
            y = torch.relu(self.p(y))
        return y


class Positioned(Tokens):
    """Positions for at most nine tokens, told in one of several ways; more than six meet another layer."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.p, self.how = nn.Linear(WIDTH, WIDTH), how
        self.table, self.vectors = nn.Embedding(9, WIDTH), nn.Parameter(torch.randn(9, WIDTH))
        self.register_buffer("numbers", torch.arange(9)[None])
        self.register_buffer("causal", torch.ones(9, 9).tril())

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        y = torch.relu(y)
        length = y.shape[1]
        match self.how:
            case "vectors":
                y = y + self.vectors[:length]
            case "counted":
                y = y + self.table(torch.arange(length))
            case "numbered":
                y = y + self.table(self.get_buffer("numbers")[:, :length])
            case _:
                y = self.get_buffer("causal")[:length, :length] @ y
        return torch.relu(self.p(y)) if length > 6 else y


# What is asked of the features, in ways that leave the sight of comparisons.
ASKED: Mapping[str, Callable[[Tensor], bool]] = {
    "remainder by divmod": lambda y: divmod(y.shape[1], 4)[1] > 0,
    "half as a float": lambda y: float(y.shape[1]) / 2 > 3.2,
    "size in a tensor": lambda y: bool(torch.tensor(y.shape[1]) > 6),
    "length of the first": lambda y: len(y[0]) > 6,
    "size as text": lambda y: str(y.shape[1]) == "8",
    "all elements": lambda y: y.numel() > 96,
    "rank without ones": lambda y: y.mean(1, keepdim=True).squeeze().dim() == 2,
}


class Asked(Tokens):
    """One of two layers, as a function of the features says."""

    def __init__(self, ask: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.ask, self.p, self.r = ask, nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        y = torch.relu(y)
        return torch.relu(self.p(y) if self.ask(y) else self.r(y))


class Filed(Tokens):
    """A layer for each length, in a table by its digits; then as many of three layers as there are tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.ModuleDict({str(n): nn.Linear(WIDTH, WIDTH) for n in range(1, 8)})
        self.list = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        y = torch.relu(self.table[str(y.shape[1])](torch.relu(y)))
        for layer, _ in zip(self.list, range(y.shape[1])):  # noqa: B905  the shorter decides
            y = torch.relu(layer(y))
        return y


class Caught(Tokens):
    """Positions for five tokens, which others go without: an error says so."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(5, WIDTH))

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        try:
            return torch.relu(y) + self.vectors.expand_as(y)
        except RuntimeError:
            return torch.relu(y)


class NormOfBatches(Tokens):
    """A norm that a batch of one goes without."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        y = torch.relu(y).mean(1)
        return self.norm(y) if x.shape[0] > 1 else y


class Remembered(Tokens):
    """Positions kept from the last call as long as the length is the same; rotary embeddings do so."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        if self.kept is None or len(self.kept) != x.shape[1]:
            self.kept = torch.arange(x.shape[1], dtype=torch.float64)[:, None].mul(0.3).cos()
        return y * self.kept + len(self.kept)


class LongestSoFar(Remembered):
    """The same, made longer when a longer input comes and cut to shorter ones."""

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        if self.kept is None or len(self.kept) < x.shape[1]:
            self.kept = torch.arange(2 * x.shape[1], dtype=torch.float64)[:, None].mul(0.3).cos()
        return y * self.kept[: x.shape[1]]


class Gated(Tokens):
    """A gate over the concatenated tokens of a fixed count, or over their mean for any other count."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed, self.free = nn.Linear(5 * WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        gate = self.fixed(y.flatten(1)) if y.shape[1] == 5 else self.free(y.mean(1))
        return y * gate.sigmoid()[:, None]


class Convolved(Tokens):
    """A convolution over the tokens, padded by what the length lacks to a multiple of three."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, stride=3)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        lacks = math.ceil(y.shape[1] / 3) * 3 - y.shape[1]
        return torch.relu(self.conv(F.pad(y.transpose(1, 2), (0, lacks)))).transpose(1, 2)


class Fading(Tokens):
    """A layer as often as half the length; of twice and more of it nothing but constants is left."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(8, 8)
        with torch.no_grad():
            # Strictly triangular by blocks: its square is zero.
            self.mask = nn.Buffer(torch.zeros(8, 8).index_fill(0, torch.arange(4), 1.0))
            self.mask[:, :4] = 0

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        for _ in range((x.shape[1] + 1) // 2):
            y = F.linear(y, self.step.weight * self.mask, self.step.bias)
        return y


_CLASSES: Mapping[str, tuple[Callable[[], nn.Module], Mapping[str, Any]]] = {
    "attention of another length": (Attention, {"gone": {"q": (4, 5, 6, 7)}}),
    "alibi": (Alibi, {}),
    "log-n attention": (LogN, {}),
    "buckets of relative positions": (Buckets, {}),
    "chunks with a rest": (Chunked, {}),
    "padded chunks": (PaddedChunks, {}),
    "causal table": (Causal, {}),
    "recurrence": (StepByStep, {"constant": {"h": (1, 4)}}),
    "recurrence over unbound tokens": (Unbound, {"constant": {"h": (1, 4)}}),
    "LSTM by hand": (
        HandWrittenLSTM,
        {"constant": {layer: tuple(gate * WIDTH + n for gate in range(4) for n in (1, 4)) for layer in "ih"}},
    ),
    "reduction tree": (Tree, {"constant": {"join": (0, 3)}}),
    "rounds": (Rounds, {"constant": {"p": (0, 4)}}),
    "positions, last token": (Added, {}),
    "position of the length": (RowOfLength, {}),
    "interpolated positions": (Interpolated, {}),
    "registers": (Registers, {}),
    "token at the length": (ClassLast, {}),
    "list of scales": (ListOfScales, {}),
    "table of lengths": (TableOfLengths, {}),
    "odd and even": (OddAndEven, {"constant": {"layers.0": (0, 3), "layers.1": (3, 5)}}),
    "named by length": (Named, {"constant": {"heads.h0": (0, 3)}, "gone": {"heads.h1": (3, 5)}}),
    "as deep as long": (AsDeep, {"constant": {"blocks.0": (1, 2)}, "gone": {"blocks.1": (0, 2)}}),
    "layer of longer inputs": (LongerOnly, {"constant": {"p": (4, 6)}}),
    "fading rounds": (Fading, {"constant": {"step": (5,)}}),
    "norm of larger batches": (NormOfBatches, {}),
    "remembered positions": (Remembered, {}),
    "longest so far": (LongestSoFar, {}),
    "gate over five tokens": (Gated, {}),
    "padded convolution": (Convolved, {"constant": {"conv": (0, 4)}}),
}


def _sized(
    make: Callable[[], nn.Module],
    lengths: tuple[int, ...] = LENGTHS,
    constant: Mapping[str, tuple[int, ...]] | None = None,
    gone: Mapping[str, tuple[int, ...]] | None = None,
    **options: Any,
) -> Sized:
    constant, gone = {**_CONSTANT, **(constant or {})}, {**_GONE, **(gone or {})}
    constant = {path: rows for path, rows in constant.items() if path not in gone}
    sizes = tuple((length,) for length in lengths)
    return Sized(make, MaskedRows(constant, gone), _INPUTS, sizes, **options)


TOKEN_CASES: Mapping[str, Sized] = {
    **{name: _sized(partial(Function, function)) for name, function in FUNCTIONS.items()},
    **{
        f"{name}, by batch": _sized(partial(Function, function), (5, 9), batches=(1, 2, 3, 8))
        for name, function in BATCH_FUNCTIONS.items()
    },
    **{name: _sized(make, **masks) for name, (make, masks) in _CLASSES.items()},
    "norm of larger batches, example of one": _sized(NormOfBatches, example_batch=1),
    **{
        f"{name}, example of one": _sized(
            partial(Function, function), (5, 9), example_batch=1, batches=(1, 2, 3)
        )
        for name, function in ONES.items()
    },
    **{
        f"{name}, example of one token": _sized(
            partial(Function, function), (1, 6), example_batch=1, batches=(1, 2, 3)
        )
        for name, function in ONES.items()
    },
    "fading rounds, example of eight": _sized(Fading, (8, 1, 2, 3, 5, 9)),
    "recurrence, example of one token": _sized(StepByStep, (1, 2, 7, 4), constant={"h": (1, 4)}),
    "layer of longer inputs, example long": _sized(LongerOnly, (9, 5, 6, 7, 12), constant={"p": (4, 6)}),
    **{
        f"positions that are {how}, as many as there are": _sized(
            partial(Positioned, how), (9, 6, 3, 7, 1), constant={"p": (4, 6)}
        )
        for how in ("vectors", "counted", "numbered", "causal")
    },
    **{
        f"asked: {name}": _sized(partial(Asked, ask), constant={"p": (4, 6), "r": (3,)})
        for name, ask in ASKED.items()
    },
    **{
        f"asked: {name}, example of one": _sized(
            partial(Asked, ask), constant={"p": (4, 6), "r": (3,)}, example_batch=1, batches=(1, 2, 3)
        )
        for name, ask in ASKED.items()
    },
    "layers by length": _sized(Filed, (7, 1, 2, 3, 4, 5, 6)),
    "layers by length, example in the middle": _sized(Filed, (4, 1, 2, 3, 5, 6, 7)),
    "reduction tree, example of one token": _sized(Tree, (1, 2, 3, 5, 8), constant={"join": (0, 3)}),
    "gate over five tokens, example of seven": _sized(Gated, (7, 5, 4)),
}
