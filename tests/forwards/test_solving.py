"""Integers of attributes that make expressions come out as they must."""

from __future__ import annotations

import pytest

from speedup.forwards.solving import Equation, components, related_equations, solve_attributes
from speedup.ir.expressions import Arithmetic, AttributeOf, Expression, SizeOf

DIM, HEADS, WIDE = AttributeOf("a", "dim", 12), AttributeOf("a", "heads", 3), AttributeOf("a", "wide", 4)
LENGTH = SizeOf(0, 1)


def math(function: str, *operands: Expression) -> Arithmetic:
    return Arithmetic(function, operands)


def solved(*equations: tuple[Expression, object], fixed: dict[AttributeOf, int] | None = None) -> object:
    return solve_attributes([Equation(e, w) for e, w in equations], fixed or {}, lambda size: 5)


@pytest.mark.parametrize(
    ("expression", "wanted", "number"),
    [
        (DIM, 7, 7),
        (math("add", DIM, 2), 9, 7),
        (math("add", 2, DIM), 9, 7),
        (math("sub", DIM, 2), 5, 7),
        (math("sub", 20, DIM), 13, 7),
        (math("neg", DIM), -7, 7),
        (math("mul", 2, DIM), 14, 7),
        (math("floordiv", DIM, 2), 3, 6),
        (math("floordiv", 21, DIM), 3, 7),
        (math("truediv", DIM, 2), 3.5, 7),
        (math("sub", math("mul", DIM, 3), LENGTH), 16, 7),
        (math("floor", math("truediv", DIM, 2)), 3, 6),
    ],
)
def test_one_attribute_is_found_by_going_backwards(
    expression: Expression, wanted: float, number: int
) -> None:
    assert solved((expression, wanted)) == {DIM: number}


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        (math("mul", 2, DIM), 7),
        (math("mul", 0, DIM), 7),
        (math("mod", DIM, 5), 3),
        (math("floordiv", 5, DIM), 9),
        (DIM, 3.5),
    ],
)
def test_what_no_search_finds_is_none(expression: Expression, wanted: float) -> None:
    assert solved((expression, wanted)) is None


def test_a_number_that_may_stay_stays() -> None:
    assert solved((math("floordiv", DIM, HEADS), 4)) == {DIM: 12, HEADS: 3}


def test_attributes_of_one_expression_are_found_together() -> None:
    found = solved((math("floordiv", DIM, HEADS), 4), (HEADS, 2), (DIM, 8))
    assert found == {DIM: 8, HEADS: 2}


def test_what_is_not_stated_follows_from_what_is() -> None:
    assert solved((math("mul", HEADS, WIDE), 8), (HEADS, 2)) == {HEADS: 2, WIDE: 4}
    assert solved((math("floordiv", DIM, HEADS), 3), fixed={HEADS: 3}) == {HEADS: 3, DIM: 9}


def test_equations_that_contradict_each_other_have_no_solution() -> None:
    assert solved((DIM, 7), (math("add", DIM, 1), 9)) is None
    assert solved((DIM, 7), fixed={DIM: 12}) is None


def test_comparisons_must_come_out_as_they_did() -> None:
    assert solved((DIM, 7), (math("gt", DIM, 5), True)) == {DIM: 7}
    assert solved((DIM, 7), (math("gt", DIM, 10), True)) is None


def test_division_by_a_number_that_became_0_is_no_solution() -> None:
    assert solved((math("mod", 12, HEADS), 0), (HEADS, 0)) is None


def test_related_equations_share_attributes_directly_or_through_others() -> None:
    one, two = Equation(math("mul", HEADS, WIDE), 8), Equation(math("mul", HEADS, DIM), 24)
    other = Equation(AttributeOf("b", "dim", 12), 3)
    assert related_equations([one, other, two], [DIM]) == (one, two)
    assert related_equations([one, other, one], [WIDE]) == (one,)


def test_components_share_no_attribute_and_miss_no_equation() -> None:
    one, other, linked = Equation(HEADS, 3), Equation(WIDE, 8), Equation(math("mul", HEADS, DIM), 12)
    assert list(components([one, other, linked])) == [(one, linked), (other,)]
