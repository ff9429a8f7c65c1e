"""Modules that do something else at other sizes of what they are given: branches, loops, tables, arithmetic.

`dim` is the dimension that is looked at: 1 for tokens (N, L, C), -1 for (N, C, ..., L).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Question = Literal["above", "odd", "one of", "batch of one"]

SCALES = (0.5, 1.5, 2.0, -1.0, 0.25, 0.75, 3.0)

ARITHMETIC: Mapping[str, Callable[[int], float]] = {
    "logarithm": lambda n: math.log(n + 1),
    "root": math.sqrt,
    "beyond": lambda n: 0.5 * max(0, n - 4),
    "at most": lambda n: min(n, 5) / 4,
    "as a float": lambda n: float(n) / 8,
    "quotient": lambda n: n / 6,
    "remainder": lambda n: n % 3,
    "bits": lambda n: n.bit_length() / 2,
    "rounded": lambda n: round(n * 0.3),
    "text": lambda n: float(f"{n}.5") / 4,
    "listed": lambda n: SCALES[min(n, len(SCALES) - 1)],
    "listed in turn": lambda n: list(SCALES)[n % len(SCALES)],
    "named": lambda n: {4: 2.0, 5: 0.5}.get(n, 1.0),
}
"""Numbers made from a size: by arithmetic, by functions of Python, by a look into a table."""


class SizeScale(nn.Module):
    """`x` times, or plus, a number that is made from a size."""

    def __init__(self, number: str, dim: int, added: bool = False) -> None:
        super().__init__()
        self.number = number
        self.dim = dim
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        number = ARITHMETIC[self.number](x.shape[self.dim])
        return x + number if self.added else x * number


class Either(nn.Module):
    """One of two modules, by what is asked about a size, or about the batch."""

    def __init__(
        self, body: nn.Module, other: nn.Module, question: Question, dim: int, size: int = 4
    ) -> None:
        super().__init__()
        self.body = body
        self.other = other
        self.question = question
        self.dim = dim
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x) if self.is_so(x) else self.other(x)
        return result

    def is_so(self, x: Tensor) -> bool:
        """The answer for `x`."""
        match self.question:
            case "above":
                return x.shape[self.dim] > self.size
            case "odd":
                return x.shape[self.dim] % 2 == 1
            case "one of":
                return x.shape[self.dim] in (self.size, 2 * self.size)
            case "batch of one":
                return x.shape[0] == 1


class BatchShortcut(nn.Module):
    """A residual block that a batch of one goes past."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return x
        out: Tensor = self.body(x)
        return x + out


class Rounds(nn.Module):
    """A module again and again: once for every `per` of a size."""

    def __init__(self, body: nn.Module, per: int, dim: int) -> None:
        super().__init__()
        self.body = body
        self.per = per
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(x.shape[self.dim] // self.per):
            x = torch.tanh(self.body(x))
        return x


class Scan(nn.Module):
    """A recurrence over the unbound tokens of (N, L, C), all states stacked, or the last alone."""

    def __init__(self, body: nn.Module, last: bool = False) -> None:
        super().__init__()
        self.body = body
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        states = [torch.zeros_like(x[:, 0])]
        for token in x.unbind(1):
            states.append(torch.tanh(token + self.body(states[-1])))
        return states[-1] if self.last else torch.stack(states[1:], dim=1)


class Windows(nn.Module):
    """Padded to whole windows, each of which gets its mean added, and cut to what it was.

    With `asked` it is padded only where it is not whole windows already.
    """

    def __init__(self, window: int, dim: int, asked: bool = False) -> None:
        super().__init__()
        self.window = window
        self.dim = dim
        self.asked = asked

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[self.dim]
        lacking = (self.window - size % self.window) % self.window
        if not self.asked or lacking > 0:
            x = F.pad(x, (0, 0, 0, lacking) if self.dim == 1 else (0, lacking))
        windows: Tensor = x.unflatten(self.dim, (-1, self.window))  # type: ignore[no-untyped-call]
        dim = 2 if self.dim == 1 else -1
        windows = windows + windows.mean(dim, keepdim=True)
        return windows.flatten(dim - 1, dim).narrow(self.dim, 0, size)


class EvenPool(nn.Module):
    """Pairs along a dimension averaged, one element of padding behind where they do not come out even."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[self.dim] % 2:
            x = F.pad(x, (0, 0, 0, 1) if self.dim == 1 else (0, 1))
        pairs: Tensor = x.unflatten(self.dim, (-1, 2))  # type: ignore[no-untyped-call]
        return pairs.mean(2 if self.dim == 1 else -1)


class ElasticPad(nn.Module):
    """A convolution padded by what the size lacks, more of it behind, as TensorFlow does it."""

    def __init__(self, convolution: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        widths: list[int] = []
        for size, kernel, stride in zip(
            reversed(x.shape[2:]),
            reversed(self.convolution.kernel_size),
            reversed(self.convolution.stride),
            strict=True,
        ):
            lacking = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            widths += (lacking // 2, lacking - lacking // 2)
        padded: Tensor = self.convolution(F.pad(x, widths))
        return padded


class CutTable(nn.Module):
    """A table of positions, the first of which are added, as many as there are tokens (N, L, C)."""

    def __init__(self, longest: int, features: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, longest, features))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[:, : x.shape[1]]


class StretchedTable(nn.Module):
    """A table of positions, stretched to the number of tokens where that is another."""

    def __init__(self, length: int, features: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, length, features))

    def forward(self, x: Tensor) -> Tensor:
        table: Tensor = self.table
        if x.shape[1] != table.shape[1]:
            table = F.interpolate(table.transpose(1, 2), size=x.shape[1], mode="linear").transpose(1, 2)
        return x + table


class LastToken(nn.Module):
    """(N, L, C) -> (N, C): the last token, counted from the end or, with `counted`, by the length."""

    def __init__(self, counted: bool = False) -> None:
        super().__init__()
        self.counted = counted

    def forward(self, x: Tensor) -> Tensor:
        return x[:, x.shape[1] - 1] if self.counted else x[:, -1]
