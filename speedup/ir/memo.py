"""What follows from a value that never changes, computed once for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Remembering:
    """Has a `_memo`, a dictionary that is no part of its value."""

    __slots__ = ()

    _memo: dict[str, Any]

    def once(self, key: str, compute: Callable[[], T]) -> T:
        """What `compute` gives, computed once for this object; it depends on nothing else."""
        if key not in self._memo:
            self._memo[key] = compute()
        return cast(T, self._memo[key])
