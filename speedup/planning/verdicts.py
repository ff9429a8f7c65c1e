"""What a lowering would bring at one place, and whether that is worth it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

from attrs import frozen

from speedup.analyses.analysis import Analysis
from speedup.analyses.border_maps import BorderMap
from speedup.analyses.chains import Chain
from speedup.analyses.fills import Fill
from speedup.analyses.gates import Gate
from speedup.analyses.partial_sums import PartialSum
from speedup.analyses.spare_rows import last_product
from speedup.engine.constraints import Dim
from speedup.engine.keepsets import solve_keep_sets
from speedup.ir.graph import Op, Value
from speedup.planning.costs import (
    ADDED,
    CALLS_OF_GATE,
    CALLS_OF_MAP,
    FILLED,
    LEAST_SAVED,
    MOST_ROWS,
    batch_of,
)
from speedup.rules import rule_of


@frozen
class Verdict:
    """What taking a lowering brings at one place: channels that go, and multiply-accumulates for the example.

    `why_not` is empty where that is worth it.
    """

    channels: int
    macs: int
    why_not: str = ""


def judge_rows(one: PartialSum | Fill, analysis: Analysis) -> Verdict | None:
    """Whether rows that are left out are worth it by what computes them."""
    if one.source is None or not one.is_partial(analysis):
        return None
    rows, whole = analysis.kept.count(one.part), analysis.kept.count(one.whole)
    batch = batch_of(analysis)
    saved = analysis.macs(one.source) * (whole - rows) / rows / batch
    putting = _putting(one, analysis) if isinstance(one, Fill) else 0
    if rows > MOST_ROWS * whole:
        why_not = f"{whole - rows} of {whole} channels are too few to be worth it"
    elif saved <= LEAST_SAVED:
        why_not = "that saves less than another call costs"
    elif saved <= putting / batch:
        why_not = "that saves less than putting the others in their places costs"
    else:
        why_not = ""
    return Verdict(whole - rows, int(saved * batch), why_not)


def judge_gate(one: Gate, analysis: Analysis) -> Verdict | None:
    """Whether channels that a gate leaves out are worth it by what computes and reads them."""
    channels = int(one.gone(analysis).sum())
    if not channels:
        return None
    saved = int(sum(_macs_of_channel(one.rows, one.readers, one.part, analysis)) * channels)
    if one.mixing(analysis) is None:
        return Verdict(channels, saved, "weights of the channels that stay cannot express those that go")
    lowering = analysis.restated.get(one.op.index)
    cost = CALLS_OF_GATE * batch_of(analysis)
    cost += 0 if lowering is None else lowering.macs(one.op, analysis.sizes)
    why_not = "" if saved > cost else "that saves less than putting together what they add costs"
    return Verdict(channels, max(saved - cost, 0), why_not)


def judge_map(one: BorderMap, analysis: Analysis) -> Verdict | None:
    """Whether the channels that would have to carry others without it are worth a map."""
    carriers = one.carriers(analysis)
    if not carriers:
        return None
    saved = int(sum(_macs_of_channel(one.rows, (one.op,), one.part, analysis)) * carriers)
    cost = CALLS_OF_MAP * batch_of(analysis) + ADDED * prod(analysis.sizes(one.op.result))
    why_not = "" if saved > cost else "that saves less than adding a map costs"
    return Verdict(carriers, max(saved - cost, 0), why_not)


def _macs_of_channel(
    rows: Value | None, readers: Iterable[Op], part: Dim, analysis: Analysis
) -> Iterator[float]:
    """What one channel of `rows` costs in the layers that read it, and in those that compute it; `part` is a
    dimension of which there is one index for each.
    """
    kept = analysis.kept.count(part)
    for reader in readers:
        yield analysis.macs(reader) / kept
    while rows is not None and (source := last_product(rows, analysis.graph, analysis.rules)) is not None:
        yield analysis.macs(source) / kept
        product = rule_of(source, analysis.rules).weight.product(analysis.sites[source.index])
        # What computes each channel of one of its own leads on to what computes that.
        rows = product.data if product is not None and product.is_depthwise else None


def judge_order(chain: Chain, analysis: Analysis) -> Verdict | None:
    """Whether the ops of the chain, as they are, keep more of what goes in and comes out."""
    kept = analysis.kept
    ends = {(v.index, d): kept[(v.index, d)] for v in (chain.source, chain.result) for d in range(v.ndim)}
    values = (chain.source, *chain.inner, chain.result)
    extents = {(v.index, d): n for v in values for d, n in enumerate(v.shape)}
    own = (analysis.sites[op.index] for op in chain.ops)
    constraints = [c for site in own for c in rule_of(site.op, analysis.rules).couple(site)]
    found = solve_keep_sets(extents, dict(ends), constraints)
    more = {dim: int((found[dim] & ~before).sum()) for dim, before in ends.items()}
    return Verdict(max(more.values()), 0) if any(more.values()) else None


def _putting(fill: Fill, analysis: Analysis) -> int:
    """What it costs to put all rows in their places, in multiply-accumulates."""
    sizes = analysis.sizes(fill.copy.result)
    return prod(sizes) * (2 * FILLED if fill.dim == len(sizes) - 1 else FILLED)
