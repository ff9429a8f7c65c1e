"""Which calls in a forward's source are found, and what becomes of the module that holds them."""

from __future__ import annotations

import io
import linecache
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch as th
from torch import Tensor, nn, reshape

from speedup import materialize, plan_speedup
from tests.support.contract import dropped, shrunk
from tests.support.drawn import doubles
from tests.support.spoken import as_rows, decorated, hiding

vectors = doubles(4)

GONE = (0, 3, 4, 7, 11)
WIDE = 12


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
        return x.view(-1, 3 * 2 * 2)


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
        note = "äöü – )"; return x.view(-1, 12) if note else x  # noqa: E702  # fmt: skip


class Texts(Base):
    def between(self, x: Tensor) -> Tensor:
        assert x.dim() == 2, f"({x.dim()}]" + "view(-1, 12)"; y = x.view(-1, 12); return y  # noqa: E702  # fmt: skip


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
        rows = lambda y: y.view(-1, 12)  # noqa: E731
        return rows(x)


class InFunction(Base):
    def between(self, x: Tensor) -> Tensor:
        def rows(y: Tensor) -> Tensor:
            return y.view(-1, 12)

        return rows(x)


class InComprehension(Base):
    def between(self, x: Tensor) -> Tensor:
        return sum([y.view(-1, 12) for y in (x, x.tanh())])  # type: ignore[return-value]


class InLoop(Base):
    def between(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x.view(-1, 12).tanh()
        return x


REWRITTEN = [
    Base, Product, OneTuple, Function, Keyword, KeywordMethod, OtherModuleName, BareFunction, Constant, Local,
    Walrus, Chained, Unicode, Texts, Column0, Defaults, Decorated, WithoutGrad, Inherited, Static, OfClass,
    Helper, Imported, Nested, InLambda, InFunction, InComprehension, InLoop,
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


DECLINED = [
    Recursive,
    Explicit,
    BySuper,
    Hidden,
    Private,
    PrivateInside,
    Bound,
    Stored,
    Passed,
    ClassDefault,
    Super,
]


@pytest.mark.parametrize("kind", [*DECLINED, SameName, Starred], ids=lambda k: k.__name__)
def test_what_cannot_be_rewritten_keeps_its_channels_or_is_exact(kind: type[Base]) -> None:
    _, small = shrunk(kind(), vectors, {"first": GONE})
    assert small.first.out_features == (12 if kind in DECLINED else 7)


def rows_of(x: Tensor, wide: int = 12) -> Tensor:
    return x.view(-1, 12)


class Block(nn.Module):
    """Its own literal between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.first(x)).view(-1, 12))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))


class Shared(nn.Module):
    """One block under two names, and one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(Block())
        self.b = nn.Sequential(self.a[0])
        self.c = Block()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).tanh()))


class TwoNeeds(nn.Module):
    """One helper for two sizes that come apart; each of them needs another number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = local_rows(torch.relu(self.first(x)))
        return self.head(local_rows(torch.relu(self.second(x))))


class TwoNeedsInLoop(TwoNeeds):
    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            x = torch.relu(layer(x)).view(-1, 12)
        return self.head(x)


class TwoCalls(TwoNeeds):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x)).view(-1, 12)
        return self.head(torch.relu(self.second(x)).view(-1, 12))


class Activation(nn.Module):
    """Holds nothing but the number, and is run at two sizes."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).view(-1, 12)


class SharedActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.act = Activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.second(self.act(self.first(x)))))


@pytest.mark.parametrize("gone", [{"block.first": GONE}])
def test_a_module_that_runs_twice_is_rewritten_once(gone: dict[str, tuple[int, ...]]) -> None:
    _, small = shrunk(Twice(), vectors, gone)
    assert small.block.first.out_features == 7


def test_a_module_of_two_parents_is_rewritten_and_stays_shared() -> None:
    _, small = shrunk(Shared(), vectors, {"a.0.first": GONE})
    assert small.a[0] is small.b[0]
    assert (small.a[0].first.out_features, small.c.first.out_features) == (7, 12)
    assert type(small.c) is Block


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [(TwoCalls, 7, 10), (TwoNeeds, 10, 10), (TwoNeedsInLoop, 10, 10), (SharedActivation, 10, 10)],
)
def test_one_piece_of_source_is_not_made_to_say_two_things(
    kind: type[nn.Module], first: int, second: int
) -> None:
    _, small = shrunk(kind(), vectors, {"first": GONE, "second": (1, 2)})
    assert (small.first.out_features, small.second.out_features) == (first, second)


@pytest.mark.parametrize("kind", [TwoNeeds, TwoNeedsInLoop, SharedActivation])
def test_one_piece_of_source_may_say_the_same_twice(kind: type[nn.Module]) -> None:
    _, small = shrunk(kind(), vectors, {"first": GONE, "second": (1, 2, 5, 6, 8)})
    assert (small.first.out_features, small.second.out_features) == (7, 7)


def made(scale: float, wide: int) -> type[nn.Module]:
    class Made(Base):
        def between(self, x: Tensor) -> Tensor:
            assert isinstance(self, Made)
            return super().between(x) if wide == 0 else x.view(-1, 12) * scale

    return Made


def test_a_class_made_in_a_function_keeps_what_it_closes_over() -> None:
    _, small = shrunk(made(3.0, 12)(), vectors, {"first": GONE}, importable=False)
    assert small.first.out_features == 7
    _, other = shrunk(made(5.0, 12)(), vectors, {"first": GONE}, importable=False)
    assert other.first.out_features == 7


def test_source_that_is_not_to_be_had_is_not_rewritten() -> None:
    scope: dict[str, Any] = {"Base": Base, "__name__": __name__}
    exec("class Unseen(Base):\n    def between(self, x):\n        return x.view(-1, 12)\n", scope)
    _, small = shrunk(scope["Unseen"](), vectors, {"first": GONE}, importable=False)
    assert small.first.out_features == 12


def spoken(text: str) -> type[nn.Module]:
    """The class `Cell` of a notebook cell that reads `text`."""
    file = f"<cell {hash(text)}>"
    linecache.cache[file] = (len(text), None, io.StringIO(text).readlines(), file)
    scope: dict[str, Any] = {"Base": Base, "__name__": __name__}
    exec(compile(text, file, "exec"), scope)
    return cast(type[nn.Module], scope["Cell"])


HEAD = "class Cell(Base):\n    def between(self, x):\n"
CELLS = {
    "plain": f"{HEAD}        return x.view(-1, 12)\n",
    "tabs": "class Cell(Base):\n\tdef between(self, x):\n\t\tif len(x):\n\t\t\treturn x.view(-1, 12)\n",
    "text at column 0": (
        f'{HEAD}        y = """\n  a\n"""\n        assert len(y) == 5\n        return x.view(-1,\n12\n)\n'
    ),
    "form feed": f"\x0c{HEAD}\x0c\n        return x.view(-1, 12)\n",
    "line separator": f"S = '\u2028'\n{HEAD}        return x.view(-1, 12)\n",
    "one line": "class Cell(Base):\n    def between(self, x): return x.view(-1, 12)\n",
    "continued": f"{HEAD}        return x \\\n            .view(-1, 12)\n",
}


@pytest.mark.parametrize("name", CELLS)
def test_source_of_a_notebook_cell_is_found_however_it_is_laid_out(name: str) -> None:
    _, small = shrunk(spoken(CELLS[name])(), vectors, {"first": GONE}, importable=False)
    assert small.first.out_features == 7


AGAIN = [Base, Chained, Defaults, Decorated, Static, Helper, Imported, Nested, InFunction, Column0]


@pytest.mark.parametrize("kind", AGAIN, ids=lambda k: k.__name__)
def test_a_rewritten_module_is_rewritten_again(kind: type[Base]) -> None:
    _, small = shrunk(kind(), vectors, {"first": GONE})
    _, smaller = shrunk(small, vectors, {"first": (1, 2)})
    assert smaller.first.out_features == 5
    assert small.first.out_features == 7
    assert type(smaller).__mro__[1] is kind
    assert type(smaller).__name__ == kind.__name__


def test_other_instances_and_the_class_are_not_rewritten() -> None:
    model, other = Helper(), Helper()
    shrunk(model, vectors, {"first": GONE})
    assert type(model) is type(other) is Helper
    assert other(torch.randn(2, 4)).shape == (2, 3)
    assert local_rows(torch.zeros(1, 24)).shape == (2, 12)


class Hooked(Base):
    def between(self, x: Tensor) -> Tensor:
        return x


def test_a_number_in_a_hook_keeps_its_channels() -> None:
    model = Hooked()
    model.head.register_forward_pre_hook(lambda module, args: (args[0].view(-1, 12),))
    _, small = shrunk(model, vectors, {"first": GONE}, importable=False)
    assert small.first.out_features == 12


def test_a_forward_of_the_instance_is_not_rewritten() -> None:
    model = Block()
    model.forward = model.forward  # type: ignore[method-assign]
    _, small = shrunk(model, vectors, {"first": GONE}, importable=False)
    assert small.first.out_features == 12


def test_a_forward_of_the_instance_keeps_no_other_module_from_being_rewritten() -> None:
    model = nn.Sequential(Block(), Block())
    model[0].forward = model[0].forward
    _, small = shrunk(model, vectors, {"0.first": GONE, "1.first": GONE}, importable=False)
    assert (small[0].first.out_features, small[1].first.out_features) == (12, 7)


class Sized(nn.Module):
    """Is told a number of features."""

    def forward(self, x: Tensor, wide: int) -> Tensor:
        return x.view(-1, wide)


class Telling(nn.Module):
    """Tells the size of one branch to a module that works on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 12), nn.Linear(4, 12)
        self.sized, self.head, self.tail = Sized(), nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        other = torch.relu(self.other(x))
        return self.head(self.sized(self.one(x), other.shape[1])) + self.tail(other)


@pytest.mark.parametrize(("keep", "wide"), [((), 7), (("sized",), 12)])
def test_a_number_that_is_passed_on_is_replaced_where_the_module_may_change(
    keep: tuple[str, ...], wide: int
) -> None:
    model = Telling().double()
    small: Any = materialize(plan_speedup(model, vectors(2), dropped(model, {"other": GONE}), keep=keep))
    assert small.other.out_features == wide
    assert (type(small.sized) is Sized) == bool(keep)


def test_kept_modules_are_not_rewritten() -> None:
    model = nn.Sequential(Block(), Block()).double()
    plan = plan_speedup(model, vectors(2), dropped(model, {"0.first": GONE, "1.first": GONE}), keep=["0"])
    small: Any = materialize(plan)
    assert type(small[0]) is Block
    assert type(small[1]).__mro__[1] is Block
