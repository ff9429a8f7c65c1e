"""Functions that would take a tracked number for an int are replaced, while a model is traced.

C code asks a tracked number nothing: `range(n)` counts, `math.sqrt(n)` computes and `items[n]` looks up. What
stands in the place of such functions tells of the numbers that they get.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from speedup.ir.expressions import MATH

_RANGE = range


class _RangeType(type):
    """Lets the function in the place of `range` pass for the class."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _RANGE)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _RANGE)


@contextmanager
def watched(
    is_tracked: Callable[[Any], bool],
    count: Callable[[tuple[Any, ...], str], None],
    compute: Callable[[str, tuple[Any, ...]], Any],
) -> Iterator[None]:
    """Replace the functions that would take tracked numbers out of sight, until the end.

    `count(arguments, how)` is told of numbers that go where they cannot be followed; `compute(name,
    arguments)` is asked for what a function of the math module gives.
    """

    def counted(*arguments: Any) -> range:
        if any(map(is_tracked, arguments)):
            count(arguments, "range()")
            arguments = tuple(operator_index(a) for a in arguments)
        return _RANGE(*arguments)

    class Range(metaclass=_RangeType):
        def __new__(cls, *arguments: Any) -> range:  # type: ignore[misc]
            return counted(*arguments)

    def followed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            return compute(name, arguments) if any(map(is_tracked, arguments)) else function(*arguments)

        return call

    operator_index = operator.index

    def index(number: Any) -> int:
        if is_tracked(number):
            count((number,), "an index")
        return int.__int__(number) if is_tracked(number) else operator_index(number)

    kept = {name: getattr(math, name) for name in MATH}
    builtins.range = Range  # type: ignore[misc]
    operator.index = index
    for name, function in kept.items():
        setattr(math, name, followed(name, function))
    try:
        yield
    finally:
        builtins.range = _RANGE  # type: ignore[misc]
        operator.index = operator_index
        for name, function in kept.items():
            setattr(math, name, function)
