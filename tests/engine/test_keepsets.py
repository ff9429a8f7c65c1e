from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
import torch
from attrs import frozen

from speedup.engine.constraints import (
    Balanced,
    Constraint,
    Counted,
    Demand,
    Dim,
    Equal,
    Kept,
    Mapped,
    Pinned,
    Reason,
    Unbroken,
)
from speedup.engine.keepsets import KeepSets, solve_keep_sets
from speedup.errors import RuleError
from tests.support.bits import bits

# Dimensions of no tensor in particular.
A, B, C, D = (0, 0), (0, 1), (1, 0), (2, 0)
CAUSE = Reason(None, "because")


def shown(kept: KeepSets, *dims: Dim) -> list[str]:
    return ["".join("1" if b else "0" for b in kept[d].tolist()) for d in dims]


def solved(
    seeds: Mapping[Dim, str | None], constraints: Sequence[Constraint], extents: Mapping[Dim, int]
) -> KeepSets:
    given = {dim: None if seed is None else bits(seed) for dim, seed in seeds.items()}
    return solve_keep_sets(extents, given, constraints)


def reads(source: Dim, target: Dim, index: list[int]) -> Mapped:
    """Element t of `target` reads element index[t] of `source`."""
    size = max(index) + 1
    return Mapped((source,), (target,), torch.tensor(index), (size,), (len(index),), CAUSE)


def test_seeds_are_kept_and_nothing_else() -> None:
    kept = solved({A: "0110", B: "001"}, [], {A: 4, B: 3})
    assert shown(kept, A, B) == ["0110", "001"]


def test_seed_of_none_keeps_all() -> None:
    kept = solved({A: None}, [], {A: 3})
    assert shown(kept, A) == ["111"]
    assert kept.is_full(A)


def test_counts_and_fullness_follow_from_the_sets() -> None:
    kept = solved({A: "0110", B: "111"}, [], {A: 4, B: 3})
    assert [kept.count(A), kept.count(B)] == [2, 3]
    assert [kept.is_full(A), kept.is_full(B)] == [False, True]


def test_equal_dimensions_keep_the_union_of_their_seeds() -> None:
    kept = solved({A: "1000", C: "0010"}, [Equal((A, B), CAUSE), Equal((B, C), CAUSE)], {A: 4, B: 4, C: 4})
    assert shown(kept, A, B, C) == ["1010"] * 3
    assert kept.class_of(A) == kept.class_of(B) == kept.class_of(C)


def test_dimensions_that_nothing_equates_stay_apart() -> None:
    kept = solved({A: "10", B: "01"}, [], {A: 2, B: 2})
    assert kept.class_of(A) != kept.class_of(B)
    assert shown(kept, A, B) == ["10", "01"]


def test_equality_of_different_extents_is_a_rule_error_that_says_who_asked() -> None:
    with pytest.raises(RuleError, match=r"extents 4 and 3 \(my op adds them\)"):
        solved({}, [Equal((A, B), Reason(7, "my op adds them"))], {A: 4, B: 3})


def test_no_class_becomes_empty() -> None:
    kept = solved({}, [Equal((A, B), CAUSE)], {A: 4, B: 4, C: 2})
    assert shown(kept, A, B, C) == ["1000", "1000", "10"]


def test_index_that_saves_a_class_from_being_empty_is_propagated() -> None:
    kept = solved({}, [reads(B, A, [2, 1, 0])], {A: 3, B: 3})
    assert shown(kept, A, B) == ["100", "001"]


def test_index_of_a_factor_settles_which_of_the_product_stays() -> None:
    """A product of dimensions has no index of its own to choose once one factor has."""
    view = Mapped((A,), (B, C), None, (6,), (3, 2), CAUSE)
    assert shown(solved({B: "001"}, [view], {A: 6, B: 3, C: 2}), A, B, C) == ["000010", "001", "10"]


def test_dimension_of_extent_zero_may_be_empty() -> None:
    assert solved({}, [], {A: 0}).count(A) == 0


def test_growth_names_who_asked_for_what() -> None:
    reason = Reason(3, "the head is pinned")
    (derivation,) = solved({A: "100"}, [Pinned(A, reason, bits("101"))], {A: 3}).derivations
    assert derivation.reason is reason
    assert derivation.added.tolist() == [False, False, True]


def test_growth_tells_the_index_that_keeps_a_class_alive() -> None:
    (derivation,) = solved({}, [], {A: 2}).derivations
    assert derivation.dim == A
    assert derivation.added.tolist() == [True, False]
    assert "cannot become empty" in derivation.reason.words


def test_constraints_that_hold_anyway_leave_no_growth() -> None:
    kept = solved({A: "110", B: None}, [Pinned(A, CAUSE, bits("010")), Pinned(B, CAUSE)], {A: 3, B: 2})
    assert kept.derivations == ()


def test_growth_accounts_for_everything_beyond_the_seeds() -> None:
    constraints: list[Constraint] = [
        reads(A, B, [3, 2, 1, 0]),
        Unbroken(A, 2, CAUSE),
        Pinned(B, CAUSE, bits("0100")),
    ]
    kept = solved({A: "1000"}, constraints, {A: 4, B: 4})
    rebuilt = {A: bits("1000"), B: bits("0000")}
    for derivation in kept.derivations:
        assert not bool((rebuilt[derivation.dim] & derivation.added).any())
        rebuilt[derivation.dim] |= derivation.added
    assert [rebuilt[d].tolist() for d in (A, B)] == [kept[d].tolist() for d in (A, B)]


def test_demands_travel_through_chains_until_nothing_grows() -> None:
    constraints = [reads(A, B, [1, 2, 3, 0]), reads(B, C, [1, 2, 3, 0]), reads(C, A, [1, 2, 3, 0])]
    kept = solved({A: "1000"}, constraints, {A: 4, B: 4, C: 4})
    assert shown(kept, A, B, C) == ["1111"] * 3


def test_choices_wait_until_everything_forced_has_settled() -> None:
    """Taken at once, the count would be evened out with index 0, which nothing needs."""
    constraints: list[Constraint] = [Counted((A, B), CAUSE), Pinned(B, CAUSE, bits("0011"))]
    kept = solved({A: "1100"}, constraints, {A: 4, B: 4})
    assert shown(kept, A, B) == ["1100", "0011"]


def test_choices_are_taken_in_the_order_of_the_constraints() -> None:
    """Even runs first give B a second index that the count is content with; the other way it is not."""
    count, runs = Counted((A, B), CAUSE), Balanced((B,), 2, CAUSE, fixed=True)
    extents, seeds = {A: 4, B: 4}, {A: "1100", B: "1000"}
    assert shown(solved(seeds, [runs, count], extents), A, B) == ["1100", "1010"]
    assert shown(solved(seeds, [count, runs], extents), A, B) == ["1111", "1111"]


def test_forced_consequence_of_a_choice_comes_before_the_next_choice() -> None:
    """The first choice keeps B's index 0, which forces C's 3; the second then finds counts even."""
    constraints: list[Constraint] = [
        Counted((A, B), CAUSE),
        Counted((A, C), CAUSE),
        reads(C, B, [3, 2, 1, 0]),
    ]
    kept = solved({A: "1000", B: "0000"}, constraints, {A: 4, B: 4, C: 4})
    assert shown(kept, A, B, C) == ["1000", "1000", "0001"]


def test_order_of_forced_constraints_does_not_matter() -> None:
    constraints: list[Constraint] = [
        Equal((A, B), CAUSE),
        reads(B, C, [5, 4, 3, 2, 1, 0]),
        reads(C, D, [0, 1, 4, 5, 2, 3]),
        Unbroken(D, 3, CAUSE),
        Pinned(C, CAUSE, bits("010000")),
        Mapped((A,), ((3, 0), (3, 1)), None, (6,), (3, 2), CAUSE),
    ]
    extents = {A: 6, B: 6, C: 6, D: 6, (3, 0): 3, (3, 1): 2}
    seeds: dict[Dim, str | None] = {A: "000001"}
    expected = ["000011", "000011", "110000", "110000", "001", "11"]
    shuffler = random.Random(0)
    for _ in range(20):
        shuffler.shuffle(constraints)
        assert shown(solved(seeds, constraints, extents), *extents) == expected


def test_result_satisfies_every_closure() -> None:
    constraints: list[Constraint] = [
        reads(A, B, [5, 4, 3, 2, 1, 0]),
        Balanced((B, C), 3, CAUSE),
        Counted((A, C), CAUSE),
        Unbroken(A, 3, CAUSE),
    ]
    kept = solved({A: "010000"}, constraints, {A: 6, B: 6, C: 6})
    for constraint in constraints:
        assert not isinstance(constraint, Equal)
        for dim, demand in constraint.close(kept.__getitem__):
            assert not bool((demand & ~kept[dim]).any()), constraint


def test_seeds_are_not_written_to() -> None:
    seed = bits("100")
    solve_keep_sets({A: 3}, {A: seed}, [Pinned(A, CAUSE)])
    assert seed.tolist() == [True, False, False]


@frozen(eq=False)
class Oversized:
    """Breaks the contract: demands indices beyond the dimension's extent."""

    dim: Dim
    reason: Reason
    is_choice: bool = False

    @property
    def dims(self) -> tuple[Dim, ...]:
        return (self.dim,)

    def close(self, kept: Kept) -> Demand:
        yield self.dim, torch.ones(kept(self.dim).numel() + 1, dtype=torch.bool)


@pytest.mark.parametrize("is_choice", [False, True])
def test_closure_that_demands_beyond_the_extent_is_a_rule_error_that_names_it(is_choice: bool) -> None:
    closure = cast(Any, Oversized(A, Reason(None, "wants more"), is_choice))
    with pytest.raises(RuleError, match=r"wants more.*demands \(2,\) indices"):
        solve_keep_sets({A: 1}, {}, [closure])
