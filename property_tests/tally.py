"""What a search has tried: how many networks, in how many something shrank, and which operators they held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from speedup import Plan

PROPERTY = "networks"
"""Under this name a test's report carries what it tried, from one process to another."""

LEAST_OF_EACH = 20
LEAST_SHRUNK = 0.7


@attrs.define
class Tally:
    """Numbers of networks; in `held`, by operator, how many had it.

    `elsewhere` counts comparisons at sizes that no plan was made from, `found` the calls at other sizes that
    planning looked for and traced.
    """

    networks: int = 0
    shrunk: int = 0
    elsewhere: int = 0
    found: int = 0
    held: Counter[str] = attrs.field(factory=Counter)

    def add(self, plan: Plan, held: Iterable[str] = (), elsewhere: int = 0) -> None:
        """Count a network by its plan, which names the operators outside of rewritten modules, and `held`."""
        self.networks += 1
        self.elsewhere += elsewhere
        self.found += len(plan.subject.found)
        self.shrunk += plan.parameters_after < plan.parameters_before
        self.held.update({op.target for op in plan.expected.ops} | set(held))

    def update(self, other: Tally) -> None:
        """Count what `other` counted too."""
        self.networks += other.networks
        self.shrunk += other.shrunk
        self.elsewhere += other.elsewhere
        self.found += other.found
        self.held.update(other.held)

    @property
    def shrunk_share(self) -> float:
        return self.shrunk / max(1, self.networks)


def to_report(tally: Tally) -> dict[str, Any]:
    """`tally` as JSON has it."""
    return {
        "networks": tally.networks,
        "shrunk": tally.shrunk,
        "shrunk_share": round(tally.shrunk_share, 4),
        "elsewhere": tally.elsewhere,
        "found": tally.found,
        "operators": len(tally.held),
        "held": dict(sorted(tally.held.items())),
    }


def from_report(report: dict[str, Any]) -> Tally:
    """The inverse of `to_report`."""
    return Tally(
        report["networks"], report["shrunk"], report["elsewhere"], report["found"], Counter(report["held"])
    )


def headline(tally: Tally, operators: Iterable[str]) -> str:
    """What was tried, in a sentence; `operators` are those that could be held."""
    wanted = set(operators)
    sizes = f"at {tally.elsewhere} sizes not planned for ({tally.found} more found while planning), "
    return (
        f"{tally.networks} networks, {tally.shrunk_share:.1%} of which shrank, "
        f"{sizes if tally.elsewhere else ''}"
        f"with {len(wanted & tally.held.keys())} of {len(wanted)} operators that a network can hold"
    )


def shortcomings(tally: Tally, networks: int, operators: Iterable[str]) -> Iterator[str]:
    """What a full search still owes, in words."""
    if tally.networks < networks:
        yield f"{tally.networks} networks were tried, not {networks}"
    rare = {name: tally.held[name] for name in operators if tally.held[name] < LEAST_OF_EACH}
    if rare:
        named = ", ".join(f"{name} ({count})" for name, count in sorted(rare.items()))
        yield f"these operators were held by fewer than {LEAST_OF_EACH} networks: {named}"
    if tally.shrunk_share <= LEAST_SHRUNK:
        yield f"{tally.shrunk_share:.1%} of the networks shrank, not more than {LEAST_SHRUNK:.0%}"
