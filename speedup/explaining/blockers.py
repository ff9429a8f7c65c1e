"""Which constraints hold back most work."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from attrs import field, frozen

from speedup.analyses.analysis import Analysis
from speedup.explaining.reasons import Withheld, constraint_of
from speedup.ir.report import Blocker
from speedup.rules.weights import MAKES, READS, UNITS


@frozen(eq=False)
class _Held:
    """What one constraint holds back: channels by layer, parameters by name and axis, and work."""

    channels: dict[str, int] = field(factory=dict)
    parameters: dict[tuple[str, str], float] = field(factory=dict)
    macs: list[float] = field(factory=list)


def blockers_of(analysis: Analysis, found: Iterable[Withheld]) -> tuple[Blocker, ...]:
    """Ranked by MACs, then by parameters; `Plan.blockers` says how they are counted."""
    held: dict[tuple[str, str, str], _Held] = {}
    for one in found:
        axis = one.axis
        if axis.name not in (MAKES, READS, UNITS) or not axis.weights:
            continue
        macs = analysis.macs(axis.op)
        work = macs * axis.share if analysis.graph.is_counted(axis.op) else 0.0
        for hold in one.holds:
            cause = constraint_of(hold.steps)
            own = held.setdefault((cause.words, cause.operator, cause.path), _Held())
            count = int(hold.indices.sum())
            share = count / analysis.kept.count(axis.dim)
            own.macs.append(work * share)
            for weight in axis.weights:
                key = (weight.name, axis.name)
                own.parameters[key] = max(own.parameters.get(key, 0.0), prod(analysis.sizes(weight)) * share)
            if axis.is_blockable:
                own.channels[axis.path] = max(own.channels.get(axis.path, 0), count)
    ranked = (
        Blocker(
            *cause,
            layers=tuple(one.channels),
            channels=sum(one.channels.values()),
            macs=round(sum(one.macs)),
            parameters=round(sum(one.parameters.values())),
        )
        for cause, one in held.items()
    )
    return tuple(sorted(ranked, key=lambda b: (-b.macs, -b.parameters)))
