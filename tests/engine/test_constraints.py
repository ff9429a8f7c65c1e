from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import pytest
import torch
from torch import Tensor

from speedup.engine.constraints import (
    Aligned,
    Balanced,
    Broadcast,
    Carrier,
    Closure,
    Counted,
    Dim,
    Mapped,
    Pinned,
    Reason,
    Spanned,
    Subset,
    Unbroken,
    carrier_of,
)
from tests.support.bits import bits

A, B, C = (0, 0), (1, 0), (2, 0)
CAUSE = Reason(None, "test")


def text(vector: Tensor) -> str:
    return "".join("1" if b else "0" for b in vector.tolist())


def demanded(closure: Closure, **kept: str) -> dict[str, str]:
    """All that `closure` asks for, by dimension, when these sets are kept."""
    dims = {"a": A, "b": B, "c": C}
    sets = {dims[name]: bits(one) for name, one in kept.items()}
    names = {dim: name for name, dim in dims.items()}
    found: dict[str, str] = {}
    for dim, demand in closure.close(sets.__getitem__):
        assert demand.dtype is torch.bool and demand.shape == sets[dim].shape
        before = bits(found[names[dim]]) if names[dim] in found else torch.zeros_like(demand)
        found[names[dim]] = text(before | demand)
    return found


def subsets(extent: int) -> Iterator[str]:
    return ("".join(choice) for choice in product("01", repeat=extent))


def is_within(small: str, large: str) -> bool:
    return all(s <= t for s, t in zip(small, large, strict=True))


def states(extents: Mapping[str, int]) -> Iterator[dict[str, str]]:
    for chosen in product(*(subsets(n) for n in extents.values())):
        yield dict(zip(extents, chosen, strict=True))


def mapped(
    sources: tuple[Dim, ...],
    targets: tuple[Dim, ...],
    index: list[int] | None,
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
    fixed: bool = False,
) -> Mapped:
    at = None if index is None else torch.tensor(index)
    return Mapped(sources, targets, at, *sizes, CAUSE, fixed)


def test_pinned_without_indices_demands_the_whole_dimension() -> None:
    assert demanded(Pinned(A, CAUSE), a="0100") == {"a": "1111"}


def test_pinned_demands_its_indices_only() -> None:
    assert demanded(Pinned(A, CAUSE, bits("0010")), a="1000") == {"a": "0010"}


def test_identity_map_demands_each_side_of_the_other() -> None:
    identity = mapped((A,), (B,), None, ((3,), (3,)))
    assert demanded(identity, a="100", b="001") == {"a": "001", "b": "100"}


def test_split_dimension_keeps_whatever_has_a_kept_element() -> None:
    """Row-major 6 -> 2 x 3: element 4 is at row 1, column 1."""
    split = mapped((A,), (B, C), None, ((6,), (2, 3)))
    assert demanded(split, a="000010", b="00", c="000") == {"a": "000000", "b": "01", "c": "010"}


def test_merged_dimensions_keep_the_box_of_their_sets() -> None:
    merge = mapped((A, B), (C,), None, ((2, 3), (6,)))
    assert demanded(merge, a="01", b="101", c="000000") == {"a": "00", "b": "000", "c": "000101"}


def test_one_kept_element_of_a_merged_dimension_keeps_its_row_and_column() -> None:
    merge = mapped((A, B), (C,), None, ((2, 3), (6,)))
    assert demanded(merge, a="00", b="000", c="010000") == {"a": "10", "b": "010", "c": "000000"}


def test_map_by_index_reads_where_it_points() -> None:
    """A reversed slice: target t reads source 3 - t."""
    flip = mapped((A,), (B,), [3, 2, 1], ((4,), (3,)))
    assert demanded(flip, a="1001", b="010") == {"a": "0010", "b": "100"}


def test_element_that_is_not_mapped_demands_nothing() -> None:
    """A concatenation's second operand: the first two target elements come from the other one."""
    part = mapped((A,), (B,), [-1, -1, 0, 1], ((2,), (4,)))
    assert demanded(part, a="01", b="1110") == {"a": "10", "b": "0001"}


def test_border_of_a_pad_is_kept_in_any_case() -> None:
    pad = mapped((A,), (B,), [-1, 0, 1, -1], ((2,), (4,)), fixed=True)
    assert demanded(pad, a="00", b="0000") == {"a": "00", "b": "1001"}


def test_map_onto_repeated_elements_demands_all_copies() -> None:
    repeat = mapped((A,), (B,), [0, 1, 0, 1], ((2,), (4,)))
    assert demanded(repeat, a="10", b="0000") == {"a": "00", "b": "1010"}
    assert demanded(repeat, a="00", b="0001") == {"a": "01", "b": "0000"}


def test_run_that_is_alive_in_one_dimension_is_alive_in_all() -> None:
    balanced = Balanced((A, B), 3, CAUSE)
    assert demanded(balanced, a="110000", b="010") == {"a": "111100", "b": "110"}


def test_runs_grow_to_the_largest_by_their_first_missing_indices() -> None:
    balanced = Balanced((A,), 2, CAUSE)
    assert demanded(balanced, a="0111" + "0010") == {"a": "0111" + "1110"}


def test_dead_runs_stay_dead() -> None:
    assert demanded(Balanced((A,), 2, CAUSE), a="0000" + "0110") == {"a": "0000" + "0110"}


def test_fixed_runs_keep_at_least_one_index_each() -> None:
    balanced = Balanced((A, B), 3, CAUSE, fixed=True)
    assert demanded(balanced, a="000000", b="000") == {"a": "101010", "b": "111"}


def test_run_that_only_lives_elsewhere_gets_one_index() -> None:
    assert demanded(Balanced((A, B), 2, CAUSE), a="0000", b="01") == {"a": "0010", "b": "01"}


def test_counted_fills_the_shorter_set_from_the_front() -> None:
    assert demanded(Counted((A, B), CAUSE), a="1100", b="000001") == {"a": "1100", "b": "100001"}


def test_equal_counts_of_different_indices_are_fine() -> None:
    assert demanded(Counted((A, B), CAUSE), a="1100", b="0011") == {"a": "1100", "b": "0011"}


def test_whole_runs_stay_or_go_as_one() -> None:
    assert demanded(Unbroken(A, 3, CAUSE), a="010000") == {"a": "110000"}


def aligned(multiple: int, groups: int = 1, at_once: bool = True) -> Aligned:
    return Aligned(A, groups, lambda count: -(-count // multiple) * multiple, at_once, CAUSE)


@pytest.mark.parametrize(
    ("closure", "kept", "wanted"),
    [
        (aligned(4), "0100001000", "1110001000"),
        (aligned(4, at_once=False), "0100001000", "1100001000"),
        (aligned(2), "0101", "0101"),
        (aligned(4), "0000", "0000"),
        (aligned(3), "0101", "1101"),
        (aligned(3), "1111", "1111"),
        (aligned(2, groups=3), "100000001110", "111100001111"),
        (aligned(3, groups=2, at_once=False), "100010", "110110"),
    ],
)
def test_alignment_adds_the_first_missing_indices_to_what_is_alive(
    closure: Aligned, kept: str, wanted: str
) -> None:
    assert demanded(closure, a=kept) == {"a": wanted}


def carrier(families: list[str], magnitude: list[float], groups: int = 1) -> Carrier:
    return Carrier(A, tuple(bits(f) for f in families), torch.tensor(magnitude), B, groups, CAUSE)


def test_dropped_family_needs_its_largest_member() -> None:
    assert demanded(carrier(["1110"], [1.0, 3.0, 2.0, 9.0]), a="0001", b="10") == {"a": "0100"}


def test_family_with_a_kept_member_needs_no_other() -> None:
    assert demanded(carrier(["1110"], [1.0, 3.0, 2.0, 9.0]), a="0011", b="10") == {}


def test_kept_member_that_is_much_smaller_does_not_carry() -> None:
    assert demanded(carrier(["110"], [0.01, 3.0, 1.0]), a="100", b="1") == {"a": "010"}


def test_family_that_is_kept_whole_needs_no_carrier() -> None:
    assert demanded(carrier(["100"], [1.0, 3.0, 1.0]), a="100", b="1") == {}


def test_each_family_gets_a_carrier_of_its_own() -> None:
    found = demanded(carrier(["1100", "0011"], [1.0, 2.0, 4.0, 3.0]), a="0000", b="1")
    assert found == {"a": "0110"}


def test_family_whose_group_has_no_result_left_does_not_count() -> None:
    closure = carrier(["1100", "0011"], [1.0, 2.0, 4.0, 3.0], groups=2)
    assert demanded(closure, a="0000", b="0001") == {"a": "0010"}
    assert demanded(closure, a="0000", b="0000") == {}


@pytest.mark.parametrize(
    ("kept", "expected"), [("1110", 1), ("1010", 2), ("1000", None), ("0000", None), ("0001", None)]
)
def test_carrier_is_the_largest_kept_member_if_it_is_large_enough(kept: str, expected: int | None) -> None:
    magnitude = torch.tensor([0.01, 3.0, 2.0, 9.0])
    assert carrier_of(bits("1110"), bits(kept), magnitude) == expected


def test_zero_cannot_carry() -> None:
    assert carrier_of(bits("11"), bits("11"), torch.zeros(2)) is None


def spanned(
    profiles: list[list[float]], members: str = "", groups: int = 1, has_bias: bool = False
) -> Spanned:
    counting = bits(members or "1" * len(profiles))
    return Spanned(A, counting, torch.tensor(profiles), has_bias, B, groups, CAUSE)


SPREAD = [[1.0, 0.0, 0.0], [0.0, 3.0, 0.0], [1.0, 3.0, 0.0], [2.0, 0.0, 0.0]]


def test_dropped_channels_need_as_many_as_they_are_apart() -> None:
    """The largest first, and then the largest of what is left."""
    assert demanded(spanned(SPREAD), a="0000", b="1") == {"a": "0011"}
    assert demanded(spanned(SPREAD), a="1000", b="1") == {"a": "1100"}
    assert demanded(spanned(SPREAD, "1001"), a="0000", b="1") == {"a": "0001"}


def test_channels_that_are_kept_anyway_come_first() -> None:
    assert demanded(spanned(SPREAD), a="1100", b="1") == {}
    assert demanded(spanned(SPREAD), a="0110", b="1") == {}


def test_kept_channel_that_is_much_smaller_spans_nothing() -> None:
    assert demanded(spanned([[0.01, 0.0], [1.0, 0.0]]), a="10", b="1") == {"a": "01"}


def test_what_is_the_same_in_all_classes_needs_no_channel_beside_a_bias() -> None:
    assert demanded(spanned([[2.0, 2.0]], has_bias=True), a="0", b="1") == {}
    assert demanded(spanned([[2.0, 2.0]]), a="0", b="1") == {"a": "1"}
    assert demanded(spanned([[2.0, 1.0], [5.0, 7.0]], has_bias=True), a="00", b="1") == {"a": "01"}


def test_groups_span_their_own_and_only_if_they_have_results() -> None:
    closure = spanned(SPREAD, groups=2)
    assert demanded(closure, a="0000", b="11") == {"a": "1111"}
    assert demanded(closure, a="0000", b="10") == {"a": "1100"}


def test_channels_that_help_serve_where_they_are_kept_and_need_none_themselves() -> None:
    profiles = torch.tensor(SPREAD)
    closure = Spanned(A, bits("0010"), profiles, False, B, 1, CAUSE, helpers=bits("1101"))
    assert demanded(closure, a="0000", b="1") == {"a": "0010"}
    assert demanded(closure, a="1100", b="1") == {}


@pytest.mark.parametrize("has_bias", [False, True])
def test_factors_make_up_what_was_dropped(has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    profiles = torch.randn(12, 4, generator=generator).double()
    closure = Spanned(A, torch.ones(12, dtype=torch.bool), profiles, has_bias, B, 1, CAUSE)
    kept = bits("110000000000")
    demands = dict(closure.close({A: kept, B: bits("1")}.__getitem__))
    kept = kept | demands[A]
    assert int(kept.sum()) == 4 - has_bias
    basis, columns = closure.basis(0, kept), (~kept).nonzero().reshape(-1)
    assert bool(kept[basis].all())
    factors, rest = closure.factors(columns, basis)
    torch.testing.assert_close(factors @ profiles[basis] + rest[:, None], profiles[columns])
    assert has_bias or not bool(rest.any())


def test_of_a_subset_only_what_is_spare_may_be_missing() -> None:
    subset = Subset(A, B, bits("0110"), CAUSE)
    assert demanded(subset, a="0000", b="0110") == {"a": "0000", "b": "0000"}
    assert demanded(subset, a="0000", b="1111") == {"a": "1001", "b": "0000"}


def test_the_whole_has_all_that_its_subset_has() -> None:
    subset = Subset(A, B, bits("1111"), CAUSE)
    assert demanded(subset, a="0101", b="0010") == {"a": "0000", "b": "0101"}


def test_one_index_may_stand_for_all_and_several_are_the_same_in_both() -> None:
    broadcast = Broadcast(A, B, CAUSE)
    assert demanded(broadcast, a="0000", b="0110") == {}
    assert demanded(broadcast, a="1000", b="0110") == {}
    assert demanded(broadcast, a="1010", b="0110") == {"a": "0110", "b": "1010"}


FORCED = [
    (Pinned(A, CAUSE), {"a": 3}),
    (Pinned(A, CAUSE, bits("010")), {"a": 3}),
    (mapped((A,), (B,), None, ((3,), (3,))), {"a": 3, "b": 3}),
    (mapped((A,), (B, C), None, ((4,), (2, 2))), {"a": 4, "b": 2, "c": 2}),
    (mapped((A, B), (C,), [3, -1, 0], ((2, 2), (3,))), {"a": 2, "b": 2, "c": 3}),
    (mapped((A,), (B,), [-1, 0, 1, -1], ((2,), (4,)), fixed=True), {"a": 2, "b": 4}),
    (Unbroken(A, 2, CAUSE), {"a": 4}),
    (Subset(A, B, bits("010"), CAUSE), {"a": 3, "b": 3}),
    (Broadcast(A, B, CAUSE), {"a": 3, "b": 3}),
]


@pytest.mark.parametrize(("closure", "extents"), FORCED)
def test_forced_closure_never_demands_less_of_larger_sets(closure: Closure, extents: dict[str, int]) -> None:
    assert not closure.is_choice
    every = [(state, demanded(closure, **state)) for state in states(extents)]
    for small, wanted in every:
        for large, wanted_of_large in every:
            if all(is_within(small[name], large[name]) for name in extents):
                assert all(is_within(wanted[name], wanted_of_large[name]) for name in wanted), (small, large)


@pytest.mark.parametrize(
    ("closure", "extents"),
    [
        (Unbroken(A, 2, CAUSE), {"a": 4}),
        (Balanced((A, B), 2, CAUSE), {"a": 4, "b": 2}),
        (Balanced((A, B), 2, CAUSE, fixed=True), {"a": 4, "b": 2}),
        (Counted((A, B), CAUSE), {"a": 3, "b": 3}),
        (aligned(3), {"a": 4}),
        (aligned(2, groups=2), {"a": 4}),
    ],
)
def test_closure_of_counts_settles_at_once_and_gives_up_nothing(
    closure: Closure, extents: dict[str, int]
) -> None:
    for state in states(extents):
        once = demanded(closure, **state)
        assert all(is_within(state[name], once[name]) for name in extents), state
        assert demanded(closure, **once) == once, state


@pytest.mark.parametrize(
    "closure", [Balanced((A,), 2, CAUSE), Counted((A, B), CAUSE), carrier(["11"], [1.0, 2.0]), aligned(2)]
)
def test_kinds_that_several_sets_would_satisfy_are_choices(closure: Closure) -> None:
    assert closure.is_choice
