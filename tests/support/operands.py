"""Operands of example calls: what their tensors look like, and some that many calls share."""

from __future__ import annotations

from typing import Any

from tests.support.samplers import mixed
from tests.support.soundness import Tensors, below, rows

Call = dict[str, Any]
Calls = tuple[Call, ...]


def x(*shape: int) -> Tensors:
    """An activation."""
    return Tensors(shape, mixed)


def w(*shape: int) -> Tensors:
    """A weight, with rows and columns that are 0."""
    return Tensors(shape, rows, state=True)


def at(limit: int, *shape: int) -> Tensors:
    """Positions below `limit`."""
    return Tensors(shape, below(limit))


DATA, IMAGE, VOLUME = x(2, 3, 4), x(2, 4, 6, 4), x(2, 3, 4, 4, 4)
BOUNDS = x(3, 1)
