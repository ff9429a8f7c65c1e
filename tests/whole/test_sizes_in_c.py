"""Sizes that code in C takes: what it looks up, counts, says or computes is another at other sizes."""

from __future__ import annotations

import bisect
import collections
import datetime
import decimal
import fractions
import functools
import itertools
import json
import math
import operator
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from speedup import apply_masks, materialize, plan_speedup

_LENGTHS = range(1, 15)
Way = Callable[["Chosen", int], Iterable[nn.Module]]


class Chosen(nn.Module):
    """Layers of which the length of the input says which are run."""

    first: nn.Module
    second: nn.Module
    third: nn.Module
    count: int

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 6), nn.Linear(6, 2)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.row = nn.Sequential(*self.layers)
        self.named = nn.ModuleDict({f"at{n}": layer for n, layer in enumerate(self.layers)})
        self.first, self.second, self.third = self.layers
        self.way = way
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        for layer in self.way(self, x.shape[1]):
            y = torch.tanh(layer(y))
        return self.leave(y).mean(1)


def _match(n: int, layers: Sequence[nn.Module]) -> Sequence[nn.Module]:
    match n % 3:
        case 0:
            return layers[2:]
        case 1:
            return layers[1:2]
    return ()


def _kept(net: Chosen, n: int) -> Iterable[nn.Module]:
    net.count = n % 4
    return net.layers[: net.count]


def _popped(layers: list[nn.Module], n: int) -> Sequence[nn.Module]:
    layers.pop(n % 3)
    return layers


def _inserted(layers: list[nn.Module], n: int) -> Sequence[nn.Module]:
    layers.insert(n % 3, layers[0])
    return layers[:2]


_NAMES = ("first", "second", "third")
_BY_LENGTH = [2, 0, 1]

WAYS: dict[str, Way] = {
    "a slice of a list": lambda net, n: list(net.layers)[: n % 4],
    "the end of a tuple": lambda net, n: tuple(net.layers)[n % 4 :],
    "a step": lambda net, n: list(net.layers)[:: n % 3 + 1],
    "a slice of a comprehension": lambda net, n: [layer for layer in net.layers if layer][: n % 4],
    "a slice of children": lambda net, n: list(net.row.children())[: n % 4],
    "a slice of modules": lambda net, n: [net.row[: n % 4]],
    "a slice made elsewhere": lambda net, n: operator.getitem(list(net.layers), slice(0, n % 4)),
    "the last few": lambda net, n: list(net.layers)[-(n % 3) - 1 :],
    "islice": lambda net, n: itertools.islice(net.layers, n % 4),
    "islice from": lambda net, n: itertools.islice(net.layers, n % 4, None),
    "repeat": lambda net, n: itertools.repeat(net.first, n % 3),
    "a repeated list": lambda net, n: [net.first, net.third] * (n % 3),
    "so often a list": lambda net, n: (n % 3) * [net.second],
    "a deque": lambda net, n: collections.deque(net.layers, maxlen=n % 4),
    "a slice of a range": lambda net, n: [net.layers[i] for i in (0, 1, 2)[: n % 4]],
    "zip with a range": lambda net, n: [layer for layer, _ in zip(net.layers, range(n % 4), strict=False)],
    "a map of a range": lambda net, n: map(net.layers.__getitem__, range(n % 4)),
    "a list kept on the module": _kept,
    "popped": lambda net, n: _popped(list(net.layers), n),
    "inserted": lambda net, n: _inserted(list(net.layers), n),
    "an item": lambda net, n: [net.layers[n % 3]],
    "an item of a list": lambda net, n: [list(net.layers)[n % 3]],
    "an item of a comprehension": lambda net, n: [[layer for layer in net.layers if layer][n % 3]],
    "an item of a table": lambda net, n: [dict(enumerate(net.layers))[n % 3]],
    "what a table has": lambda net, n: [dict(enumerate(net.layers)).get(n % 2, net.third)],
    "an item of an item": lambda net, n: [[list(net.layers), list(net.layers)[::-1]][n % 2][n % 3]],
    "a seldom item": lambda net, n: [([net.first] * 3, [net.first, net.third, net.first])[n % 2][n % 3]],
    "itemgetter": lambda net, n: [operator.itemgetter(n % 3)(list(net.layers))],
    "a table of numbers": lambda net, n: [net.layers[_BY_LENGTH[n % 3]]],
    "digits": lambda net, n: [net.layers[int("201"[n % 3])]],
    "how many digits": lambda net, n: [net.layers[len(str(n))]],
    "str": lambda net, n: [net.named["at" + str(n % 3)]],
    "a format": lambda net, n: [net.named[f"at{n % 3}"]],
    "percent": lambda net, n: [net.named["at%d" % (n % 3)]],  # noqa: UP031
    "format()": lambda net, n: [net.named["at{}".format(n % 3)]],  # noqa: UP032
    "getattr": lambda net, n: [getattr(net, _NAMES[n % 3])],
    "attrgetter": lambda net, n: [operator.attrgetter(f"named.at{n % 3}")(net)],
    "a submodule": lambda net, n: [net.get_submodule(f"layers.{n % 3}")],
    "a search": lambda net, n: [m for name, m in net.named.items() if re.search(str(n % 3), name)],
    "a match": lambda net, n: _match(n, list(net.layers)),
    "a set": lambda net, n: [net.layers[n in {3, 5, 7}]],
    "a range has it": lambda net, n: [net.layers[n in range(3, 6)]],
    "where it stands": lambda net, n: [net.layers[sorted([n, 4]).index(n)]],
    "bisect": lambda net, n: [net.layers[bisect.bisect([3, 6], n)]],
    "divmod": lambda net, n: [net.layers[divmod(n, 3)[1]]],
    "gcd": lambda net, n: [net.layers[math.gcd(n, 6) % 3]],
    "isqrt": lambda net, n: [net.layers[min(math.isqrt(n), 3) - 1]],
    "a logarithm": lambda net, n: [net.layers[int(math.log2(n)) % 3]],
    "bits": lambda net, n: [net.layers[n.bit_length() % 3]],
    "xor": lambda net, n: [net.layers[(n ^ 1) % 3]],
    "a shift": lambda net, n: [net.layers[(n >> 1) % 3]],
    "hex": lambda net, n: [net.layers[int(hex(n), 16) % 3]],
    "bytes": lambda net, n: net.layers[: len(bytes(n)) % 4],
    "struct": lambda net, n: [net.layers[struct.pack("i", n)[0] % 3]],
    "a fraction": lambda net, n: [net.layers[int(fractions.Fraction(n, 2)) % 3]],
    "a float": lambda net, n: [net.layers[int(n / 2) % 3]],
    "a rounded float": lambda net, n: [net.layers[round(n * 0.5) % 3]],
    "accumulate": lambda net, n: [net.layers[list(itertools.accumulate([n, 1]))[-1] % 3]],
    "reduce": lambda net, n: [net.layers[functools.reduce(operator.xor, [n, 1]) % 3]],
    "the shape of a tensor": lambda net, n: net.layers[: torch.arange(n).shape[0] % 4],
}


Number = Callable[[int], float]

NUMBERS: dict[str, Number] = {
    "gcd": lambda n: math.gcd(n, 6),
    "isqrt": math.isqrt,
    "hypot": lambda n: math.hypot(n, 1),
    "fsum": lambda n: math.fsum([n, 0.5]),
    "the sum of a range": lambda n: sum(range(n)),
    "the length of a range": lambda n: len(range(n)),
    "the length of a list": lambda n: len([0] * n),
    "rounds": lambda n: [i for i, _ in enumerate(range(n))][-1],
    "an item of a table": lambda n: (3, 1, 4, 1, 5, 9, 2, 6)[n % 8],
    "digits": lambda n: len(str(n)),
    "their sum": lambda n: sum(map(int, str(n))),
    "text": lambda n: float(f"{n}"),
    "numpy": lambda n: float(numpy.arange(n).mean()),
    "a fraction": lambda n: float(fractions.Fraction(n, 3)),
    "power of two": lambda n: 1 << (n % 4),
    "bits": lambda n: n.bit_length(),
    "a complex number": lambda n: abs(complex(n, 0)),
    "sorted": lambda n: sorted((2, n, 6))[1],
    "json, which takes no other number": lambda n: float(json.dumps([n])[1:-1]),
    "days": lambda n: datetime.timedelta(n).days,
    "a decimal": lambda n: float(decimal.Decimal(n)),
    "a tensor of the old kind": lambda n: torch.LongTensor([n, n]).sum().item() / 2,
}


class Bounded(nn.Module):
    """Channels that a number made from the length of the input bounds, so that constants may become equal."""

    def __init__(self, number: Number, how: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 6), nn.Linear(6, 2)
        self.number, self.how = number, how
        self.double().eval()
        with torch.no_grad():
            self.enter.bias.copy_(torch.tensor([0.5, 1.5, -0.5, 2.5, 0.7, 0.3]))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.enter(x))
        return self.leave(torch.relu(self.how(y, self.number(x.shape[1])))).mean(1)


HOWS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "as a bound": lambda y, number: y.clamp(max=number * 0.1),
    "as a factor": lambda y, number: y * number,
    "as a tensor": lambda y, number: torch.minimum(y, torch.tensor(number * 0.1, dtype=y.dtype)),
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("number", NUMBERS)
def test_what_code_in_c_makes_of_a_size_is_no_constant(number: str, how: str) -> None:
    torch.manual_seed(0)
    net = Bounded(NUMBERS[number], HOWS[how])
    rows = torch.tensor([0.0, 0, 0, 0, 1, 1])
    masks = {"enter.weight": rows[:, None].expand(6, 5)}
    small = materialize(plan_speedup(net, torch.randn(2, 4, 5, dtype=torch.float64), masks))
    masked = apply_masks(net, masks)
    for length in _LENGTHS:
        x = torch.randn(3, length, 5, dtype=torch.float64)
        assert torch.allclose(small(x), masked(x), rtol=1e-9, atol=1e-9), length


def _says_in_json(y: Tensor, number: float) -> Tensor:
    assert json.dumps([number])
    return y


def test_a_forward_that_calls_what_takes_nothing_but_ints_shrinks() -> None:
    net = Bounded(lambda n: n, _says_in_json)
    rows = torch.tensor([0.0, 0, 0, 0, 1, 1])
    plan = plan_speedup(
        net, torch.randn(2, 4, 5, dtype=torch.float64), {"enter.weight": rows[:, None].expand(6, 5)}
    )
    assert materialize(plan).get_parameter("enter.weight").shape == (2, 5)
    # Nor is there a size that cannot be traced.
    assert plan.assumptions == ()


def _masks(net: Chosen) -> dict[str, Tensor]:
    dropped = {"enter": (0, 3), "layers.0": (1, 2), "layers.1": (3, 4), "layers.2": (2, 5)}
    masks: dict[str, Tensor] = {}
    for name, rows in dropped.items():
        rows_kept = torch.ones(6)
        rows_kept[list(rows)] = 0
        masks[f"{name}.weight"] = rows_kept[:, None].expand_as(net.get_parameter(f"{name}.weight"))
        masks[f"{name}.bias"] = rows_kept if name != "layers.1" else torch.ones(6)
    return masks


@pytest.mark.parametrize("name", WAYS)
def test_what_code_in_c_does_with_a_size_holds_at_other_sizes(name: str) -> None:
    torch.manual_seed(0)
    net = Chosen(WAYS[name])
    masks = _masks(net)
    plan = plan_speedup(net, torch.randn(2, 4, 5, dtype=torch.float64), masks)
    small, masked = materialize(plan), apply_masks(net, masks)
    for length in _LENGTHS:
        for batch in (1, 3):
            x = torch.randn(batch, length, 5, dtype=torch.float64)
            try:
                wanted = masked(x)
            except (IndexError, AttributeError):
                continue
            assert torch.allclose(small(x), wanted, rtol=1e-9, atol=1e-9), (length, batch)


@pytest.mark.parametrize("name", ["a slice of a list", "an item of a table", "islice", "a format", "a set"])
def test_where_all_ways_are_found_nothing_is_assumed(name: str) -> None:
    net = Chosen(WAYS[name])
    assert plan_speedup(net, torch.randn(2, 4, 5, dtype=torch.float64), _masks(net)).assumptions == ()


def test_numbers_that_code_in_c_takes_pass_for_ints() -> None:
    seen: list[Any] = []

    def look(net: Chosen, n: int) -> Iterable[nn.Module]:
        seen.append((isinstance(n, int), isinstance(n / 2, float), n.real == n, n.imag, [n] == [n]))
        return [net.first]

    plan_speedup(Chosen(look), torch.randn(2, 4, 5, dtype=torch.float64), {})
    assert set(seen) == {(True, True, True, 0, True)}
