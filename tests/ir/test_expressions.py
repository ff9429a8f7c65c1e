"""Expressions over sizes and attributes: what they evaluate to and what they read."""

from __future__ import annotations

import math

import pytest

from speedup.ir.expressions import (
    FUNCTIONS,
    UNSEEN,
    Arithmetic,
    AttributeOf,
    Derived,
    Root,
    SizeOf,
    attributes_in,
    derived_in,
    evaluate_expression,
    recompute,
    roots_in,
    sizes_in,
    with_traced_numbers,
)

HALF = Arithmetic("floordiv", (SizeOf(0, 1), 2))
HEADS = AttributeOf("attention", "heads", 4)


def extent(root: Root) -> int:
    """A smaller graph: value 0 has shape (3, 10), and there are 2 heads."""
    return {SizeOf(0, 0): 3, SizeOf(0, 1): 10, HEADS: 2}[root]


def test_evaluate_expression_computes_what_the_python_code_would() -> None:
    tree = Arithmetic("add", (Arithmetic("mul", (SizeOf(0, 0), HALF)), 1))
    assert evaluate_expression(tree, extent) == 3 * (10 // 2) + 1
    assert evaluate_expression(7, extent) == 7
    assert evaluate_expression(SizeOf(0, 1), extent) == 10


MATH_CALLS: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("log", "log2", "log10", "log1p", "sqrt", "isqrt", "cbrt", "exp", "exp2", "expm1"), (7,)),
    **dict.fromkeys(("sin", "cos", "tan", "tanh", "factorial", "fabs"), (7,)),
    **dict.fromkeys(
        ("atan2", "hypot", "gcd", "lcm", "fmod", "copysign", "remainder", "comb", "perm"), (7, 4)
    ),
}


@pytest.mark.parametrize(
    ("name", "operands", "expected"),
    [
        ("add", (7, 2), 9),
        ("sub", (7, 2), 5),
        ("mul", (7, 2), 14),
        ("floordiv", (7, 2), 3),
        ("truediv", (7, 2), 3.5),
        ("mod", (7, 4), 3),
        ("pow", (7, 2), 49),
        ("neg", (7,), -7),
        ("abs", (-7,), 7),
        ("floor", (-3.5,), -4),
        ("ceil", (-3.5,), -3),
        ("eq", (7, 7), True),
        ("ne", (7, 7), False),
        ("lt", (2, 7), True),
        ("le", (7, 7), True),
        ("gt", (2, 7), False),
        ("ge", (7, 7), True),
        ("trunc", (-3.5,), -3),
        ("round", (2.5,), 2),
        *((name, operands, getattr(math, name)(*operands)) for name, operands in MATH_CALLS.items()),
    ],
)
def test_every_function_of_an_expression_is_pythons_own(
    name: str, operands: tuple[int, ...], expected: float
) -> None:
    assert evaluate_expression(Arithmetic(name, operands), extent) == expected


def test_there_are_no_functions_that_no_test_holds_against_python() -> None:
    assert set(FUNCTIONS) == set(
        "add sub mul floordiv truediv mod pow neg abs floor ceil eq ne lt le gt ge trunc round".split()
    ) | set(MATH_CALLS) | {UNSEEN}


def test_of_what_no_trace_shows_the_number_stays_as_it_was() -> None:
    unseen = Arithmetic(UNSEEN, (5, SizeOf(0, 0)))
    assert evaluate_expression(unseen, lambda size: 1) == evaluate_expression(unseen, lambda size: 7) == 5


def test_sizes_in_yields_every_size_in_order_with_repetitions() -> None:
    tree = Arithmetic("add", (Arithmetic("mul", (SizeOf(0, 0), HALF)), SizeOf(0, 0)))
    assert list(sizes_in(tree)) == [SizeOf(0, 0), SizeOf(0, 1), SizeOf(0, 0)]
    assert list(sizes_in(3.5)) == []


def test_concrete_replaces_derived_numbers_by_those_of_the_trace() -> None:
    argument = (Derived(8, HALF), -1, (Derived(3, SizeOf(0, 0)), None), True)
    assert with_traced_numbers(argument) == (8, -1, (3, None), True)


def test_carried_replaces_derived_numbers_by_those_of_the_new_sizes() -> None:
    argument = (Derived(8, HALF), -1, (Derived(3, SizeOf(0, 0)), None), True)
    assert recompute(argument, extent) == (5, -1, (3, None), True)


def test_attributes_are_looked_up_like_sizes() -> None:
    assert evaluate_expression(Arithmetic("floordiv", (SizeOf(0, 1), HEADS)), extent) == 5


def test_roots_are_sizes_and_attributes() -> None:
    tree = Arithmetic("add", (Arithmetic("mul", (HEADS, HALF)), 1))
    assert list(roots_in(tree)) == [HEADS, SizeOf(0, 1)]
    assert list(attributes_in(tree)) == [HEADS]
    assert list(sizes_in(tree)) == [SizeOf(0, 1)]


def test_derived_in_finds_nested_ones_in_order() -> None:
    first, second = Derived(8, HALF), Derived(3, SizeOf(0, 0))
    assert list(derived_in((first, None, (7, (second,), 4)))) == [first, second]
