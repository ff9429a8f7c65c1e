"""Goals for the small model: as few channels are masked as it takes to meet one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Mapping

from attrs import field, frozen
from torch import Tensor

from speedup.errors import GoalError, PruningError
from speedup.plan import Plan

RUNGS = 1000
"""Shares of channels are tried in thousandths: rung 0 masks nothing, the last one all that may go."""

# So many guesses are made from what was measured before; then the range is halved.
_GUESSES = 3


@frozen
class Goal:
    """The small model has `limit` of `what` at most: a share of the model's, or milliseconds of a forward.

    Within `near` below the limit it is met well enough.
    """

    what: str
    limit: float
    near: float

    @property
    def is_time(self) -> bool:
        return self.what == "latency_ms"

    def reached(self, plan: Plan, milliseconds: Callable[[Plan], float]) -> float:
        """What the small model of `plan` has, in the goal's unit."""
        match self.what:
            case "macs":
                return plan.macs_after / max(plan.macs_before, 1)
            case "parameters":
                return plan.parameters_after / max(plan.parameters_before, 1)
        return milliseconds(plan)

    def words(self, reached: float) -> str:
        """`reached` with its unit."""
        if self.is_time:
            return f"{reached:.3g} ms per forward"
        return f"{reached:.3g} of the {'MACs' if self.what == 'macs' else self.what}"


def goal_of(sparsity: object, limits: Mapping[str, float | None]) -> Goal | None:
    """The one goal that is given instead of a sparsity, if so.

    Raises:
        PruningError: it is out of range, or not one of all these is given.
    """
    given = {what: limit for what, limit in limits.items() if limit is not None}
    count = (sparsity is not None) + len(given)
    if count != 1:
        names = ", ".join(("sparsity", *limits))
        raise PruningError(f"give one of {names}; here {count or 'none'} of them are given.")
    for what, limit in given.items():
        if what == "latency_ms":
            if not 0 < limit < float("inf"):
                raise PruningError(f"latency_ms={limit} is no time; pass milliseconds above 0.")
            return Goal(what, limit, limit / 20)
        if not 0 < limit <= 1:
            raise PruningError(f"{what}={limit} is no share of the model's; pass a number above 0, up to 1.")
        return Goal(what, limit, 0.01)
    return None


@frozen(eq=False)
class Ladder:
    """Masks on rungs, each with those of the rung below and maybe more.

    Attributes:
        masks: of a rung.
        key: equal for rungs of equal masks.
        estimate: cheap, of what is left on a rung; it does not grow with the rungs. Where it is in a unit of
            its own, one measurement tells how it relates to the goal's.
        measure: what the small model with these masks has, in the goal's unit.
        is_share: whether `estimate` and `measure` are in one unit.
    """

    masks: Callable[[int], dict[str, Tensor]]
    key: Callable[[int], Hashable]
    estimate: Callable[[int], float]
    measure: Callable[[dict[str, Tensor]], float]
    is_share: bool
    _measured: dict[Hashable, float] = field(factory=dict, init=False)

    def reached(self, rung: int) -> float:
        """What the small model of a rung has; measured once for equal masks."""
        key = self.key(rung)
        if key not in self._measured:
            self._measured[key] = self.measure(self.masks(rung))
        return self._measured[key]

    def first_estimated(self, most: float, low: int, high: int) -> int:
        """The first rung from `low` on of which at most so much seems to be left; `high` if none below it."""
        return _first(lambda rung: self.estimate(rung) <= most, low, high)

    def alike(self, rung: int, low: int, high: int) -> tuple[int, int]:
        """The first and the last rung from `low` to `high` that have the masks of `rung`."""
        key = self.key(rung)
        above = _first(lambda other: self.key(other) != key, rung + 1, high + 1)
        return _first(lambda other: self.key(other) == key, low, rung), above - 1


def _first(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The first number from `low` on that `fits`, as all above it do; `high` if none below it does."""
    return low + bisect_left(range(low, high), True, key=fits)


def masks_that_meet(goal: Goal, ladder: Ladder) -> dict[str, Tensor]:
    """The masks of the first rung that meets the goal, or of one above it that is near enough.

    Few rungs are measured: each is where the estimate, in the proportion that it had to what was measured
    last, meets the goal.

    Raises:
        GoalError: the last rung does not meet it.
    """
    fails, meets = -1, RUNGS + 1
    factor = 1.0 if ladder.is_share else None
    guesses = 0
    while meets - fails > 1:
        low, high = fails + 1, min(meets - 1, RUNGS)
        if factor is None:
            rung = 0
        elif guesses < _GUESSES:
            guesses += 1
            rung = ladder.first_estimated(goal.limit * factor, low, high)
        else:
            rung = (low + high) // 2
        reached = ladder.reached(rung)
        factor = ladder.estimate(rung) / max(reached, 1e-12)
        first, last = ladder.alike(rung, low, high)
        if reached > goal.limit:
            fails = last
        else:
            meets = first
            if goal.limit - reached <= goal.near:
                break
    if fails == RUNGS:
        raise GoalError(
            f"{goal.what}={goal.limit:g} cannot be met: with all channels masked that may go, "
            f"{goal.words(ladder.reached(RUNGS))} are left. Ask for that much, or let more go: fewer paths "
            "in skip=, a smaller round_to, or another model."
        )
    return ladder.masks(meets)
