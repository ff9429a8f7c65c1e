"""Forwards that remember tables outside of their module: in globals, classes, closures, caches of functions.

Planning neither leaves anything there nor is misled by what is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import apply_masks, materialize, plan_speedup
from speedup.torch_api import is_fake

LENGTHS = (6, 9, 3, 12)


def make_table(length: int) -> Tensor:
    return torch.arange(length, dtype=torch.float64)[:, None]


def masks() -> dict[str, Tensor]:
    rows = torch.tensor([1, 0, 1, 1, 0, 1, 1, 1.0])
    return {"first.weight": rows[:, None].expand(8, 5), "second.weight": rows[:, None].expand(8, 8)}


class Positions(nn.Module):
    """Adds a number for each position, which `table` gives for as many as there are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(self.first(x) + self.table(x))))

    def table(self, x: Tensor) -> Tensor:
        raise NotImplementedError


TABLES: dict[Any, Tensor] = {}
LONGEST: Tensor | None = None


class InGlobalDict(Positions):
    def table(self, x: Tensor) -> Tensor:
        if x.shape[1] not in TABLES:
            TABLES[x.shape[1]] = make_table(x.shape[1])
        return TABLES[x.shape[1]]


class InGlobalDictBySeveral(Positions):
    def table(self, x: Tensor) -> Tensor:
        key = (x.shape[1], x.dtype)
        if key not in TABLES:
            TABLES[key] = make_table(x.shape[1])
        return TABLES[key]


class InGlobal(Positions):
    def table(self, x: Tensor) -> Tensor:
        global LONGEST  # noqa: PLW0603  that is the case
        if LONGEST is None or len(LONGEST) < x.shape[1]:
            LONGEST = make_table(x.shape[1])
        return LONGEST[: x.shape[1]]


class InClass(Positions):
    kept: Tensor | None = None

    def table(self, x: Tensor) -> Tensor:
        if InClass.kept is None or len(InClass.kept) != x.shape[1]:
            InClass.kept = make_table(x.shape[1])
        return InClass.kept


class InDefault(Positions):
    def table(self, x: Tensor, tables: list[Tensor] = []) -> Tensor:  # noqa: B006
        while len(tables) < x.shape[1]:
            tables.append(torch.tensor(float(len(tables)), dtype=torch.float64))
        return torch.stack(tables[: x.shape[1]])[:, None]


class InFunction(Positions):
    def table(self, x: Tensor) -> Tensor:
        return remembering(x.shape[1])


def remembering(length: int) -> Tensor:
    kept: Any = remembering
    if not hasattr(kept, "table") or len(kept.table) < length:
        kept.table = make_table(length)
    return kept.table[:length]


def _closure() -> Callable[[int], Tensor]:
    kept: Tensor | None = None

    def table(length: int) -> Tensor:
        nonlocal kept
        if kept is None or len(kept) < length:
            kept = make_table(length)
        return kept[:length]

    return table


in_closure = _closure()


class InClosure(Positions):
    def table(self, x: Tensor) -> Tensor:
        return in_closure(x.shape[1])


class InCachedFunction(Positions):
    def table(self, x: Tensor) -> Tensor:
        return cached_table(x.shape[1])


cached_table = functools.lru_cache(make_table)


class InCachedMethod(Positions):
    @staticmethod
    @functools.cache
    def made(length: int) -> Tensor:
        return make_table(length)

    def table(self, x: Tensor) -> Tensor:
        return self.made(x.shape[1])


class InCachedWithoutArguments(Positions):
    @staticmethod
    @functools.cache
    def made() -> Tensor:
        return make_table(max(LENGTHS))

    def table(self, x: Tensor) -> Tensor:
        return self.made()[: x.shape[1]]


class Holder:
    """An object that is no module."""

    def __init__(self) -> None:
        self.table: Tensor | None = None


HOLDER = Holder()


class InObject(Positions):
    def table(self, x: Tensor) -> Tensor:
        if HOLDER.table is None or len(HOLDER.table) < x.shape[1]:
            HOLDER.table = make_table(x.shape[1])
        return HOLDER.table[: x.shape[1]]


KINDS = Positions.__subclasses__()


@pytest.fixture(autouse=True)
def forgotten() -> None:
    global LONGEST  # noqa: PLW0603
    TABLES.clear()
    LONGEST = InClass.kept = HOLDER.table = None
    vars(remembering).clear()
    InDefault.table.__defaults__[0].clear()  # type: ignore[index]
    for cache in (cached_table, InCachedMethod.made, InCachedWithoutArguments.made):
        cache.cache_clear()


@pytest.mark.parametrize("was_called", [False, True], ids=["fresh", "called before"])
@pytest.mark.parametrize("kind", KINDS)
def test_tables_that_a_forward_remembers_outside_are_no_matter(
    kind: type[Positions], was_called: bool
) -> None:
    model, x = kind(), torch.randn(2, LENGTHS[0], 5, dtype=torch.float64)
    if was_called:
        model(x)
    plan = plan_speedup(model, x, masks())
    small = materialize(plan)
    assert plan_speedup(model, x, masks()) == plan
    assert plan.parameters_after < plan.parameters_before
    masked = apply_masks(model, masks())
    for length in LENGTHS:
        given = torch.randn(3, length, 5, dtype=torch.float64)
        wanted = masked(given)
        assert not is_fake(wanted)
        torch.testing.assert_close(small(given), wanted, rtol=1e-9, atol=1e-12)


def test_what_was_remembered_before_stays_and_nothing_comes_to_it() -> None:
    model, x = InGlobalDict(), torch.randn(2, 6, 5, dtype=torch.float64)
    model(x[:, :4])
    InClass.kept = make_table(2)
    before, kept = dict(TABLES), InClass.kept
    for kind in (InGlobalDict, InClass, InObject):
        materialize(plan_speedup(kind(), x, masks()))
    assert before == TABLES and TABLES[4] is before[4]
    assert InClass.kept is kept
    assert HOLDER.table is None


COUNTED: list[int] = []


class Counting(Positions):
    def table(self, x: Tensor) -> Tensor:
        COUNTED.append(1)
        return x.new_zeros(1)


def test_what_is_no_tensor_is_a_forwards_own_affair() -> None:
    plan_speedup(Counting(), torch.randn(2, 6, 5, dtype=torch.float64), masks())
    assert COUNTED
