"""Which calls in a forward's source are found, and what becomes of the module that holds them."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch as th
import torch.nn.functional as F
from torch import Tensor, nn, reshape

from speedup import materialize, plan_speedup
from tests.support.contract import dropped, require_exact, shrunk
from tests.support.spoken import as_rows, decorated, hiding

GONE = (0, 3, 4, 7, 11)
WIDE = 12


def vectors(batch: int) -> Tensor:
    return torch.randn(batch, 4, dtype=torch.float64)


class Base(nn.Module):
    """Twelve features between two layers; five of them go."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(torch.relu(self.first(x))))

    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, 12)


class Product(Base):
    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, 3*2*2)


class OneTuple(Base):
    def between(self, x: Tensor) -> Tensor:
        return x.view((-1, 12))


class Function(Base):
    def between(self, x: Tensor) -> Tensor:
        return torch.reshape(x, (-1, 12))


class Keyword(Base):
    def between(self, x: Tensor) -> Tensor:
        return torch.reshape(x, shape=(-1, 12))


class KeywordMethod(Base):
    def between(self, x: Tensor) -> Tensor:
        return x.reshape(shape=[-1, 12])


class OtherModuleName(Base):
    def between(self, x: Tensor) -> Tensor:
        return th.reshape(x, (-1, 12))


class BareFunction(Base):
    def between(self, x: Tensor) -> Tensor:
        return reshape(x, (-1, 12))


class Constant(Base):
    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, WIDE)


class Local(Base):
    def between(self, x: Tensor) -> Tensor:
        wide = 12
        return x.view(-1, wide)


class Walrus(Base):
    def between(self, x: Tensor) -> Tensor:
        if (y := x.view(-1, 12)).dim() == 2:
            return y
        return x


class Chained(Base):
    def between(self, x: Tensor) -> Tensor:
        return (
            x.unsqueeze(1)
            .view(  # ) ] not the end (
                -1,
                12,  # features
            )
            .contiguous()
        )


class Unicode(Base):
    def between(self, x: Tensor) -> Tensor:
        größe = "äöü – )"; return x.view(-1, 12) if größe else x  # fmt: skip


class Texts(Base):
    def between(self, x: Tensor) -> Tensor:
        assert x.dim() == 2, f"({x.dim()}]" + "view(-1, 12)"; y = x.view(-1, 12); return y  # fmt: skip


class Column0(Base):
    def between(self, x: Tensor) -> Tensor:
        """A text whose lines
begin where they like.
    """
        note = """
  two
"""
        assert note == "\n  two\n"
        return x.view(-1,
12)  # fmt: skip


class Defaults(Base):
    def forward(self, x: Tensor, scale: float = 2.0, *, wide: bool = True) -> Tensor:
        x = torch.relu(self.first(x)) * scale
        return self.head(x.view(-1, 12) if wide else x)


class ClassDefault(Base):
    SCALE = 3.0

    def between(self, x: Tensor, scale: float = SCALE) -> Tensor:
        return x.view(-1, 12) * scale


class Decorated(Base):
    @decorated
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.first(x)).view(-1, 12))


class WithoutGrad(Base):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.first(x)).view(-1, 12))


class Super(Base):
    def between(self, x: Tensor) -> Tensor:
        return torch.tanh(super().between(x).view(-1, 12))


class Inherited(Base):
    pass


class Static(Base):
    @staticmethod
    def rows(x: Tensor) -> Tensor:
        return x.view(-1, 12)

    def between(self, x: Tensor) -> Tensor:
        return self.rows(x)


class OfClass(Base):
    @classmethod
    def rows(cls, x: Tensor) -> Tensor:
        return x.view(-1, 12)

    def between(self, x: Tensor) -> Tensor:
        return type(self).rows(x)


def local_rows(x: Tensor) -> Tensor:
    return x.view(-1, 12)


def two_steps(x: Tensor) -> Tensor:
    return local_rows(torch.tanh(x))


class Helper(Base):
    def between(self, x: Tensor) -> Tensor:
        return local_rows(x)


class Imported(Base):
    def between(self, x: Tensor) -> Tensor:
        return as_rows(x)


class Nested(Base):
    def between(self, x: Tensor) -> Tensor:
        return two_steps(x)


class InLambda(Base):
    def between(self, x: Tensor) -> Tensor:
        return (lambda y: y.view(-1, 12))(x)


class InFunction(Base):
    def between(self, x: Tensor) -> Tensor:
        def rows(y: Tensor) -> Tensor:
            return y.view(-1, 12)

        return rows(x)


class InComprehension(Base):
    def between(self, x: Tensor) -> Tensor:
        return sum([y.view(-1, 12) for y in (x, x.tanh())])


class InLoop(Base):
    def between(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x.view(-1, 12).tanh()
        return x


class Tabs(Base):
	def between(self, x: Tensor) -> Tensor:  # fmt: skip
		return x.view(-1, 12)  # fmt: skip


REWRITTEN = [
    Base, Product, OneTuple, Function, Keyword, KeywordMethod, OtherModuleName, BareFunction, Constant, Local,
    Walrus, Chained, Unicode, Texts, Column0, Defaults, Decorated, WithoutGrad, Inherited, Static, OfClass,
    Helper, Imported, Nested, InLambda, InFunction, InComprehension, InLoop, Tabs,
]  # fmt: skip


@pytest.mark.parametrize("kind", REWRITTEN, ids=lambda k: k.__name__)
def test_a_number_in_the_source_is_rewritten(kind: type[Base]) -> None:
    _, small = shrunk(kind(), vectors, {"first": GONE})
    assert small.first.out_features == 7


def recursive(x: Tensor, depth: int) -> Tensor:
    return recursive(x.view(-1, 12), depth - 1) if depth else x


class Recursive(Base):
    def between(self, x: Tensor) -> Tensor:
        return recursive(x, 2)


class Explicit(Static):
    def between(self, x: Tensor) -> Tensor:
        return Static.rows(x)


class BySuper(Static):
    def between(self, x: Tensor) -> Tensor:
        return super().rows(x)


class Hidden(Base):
    @hiding
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.first(x)).view(-1, 12))


class Private(Base):
    def between(self, x: Tensor) -> Tensor:
        return self.__rows(x)

    def __rows(self, x: Tensor) -> Tensor:
        return x.view(-1, 12)


class PrivateInside(Base):
    def __init__(self) -> None:
        super().__init__()
        self.__scale = 2.0

    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, 12) * self.__scale


class Starred(Base):
    def between(self, x: Tensor) -> Tensor:
        shape = (-1, 12)
        return x.view(*shape)


class Bound(Base):
    def between(self, x: Tensor) -> Tensor:
        rows = self.rows
        return rows(x)

    def rows(self, x: Tensor) -> Tensor:
        return x.view(-1, 12)


class Stored(Base):
    def __init__(self) -> None:
        super().__init__()
        self.rows_of = self.rows

    def between(self, x: Tensor) -> Tensor:
        return self.rows_of(x)

    def rows(self, x: Tensor) -> Tensor:
        return x.view(-1, 12)


def apply(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return function(x)


class Passed(Base):
    def between(self, x: Tensor) -> Tensor:
        return apply(lambda y: y.view(-1, 12), x)


class SameName(Base):
    def between(self, x: Tensor) -> Tensor:
        return local_rows(x)

    def local_rows(self, x: Tensor) -> Tensor:
        return local_rows(x)


DECLINED = [Recursive, Explicit, BySuper, Hidden, Private, PrivateInside, Starred, Bound, Stored, Passed, ClassDefault, Super]


@pytest.mark.parametrize("kind", [*DECLINED, SameName], ids=lambda k: k.__name__)
def test_what_cannot_be_rewritten_keeps_its_channels_or_is_exact(kind: type[Base]) -> None:
    _, small = shrunk(kind(), vectors, {"first": GONE})
    assert small.first.out_features == (12 if kind in DECLINED else 7)
