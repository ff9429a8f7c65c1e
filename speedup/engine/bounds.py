"""Between what numbers something lies, whatever the input is."""

from __future__ import annotations

import math
from collections.abc import Iterable

from attrs import frozen


@frozen
class Bounds:
    """From `low` to `high`, both included; NaN and infinities aside."""

    low: float = -math.inf
    high: float = math.inf

    @property
    def is_open(self) -> bool:
        """Whether they say nothing at all."""
        return self.low == -math.inf and self.high == math.inf

    @property
    def is_nonzero(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0

    def points(self, limit: float) -> tuple[float, ...]:
        """The ends, or `limit` where they are beyond it, and 0 from either side where it lies between.

        At these a function that is monotone on either side of 0 takes its least and its greatest value.
        """
        low, high = (min(max(end, -limit), limit) for end in (self.low, self.high))
        if low == high:
            return (low,)
        if low < 0 < high:
            return low, -0.0, 0.0, high
        return (low, -0.0) if high == 0 else (low, high)


OPEN = Bounds()


def around(some: Iterable[Bounds]) -> Bounds:
    """The closest bounds that hold for all of `some`, of which there is one at least."""
    found = tuple(some)
    return Bounds(min(one.low for one in found), max(one.high for one in found))


def spanned(numbers: Iterable[float]) -> Bounds:
    """The bounds of some numbers; open where there are none, or one is NaN."""
    found = tuple(numbers)
    if not found or any(math.isnan(number) for number in found):
        return OPEN
    return Bounds(min(found), max(found))
