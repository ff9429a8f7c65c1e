"""What is picked from and placed at positions that are data."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import CUSTOM_RULES, POSITIONS, dead, known, sliced, unchanging, unread

FAULTS = (
    Fault(
        "positions: what is scattered onto a constant is that constant",
        "rules.scatter",
        "broadcast(known & other.known & (value == other.value.to(value.dtype)), value)",
        "broadcast(known & other.known, value)",
        (*unchanging("scatter", "index_copy"), known(POSITIONS)),
    ),
    Fault(
        "positions: a constant that is added to itself stays what it was",
        "rules.scatter",
        '"reduce" in op.arguments or "add" in op.name',
        '"reduce" in op.arguments',
        (*unchanging("scatter_add", "index_add"), f"{known(POSITIONS)}[scatter_add_of_levels]"),
    ),
    Fault(
        "positions: what is placed is read only where it is not a constant",
        "rules.scatter",
        "(reads if n in data else chosen) if v in ranked",
        "chosen if v in ranked",
        (*unread("gather", "scatter"), dead(POSITIONS)),
    ),
    Fault(
        "positions: positions that something is put to may go",
        "rules.scatter",
        "        yield from pinned(value, placing.taken, reason)",
        "        yield from ()",
        sliced("index_put"),
    ),
    Fault(
        "positions: what is put is not tied to what it is put into",
        "rules.scatter",
        "            members.append((values, own[dim]))",
        "            members.extend(())",
        sliced("index_put"),
    ),
    Fault(
        "positions: the classes that one_hot marks may go",
        "rules.scatter",
        "    yield from pinned(result, [data.ndim], reason)",
        "    yield from ()",
        sliced("one_hot"),
    ),
    Fault(
        "positions: the places of a region's maxima keep all channels",
        "rules.sampling",
        "others={1: 1}, ",
        "",
        (f"{CUSTOM_RULES}::test_the_rule_of_roi_pool_couples_both_results",),
    ),
)
