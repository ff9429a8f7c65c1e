"""Functions that take a tracked number out of sight are replaced, while a model is traced.

`range(n)` counts, which says more than that C code asks for the number, and what `math.sqrt(n)` computes can
be followed. What stands in the place of such functions tells of the numbers that they get.
"""

from __future__ import annotations

import builtins
import math
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
    count: Callable[[tuple[Any, ...], str], tuple[Any, ...]],
    compute: Callable[[str, tuple[Any, ...]], Any],
) -> Iterator[None]:
    """Replace the functions that would take tracked numbers out of sight, until the end.

    `count(arguments, how)` is told of numbers that go where they cannot be followed, and gives the plain
    ones; `compute(name, arguments)` is asked for what a function of the math module gives.
    """

    def counted(*arguments: Any) -> range:
        if any(map(is_tracked, arguments)):
            arguments = count(arguments, "range()")
        return _RANGE(*arguments)

    class Range(metaclass=_RangeType):
        def __new__(cls, *arguments: Any) -> range:  # type: ignore[misc]
            return counted(*arguments)

    def followed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            return compute(name, arguments) if any(map(is_tracked, arguments)) else function(*arguments)

        return call

    kept = {name: getattr(math, name) for name in MATH}
    builtins.range = Range  # type: ignore[misc]
    for name, function in kept.items():
        setattr(math, name, followed(name, function))
    try:
        yield
    finally:
        builtins.range = _RANGE  # type: ignore[misc]
        for name, function in kept.items():
            setattr(math, name, function)
