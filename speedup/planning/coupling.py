"""The keep-sets of a plan: the problem as it stands, with the lowerings that pay, then aligned.

Alignment comes last: the sets that have settled without it grow until both they and the forward
agree, so that aligned sets always contain those that are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from attrs import evolve, frozen
from torch import Tensor

from speedup.analyses.alignment import Align
from speedup.analyses.analysis import Analysis
from speedup.analyses.border_maps import BorderMap, find_border_maps
from speedup.analyses.chains import Chain
from speedup.analyses.constants import settle_numbers
from speedup.analyses.fills import Fill, find_gaps
from speedup.analyses.gates import Gate, find_gates
from speedup.analyses.partial_sums import PartialSum
from speedup.engine.borders import Bordered
from speedup.engine.lattice import Fact
from speedup.forwards.fitting import Feasibility
from speedup.forwards.rewriting import SourceRewriter
from speedup.ir.graph import Frame, Graph
from speedup.ir.report import Choice
from speedup.planning.choosing import FILLS, GATES, MAPS, ROWS, SHUFFLES
from speedup.planning.costs import CALL, batch_of, macs_per_sample
from speedup.planning.problem import Problem, extents_of, settle, sites_of, with_copies
from speedup.planning.verdicts import Verdict, judge_gate, judge_map, judge_order, judge_rows
from speedup.rules import Rules

Option = TypeVar("Option", Chain, PartialSum, Fill, Gate, BorderMap)


def solve_coupling(
    graph: Graph,
    facts: tuple[Fact, ...],
    lives: tuple[Tensor, ...],
    rules: Rules,
    rewriter: SourceRewriter,
    keep: Iterable[str] = (),
    align: Align | None = None,
    borders: Mapping[int, Bordered] = MappingProxyType({}),
    chains: Sequence[Chain] = (),
    partial_sums: Sequence[PartialSum] = (),
    may_fill: bool = False,
    may_gate: bool = False,
    may_map: bool = False,
) -> Analysis:
    """The least keep-sets that the model's own forward can carry.

    `borders` are constants that differ near the ends of their axes, by value index; `rewriter` knows what the
    source can be made to say; `keep` names modules that must not change; `align` says which widths the sets
    grow to; `chains` may be taken for permutations where that pays, and of `partial_sums` an operand may have
    only some of the rows; `may_fill` says whether an op may be given constants that are not computed,
    `may_gate` whether channels may go that only a gate tells from constants, and `may_map` whether a map may
    stand in the place of channels that carry constants near borders.

    Raises:
        FixpointError: the iteration does not settle (a rule is at fault).
        InputError: `align` is none, or returns something other than an integer.
    """
    graph = settle_numbers(graph, facts)
    sites = sites_of(graph, facts, lives, rules, borders)
    problem = Problem(graph, facts, sites, rules, extents_of(graph), tuple(keep), lives, borders)
    best = Lowered(problem, settle(problem, problem.constraints(), rewriter, frozenset()))
    # A call may insist on the sizes of what it is made of.
    chains = tuple(chain for chain in chains if not any(op.is_rigid for op in chain.ops))
    partial_sums = tuple(partial_sums)
    if may_gate:
        gates = find_gates(best.analysis)
        best = best.by(GATES, gates, lambda one, some: evolve(one, gates=some), judge_gate, rewriter)
    if may_map:
        maps = find_border_maps(best.analysis)
        best = best.by(MAPS, maps, lambda one, some: one.with_maps(some), judge_map, rewriter)
    if may_fill:
        apart = {op.index for chain in chains for op in chain.ops}
        apart |= {one.op.index for one in partial_sums}
        apart |= {op.index for one in best.problem.gates for op in one.ops}
        apart |= {one.op.index for one in best.problem.maps}
        if gaps := find_gaps(best.analysis, apart):
            gapped, fills, inserted = with_copies(best.problem, gaps)
            best = best.by(FILLS, fills, lambda _, some: evolve(gapped, fills=some), judge_rows, rewriter)
            if best.problem.fills:
                chains = tuple(one.moved(inserted.op) for one in chains)
                partial_sums = tuple(one.moved(inserted.op) for one in partial_sums)
    best = best.by(SHUFFLES, chains, lambda one, some: evolve(one, chains=some), judge_order, rewriter)
    best = best.by(ROWS, partial_sums, lambda one, some: evolve(one, partial_sums=some), judge_rows, rewriter)
    plain = evolve(best.analysis, choices=best.choices)
    if align is None:
        return plain
    wider = settle(best.problem, plain.constraints, rewriter, best.feasibility.granted, align)
    return evolve(wider.analysis, unaligned=plain)


@frozen(eq=False)
class Lowered:
    """A problem with the lowerings that were found to pay, what comes of it, and what was decided."""

    problem: Problem
    feasibility: Feasibility
    choices: tuple[Choice, ...] = ()

    @property
    def analysis(self) -> Analysis:
        return self.feasibility.analysis

    def by(
        self,
        name: str,
        options: tuple[Option, ...],
        taking: Callable[[Problem, tuple[Option, ...]], Problem],
        judge: Callable[[Option, Analysis], Verdict | None],
        rewriter: SourceRewriter,
    ) -> Lowered:
        """With those of `options` that the source can state and that are worth it each, if less is kept then
        by more than the calls cost; else without.

        `judge` says what one brings where all go that are left; None where nothing would go.
        """
        rejected: list[Choice] = []
        while options:
            tried = taking(self.problem, options)
            found = settle(tried, tried.constraints(), rewriter, frozenset())
            verdicts = _verdicts(options, judge, found.analysis)
            worth = {place for place, verdict in verdicts.items() if not verdict.why_not}
            left = tuple(o for o in options if o not in found.refused and o.place in worth)
            if left == options:
                before, after = macs_per_sample(self.analysis), macs_per_sample(found.analysis)
                if before - after > len(options) * CALL:
                    # Where one place does not tell by itself what it saves, all have equal shares.
                    share = int((before - after) * batch_of(found.analysis) / len(verdicts))
                    shared = {p: v if v.macs else evolve(v, macs=share) for p, v in verdicts.items()}
                    taken: tuple[Choice, ...] = tuple(_choices(name, options, shared))
                    return Lowered(tried, found, (*self.choices, *dict.fromkeys(rejected), *taken))
                rejected.extend(
                    _choices(name, options, verdicts, "together they save less than the calls cost")
                )
                break
            refused = [o for o in options if o in found.refused]
            others = [o for o in options if o not in left and o not in refused]
            rejected.extend(_choices(name, refused, verdicts, "the source cannot be made to say it"))
            rejected.extend(_choices(name, others, verdicts))
            options = left
        return evolve(self, choices=(*self.choices, *dict.fromkeys(rejected)))


def _verdicts(
    options: Sequence[Option], judge: Callable[[Option, Analysis], Verdict | None], analysis: Analysis
) -> Mapping[tuple[str, Frame, str], Verdict]:
    """By place, the verdict on it in a call that counts, or in another where no such call runs it."""
    is_counted = analysis.graph.is_counted
    counted = {o.place for o in options if is_counted(o.restated)}
    telling = (o for o in options if is_counted(o.restated) or o.place not in counted)
    found: dict[tuple[str, Frame, str], Verdict] = {}
    for option in telling:
        verdict = judge(option, analysis)
        if verdict is not None and (option.place not in found or not verdict.why_not):
            found[option.place] = verdict
    return found


def _choices(
    name: str,
    options: Iterable[Option],
    verdicts: Mapping[tuple[str, Frame, str], Verdict],
    why_not: str = "",
) -> Iterator[Choice]:
    """What is to be told about each place of `options` where something would go."""
    for one in {o.place: o for o in options if o.place in verdicts}.values():
        verdict, op = verdicts[one.place], one.restated
        reason = verdict.why_not or why_not
        yield Choice(name, op.owner.path, str(op.target), op.where, verdict.channels, verdict.macs, reason)
