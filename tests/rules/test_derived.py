"""The bounds of numbers that are derived from sizes hold at all sizes."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest

from speedup.engine.bounds import OPEN, Bounds
from speedup.ir.expressions import Arithmetic, AttributeOf, Expression, SizeOf, evaluate_expression
from speedup.rules.derived import MOST_ELEMENTS, bounds_of

HEIGHT, WIDTH, CHANNELS = SizeOf(0, 2), SizeOf(0, 3), SizeOf(0, 1)


def _of(function: str, *operands: Expression) -> Arithmetic:
    return Arithmetic(function, operands)


EXPRESSIONS: dict[str, Expression] = {
    "area": _of("mul", HEIGHT, WIDTH),
    "half": _of("floordiv", HEIGHT, 2),
    "less one": _of("sub", HEIGHT, 1),
    "difference": _of("sub", HEIGHT, WIDTH),
    "ratio": _of("truediv", HEIGHT, WIDTH),
    "inverse": _of("truediv", 1, HEIGHT),
    "root": _of("sqrt", _of("mul", HEIGHT, CHANNELS)),
    "rest": _of("mod", HEIGHT, 5),
    "distance": _of("abs", _of("sub", HEIGHT, 4)),
    "square of a difference": _of("pow", _of("sub", HEIGHT, 4), 2),
    "negated": _of("neg", _of("log", WIDTH)),
    "rounded": _of("round", _of("mul", WIDTH, 0.3)),
    "attribute": _of("mul", AttributeOf("", "scale", 3), WIDTH),
    "compared": _of("lt", HEIGHT, WIDTH),
    "product of differences": _of("mul", _of("sub", HEIGHT, 3), _of("sub", 5, WIDTH)),
}


class _Graph:
    """One value of (batch, 6, height, width)."""

    values = (SimpleNamespace(shape=(2, 6, 7, 9)),)


class _Extents:
    graph = _Graph()

    def varies(self, value: Any, dim: int) -> bool:
        return dim != 1


def _bounds(expression: Expression) -> Bounds:
    return bounds_of(expression, _Extents())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_size_gives_a_number_within_bounds(name: str) -> None:
    found = _bounds(EXPRESSIONS[name])
    for height, width in itertools.product((1, 2, 3, 4, 5, 9, 100, 4096), repeat=2):
        sizes = {2: height, 3: width, 1: 6}
        number = evaluate_expression(
            EXPRESSIONS[name],
            lambda root, sizes=sizes: sizes[root.dim] if isinstance(root, SizeOf) else root.number,  # type: ignore[misc]
        )
        assert found.low <= number <= found.high


def test_bounds_are_as_close_as_can_be_where_one_end_is_reached() -> None:
    assert _bounds(EXPRESSIONS["area"]).low == 1
    assert _bounds(EXPRESSIONS["half"]).low == 0
    assert _bounds(EXPRESSIONS["root"]) == Bounds(math.sqrt(6), math.sqrt(6 * MOST_ELEMENTS))
    assert _bounds(CHANNELS) == Bounds(6, 6)
    assert _bounds(EXPRESSIONS["square of a difference"]).low == 0


@pytest.mark.parametrize(
    "expression",
    [
        _of("truediv", 1, _of("sub", HEIGHT, 3)),
        _of("sqrt", _of("sub", HEIGHT, 3)),
        _of("pow", 2, HEIGHT),
        _of("gcd", HEIGHT, WIDTH),
        _of("exp", HEIGHT),
    ],
    ids=str,
)
def test_nothing_is_said_of_what_some_size_does_not_take_or_nobody_wrote(expression: Expression) -> None:
    assert _bounds(expression) == OPEN
