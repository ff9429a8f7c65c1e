"""Integers that modules keep: where they are found, and models that stay exact when they change."""

from __future__ import annotations

import copy
import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup.ir.expressions import AttributeOf
from speedup.modules.attributes import replace_integers, set_attribute
from speedup.planning import planner
from speedup.planning.rehearsal import rehearse
from tests.support.contract import shrunk
from tests.support.drawn import doubles

vectors = doubles(4)
sequences = doubles(5, 8)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 12), nn.Linear(12, 3)
        self.prepare()

    def prepare(self) -> None:
        self.wide = 12

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(torch.relu(self.first(x))))

    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, self.wide)


class Product(Base):
    def prepare(self) -> None:
        self.a, self.b = 3, 4

    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, self.a * self.b)


class Difference(Base):
    def prepare(self) -> None:
        self.a = 20

    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, self.a - 8)


class Part(Base):
    def prepare(self) -> None:
        self.parts = (5, 7)

    def between(self, x: Tensor) -> Tensor:
        a, b = torch.split(x, self.parts, dim=1)  # type: ignore[arg-type]
        return torch.cat([a.tanh(), b], 1)


class Listed(Base):
    def prepare(self) -> None:
        self.parts = [5, 7]

    def between(self, x: Tensor) -> Tensor:
        a, b = torch.split(x, [self.parts[0], self.parts[1]], dim=1)
        return torch.cat([a.tanh(), b], 1)


class Mapped(Base):
    def prepare(self) -> None:
        self.sizes = {"wide": 12, "other": 3}

    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, self.sizes["wide"])


@dataclasses.dataclass
class Settings:
    wide: int = 12
    depth: int = 2


class Configured(Base):
    def prepare(self) -> None:
        self.settings = Settings()

    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, self.settings.wide)


class NetConfig:
    def __init__(self) -> None:
        self.wide = 12


class OfClassConfig(Base):
    def prepare(self) -> None:
        self.config = NetConfig()

    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, self.config.wide)


class Namespaced(Base):
    def prepare(self) -> None:
        self.hp = SimpleNamespace(inner=SimpleNamespace(wide=12))

    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, self.hp.inner.wide)


class OfClass(Base):
    WIDE = 12

    def prepare(self) -> None:
        pass

    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, self.WIDE)


class Property(Base):
    def prepare(self) -> None:
        self.half = 6  # type: ignore[assignment,method-assign]

    @property
    def wide(self) -> int:  # type: ignore[override]
        return 2 * self.half  # type: ignore[operator]

    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, self.wide)


class OddProperty(Property):
    """7 is no multiple of 2."""


class Rooted(Base):
    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, self.wide) / math.sqrt(self.wide)


class Divisor(Base):
    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, self.wide) / self.wide


class Counter(Base):
    def between(self, x: Tensor) -> Tensor:
        x = x.view(-1, self.wide)
        for _ in range(self.wide):
            x = x * 1.5
        return x


class CounterByName(Base):
    def between(self, x: Tensor) -> Tensor:
        wide = self.wide
        for _ in range(wide):
            x = x * 1.5
        return x.view(-1, wide)


class Listing(Base):
    def between(self, x: Tensor) -> Tensor:
        x = x.view(-1, self.wide)
        for y in [x] * self.wide:
            x = x + y
        return x


class Compared(Base):
    def between(self, x: Tensor) -> Tensor:
        x = x.view(-1, self.wide)
        return x.tanh() if self.wide > 10 else x


class Formatted(Base):
    def between(self, x: Tensor) -> Tensor:
        return {"12": x.view(-1, self.wide).tanh()}.get(f"{self.wide}", x)


class Slice(Base):
    def prepare(self) -> None:
        self.half = 6  # type: ignore[assignment,method-assign]

    def between(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, : self.half].tanh(), x[:, self.half :]], 1)


class Sliced(Base):
    def prepare(self) -> None:
        self.offset, self.length = 2, 10

    def between(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, : self.offset], x.narrow(1, self.offset, self.length).tanh()], 1)


class Indexed(Base):
    def prepare(self) -> None:
        self.which = 8

    def between(self, x: Tensor) -> Tensor:
        return x * x[:, self.which].unsqueeze(1)


class Both(Base):
    """One number for two sizes that come apart."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(12, 12)

    def between(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(x.view(-1, self.wide))).view(-1, self.wide)


class InForward(Base):
    """A number that the forward itself writes."""

    def between(self, x: Tensor) -> Tensor:
        self.wide = 12
        return x.view(-1, self.wide)


class Slots(Base):
    def prepare(self) -> None:
        self.shape = torch.Size([-1, 12])

    def between(self, x: Tensor) -> Tensor:
        return x.view(self.shape)


def settings(model: nn.Module) -> dict[str, int | float]:
    """The integers within a model's own attributes, by name."""
    found: dict[str, int | float] = {}

    def note(attribute: AttributeOf) -> Any:
        found[f"{attribute.path}:{attribute.name}"] = attribute.number
        return attribute.number

    replace_integers(model, note)
    return found


READING = [
    Base, Product, Difference, Part, Listed, Mapped, Configured, OfClassConfig, Namespaced, OfClass, Property,
    OddProperty, Rooted, Divisor, Counter, CounterByName, Listing, Compared, Formatted, Slice, Sliced,
    Indexed, Both, InForward, Slots,
]  # fmt: skip


@pytest.mark.parametrize("kind", READING, ids=lambda k: k.__name__)
def test_a_forward_that_reads_integers_stays_exact(kind: type[Base]) -> None:
    model = kind().eval()
    rows = {"first": (0, 3, 4, 7, 11)} | ({"second": (1, 2)} if kind is Both else {})
    before = [settings(model), settings(kind())]
    _, small = shrunk(model, vectors, rows)
    assert [settings(model), settings(kind())] == before
    assert small.first.out_features == 7


class Insisting(Base):
    """Runs with many features only."""

    def between(self, x: Tensor) -> Tensor:
        if self.wide < 10:
            raise ValueError("too narrow")
        return x.view(-1, self.wide)


class Beside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = Insisting(), Base()

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.other(x)


def test_a_number_that_a_branch_needs_stays_and_those_of_other_modules_are_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Known from the comparison alone, and not because the rehearsal failed.
    failing = []

    def watched(*given: Any) -> Any:
        failing.append(rehearse(*given))
        return failing[-1]

    monkeypatch.setattr(planner, "rehearse", watched)
    _, small = shrunk(Beside(), vectors, {"one.first": (0, 3, 4, 7, 11), "other.first": (0, 3, 4, 7, 11)})
    assert (small.one.wide, small.other.wide) == (12, 7)
    assert small.other.first.out_features == 7
    assert failing and not any(failing)


class Stated(Base):
    """Reads its number, and states it as well."""

    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, self.wide).tanh().view(-1, 12)


def test_a_number_is_set_where_others_have_to_be_written() -> None:
    _, small = shrunk(Stated(), vectors, {"first": (0, 3, 4, 7, 11)})
    assert (small.wide, small.first.out_features) == (7, 7)


class Borrowing(Base):
    """Takes the number of its features from a layer that happens to have as many."""

    def prepare(self) -> None:
        self.second = nn.Linear(12, 12)

    def between(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(x.view(-1, self.second.out_features)))


def test_numbers_of_layers_tell_what_they_hold_and_nothing_else() -> None:
    _, small = shrunk(Borrowing(), vectors, {"first": (0, 3, 4, 7, 11), "second": (1, 2)})
    assert (small.first.out_features, small.second.in_features) == (7, 7)
    assert small.second.out_features == small.second.weight.shape[0] == 10


class Heads(nn.Module):
    """Attention with numbers of its own."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config = config
        self.dim, self.heads = 12, 3
        self.prepare()
        self.q, self.k, self.v = (nn.Linear(8, 12) for _ in range(3))
        self.out = nn.Linear(12, 8)

    def prepare(self) -> None:
        self.head_dim = self.dim // self.heads

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, self.head_dim).transpose(1, 2)

    def scale(self) -> Any:
        return self.head_dim**-0.5

    def join(self, x: Tensor, like: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(like.shape[0], like.shape[1], self.dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        weights = (q @ k.transpose(-1, -2) * self.scale()).softmax(-1)
        return x + self.out(self.join(weights @ v, x))


class Joint(Heads):
    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, self.heads, self.dim // self.heads).transpose(1, 2)

    def scale(self) -> Any:
        return 0.5


class JointRoot(Joint):
    def scale(self) -> Any:
        return 1 / math.sqrt(self.dim // self.heads)


class JointPower(Joint):
    def scale(self) -> Any:
        return (self.dim // self.heads) ** -0.5


class ByConfig(Heads):
    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, self.config.heads, self.config.dim // self.config.heads).transpose(1, 2)

    def join(self, x: Tensor, like: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(like.shape[0], like.shape[1], self.config.dim)


class LiteralHeads(Heads):
    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], 3, 4).transpose(1, 2)

    def join(self, x: Tensor, like: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(*like.shape[:2], 12)


class Loop(Heads):
    """Head by head."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        found = []
        for n in range(self.heads):
            found.append((q[:, n] @ k[:, n].transpose(-1, -2)).softmax(-1) @ v[:, n])
        return x + self.out(torch.cat(found, -1))


HEADS = {"one head": (4, 5, 6, 7), "ends of heads": (3, 7, 11), "some": (0, 1, 5, 11)}
KINDS = [Heads, Joint, JointRoot, JointPower, ByConfig, LiteralHeads, Loop]


@pytest.mark.parametrize("gone", HEADS, ids=str)
@pytest.mark.parametrize("which", ["qkv", "v", "qk"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_heads_go_exactly(kind: type[Heads], which: str, gone: str) -> None:
    config = SimpleNamespace(dim=12, heads=3)
    model = nn.Sequential(kind(config), kind(config))
    _, small = shrunk(model, sequences, {f"0.{name}": HEADS[gone] for name in which})
    assert (config.dim, config.heads) == (12, 3)
    assert type(small[1]) is kind and small[1].config == config
    left = small[0].v.out_features
    if kind in (Heads, Joint, ByConfig) and which == "qkv":
        assert left == {"one head": 8, "ends of heads": 9, "some": 12}[gone]
        numbers = small[0].config if kind is ByConfig else small[0]
        assert (numbers.dim, numbers.heads) == (left, 2 if gone == "one head" else 3)


def test_names_lead_into_what_a_module_holds() -> None:
    module = nn.Module()
    held = {"a": [1, (2, 3)], "b": SimpleNamespace(c=4), "d": True, "e": "5", "f": Settings()}
    vars(module).update(copy.deepcopy(held))
    found: dict[str, float] = {}
    replace_integers(module, lambda a: int(found.setdefault(a.name, a.number)))
    assert list(found) == ["a[0]", "a[1][0]", "a[1][1]", "b.c", "f.wide", "f.depth"]


@pytest.mark.parametrize("name", ["n", "a[0]", "a[1][1]", "b.c", "f.wide", "g['x y']", "KIND"])
def test_a_number_is_set_in_a_copy_of_what_holds_it(name: str) -> None:
    class Holder(nn.Module):
        KIND = 3

    held: dict[str, Any] = {
        "a": [1, (2, 3)],
        "b": SimpleNamespace(c=4),
        "f": Settings(),
        "g": {"x y": 1},
        "n": 1,
    }
    module = Holder()
    vars(module).update(held)
    before = str(held)
    set_attribute(module, name, 77)
    found: dict[str, float] = {}
    replace_integers(module, lambda a: int(found.setdefault(a.name, a.number)))
    assert [n for n, number in found.items() if number == 77] == [name]
    assert (str(held), Holder.KIND) == (before, 3)


def test_what_a_class_says_hides_what_those_say_that_it_comes_from() -> None:
    class Plain(nn.Module):
        parts, width, depth = 2, 4, 6

    class Derived(Plain):
        parts = 3
        width: Any = None

    module = Derived()
    found: list[tuple[str, float]] = []

    def note(attribute: AttributeOf) -> int:
        found.append((attribute.name, attribute.number))
        return 10 * int(attribute.number)

    replace_integers(module, note)
    assert found == [("parts", 3), ("depth", 6)]
    assert (module.parts, module.width, module.depth) == (30, None, 60)


def test_a_number_that_a_class_sets_anew_is_the_one_that_is_traced() -> None:
    class Halves(nn.Module):
        parts = 2

        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(4, 12), nn.Linear(12, 3)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            first, *_ = torch.relu(self.first(x)).chunk(self.parts, dim=1)
            return self.head(torch.cat([first] * self.parts, dim=1))

    class Thirds(Halves):
        parts = 3

    shrunk(Thirds(), vectors, {"first": (0, 4, 8)}, importable=False)
