"""Sequences of which some numbers are stated anew, and the rest is spread."""

from __future__ import annotations

import ast

import pytest

from speedup.lowerings.spreading import are_spread, is_steady, with_numbers


def parsed(text: str) -> ast.expr:
    return ast.parse(f"f({text})", mode="eval").body.args[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("numbers", "count", "text"),
    [
        ({0: 7}, 3, "7, *size[1:]"),
        ({1: 7}, 3, "*size[:1], 7, *size[2:]"),
        ({2: 7}, 3, "*size[:2], 7"),
        ({0: 7, 2: 8}, 3, "7, *size[1:2], 8"),
        ({0: 7, 1: 8}, 2, "7, 8"),
        ({1: -1, 3: 5}, 6, "*size[:1], -1, *size[2:3], 5, *size[4:]"),
    ],
)
def test_numbers_stand_in_their_places(numbers: dict[int, int], count: int, text: str) -> None:
    assert with_numbers(parsed("size"), numbers, count) == text
    size = tuple(range(count))
    written = eval(f"({text},)", {"size": size})
    assert written == tuple(numbers.get(n, n) for n in range(count))
    assert are_spread(parsed("size"), ast.parse(f"f({text})", mode="eval").body.args)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text", ["size", "x.shape", "x.size()", "x.size()[2:]", "self.heads[0]", "a.b.c[:-1]"]
)
def test_names_sizes_and_parts_of_them_may_be_evaluated_twice(text: str) -> None:
    assert is_steady(parsed(text))


@pytest.mark.parametrize("text", ["f()", "x.size(0)", "x.pop()", "size[f():]", "a + b", "[1, 2]", "size[n]"])
def test_what_may_do_something_is_evaluated_once(text: str) -> None:
    assert not is_steady(parsed(text))


@pytest.mark.parametrize(
    "text", ["*other[:1], 7", "*size", "*size[f():]", "f()", "*size[:1], 'a'", "*f(size)[:1]"]
)
def test_nothing_else_is_taken_for_it(text: str) -> None:
    assert not are_spread(parsed("size"), ast.parse(f"f({text})", mode="eval").body.args)  # type: ignore[attr-defined]
