"""Read backwards, a constraint names an index that was there before and asks for what it demanded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from speedup.engine.constraints import (
    Balanced,
    Broadcast,
    Carrier,
    Closure,
    Copied,
    Counted,
    Dim,
    Mapped,
    Pinned,
    Reason,
    Subset,
    Unbroken,
)
from speedup.engine.supports import NEVER, Support, supports

A, B, C = (0, 0), (1, 0), (2, 0)
CAUSE = Reason(None, "test")


def found(
    closure: Closure, dim: Dim, wanted: list[int], times: dict[Dim, list[int]]
) -> dict[int, tuple[Dim, int]]:
    """By wanted index, what asked for it."""

    def since(one: Dim) -> Tensor:
        return torch.tensor([NEVER if t < 0 else t for t in times[one]])

    def told(support: Support) -> list[tuple[int, tuple[Dim, int]]]:
        pairs = zip(support.numbers.tolist(), support.indices.tolist(), strict=True)
        return [(wanted[number], (support.dim, index)) for number, index in pairs]

    return dict(p for s in supports(closure, dim, torch.tensor(wanted), since) for p in told(s))


@pytest.mark.parametrize(
    "closure",
    [Pinned(A, CAUSE), Carrier(A, (torch.ones(2, dtype=torch.bool),), torch.ones(2), B, 1, CAUSE)],
    ids=["pinned", "carrier"],
)
def test_what_demands_of_its_own_accord_is_a_root(closure: Closure) -> None:
    assert found(closure, A, [0, 1], {A: [-1, -1], B: [0, 0]}) == {}


def test_a_rearranged_index_was_asked_for_by_the_one_it_reads_or_that_reads_it() -> None:
    flipped = Mapped((A,), (B,), torch.tensor([2, 1, 0]), (3,), (3,), CAUSE)
    assert found(flipped, B, [0, 2], {A: [0, -1, 3], B: [-1, -1, -1]}) == {0: (A, 2), 2: (A, 0)}
    assert found(flipped, A, [0], {A: [-1, -1, -1], B: [-1, -1, 4]}) == {0: (B, 2)}


def test_an_entry_of_one_head_was_asked_for_by_that_entry_and_not_by_the_head() -> None:
    split = Mapped((A,), (B, C), None, (6,), (2, 3), CAUSE)
    assert found(split, A, [1], {A: [0] + [-1] * 5, B: [0, 0], C: [0, 2, -1]}) == {1: (C, 1)}


def test_of_several_that_ask_the_earliest_counts() -> None:
    pooled = Mapped((A,), (B,), torch.tensor([0, 0, 0]), (1,), (3,), CAUSE)
    assert found(pooled, A, [0], {A: [-1], B: [7, 2, 5]}) == {0: (B, 1)}


def test_the_border_of_a_pad_is_there_in_any_case() -> None:
    padded = Mapped((A,), (B,), torch.tensor([-1, 0, 1]), (2,), (3,), CAUSE, fixed=True)
    assert found(padded, B, [0, 1], {A: [0, -1], B: [-1, -1, -1]}) == {1: (A, 0)}


def test_a_group_is_filled_up_because_of_the_longest_or_because_it_lives_elsewhere() -> None:
    balanced = Balanced((A, B), 2, CAUSE)
    assert found(balanced, A, [3], {A: [0, 1, 0, -1], B: [0, -1, 0, -1]}) == {3: (A, 1)}
    assert found(balanced, A, [2], {A: [0, -1, -1, -1], B: [0, -1, -1, 6]}) == {2: (B, 3)}


def test_counts_grow_because_of_the_largest() -> None:
    assert found(Counted((A, B), CAUSE), A, [1], {A: [0, -1], B: [0, 5]}) == {1: (B, 1)}


def test_of_a_subset_and_its_whole_each_asks_the_other() -> None:
    subset = Subset(A, B, torch.tensor([False, True]), CAUSE)
    assert found(subset, A, [0], {A: [-1, -1], B: [3, -1]}) == {0: (B, 0)}
    assert found(subset, B, [1], {A: [-1, 2], B: [-1, -1]}) == {1: (A, 1)}


def test_what_is_no_longer_broadcast_has_what_the_other_has() -> None:
    broadcast = Broadcast(A, B, CAUSE)
    assert found(broadcast, A, [1], {A: [0, -1, 2], B: [-1, 3, -1]}) == {1: (B, 1)}
    assert found(broadcast, B, [0, 2], {A: [0, -1, 2], B: [-1, 3, -1]}) == {0: (A, 0), 2: (A, 2)}


def test_a_run_is_whole_because_of_what_was_kept_of_it() -> None:
    assert found(Unbroken(A, 2, CAUSE), A, [1, 2], {A: [3, -1, -1, 4]}) == {1: (A, 0), 2: (A, 3)}


def test_an_index_stays_because_of_its_copies() -> None:
    copied = Copied(A, B, C, CAUSE)
    times = {A: [-1, -1], B: [0, -1], C: [-1, -1, -1, 2]}
    assert found(copied, A, [1], times) == {1: (C, 3)}
