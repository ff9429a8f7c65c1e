"""Functions that the models of `tests/forwards/test_rewriting.py` import by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor


def as_rows(x: Tensor) -> Tensor:
    """Rows of twelve."""
    return x.view(-1, 12)


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that says what it wraps."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def hiding(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that does not."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper
