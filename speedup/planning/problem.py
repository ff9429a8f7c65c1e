"""From facts, liveness and constraints to keep-sets that the model's own forward can carry.

The least fixpoint says which slices could go. The model's Python code then has to run on the
smaller tensors; `fitting` says what that takes. Where an op cannot be made to come out as the
fixpoint needs it, its dimensions are constrained further and the fixpoint is taken again;
constraints only grow in number, so this ends.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from attrs import evolve, frozen
from torch import Tensor

from speedup.analyses.alignment import Align, align_keep_sets, kernel_dims
from speedup.analyses.analysis import Analysis
from speedup.analyses.border_maps import BorderMap
from speedup.analyses.chains import Chain
from speedup.analyses.fills import Fill, Gap
from speedup.analyses.gates import Gate
from speedup.analyses.loosening import couple_loosely
from speedup.analyses.partial_sums import PartialSum
from speedup.analyses.told_by_size import kept_as_told_by_size
from speedup.engine.borders import Bordered
from speedup.engine.constraints import Carrier, Constraint, Copied, Dim, Pinned, Reason, Spanned
from speedup.engine.keepsets import solve_keep_sets
from speedup.engine.lattice import Fact, any_along
from speedup.errors import FixpointError
from speedup.forwards.fitting import Feasibility, make_feasible, pinned_whole
from speedup.forwards.rewriting import SourceRewriter
from speedup.ir.expressions import SizeOf
from speedup.ir.graph import Graph, Origin, Shape, Value
from speedup.ir.inserting import Inserted, insert_copies
from speedup.rules import Rules, rule_of
from speedup.rules.extents import Extents
from speedup.rules.site import Site


@frozen(eq=False)
class Problem:
    """What the keep-sets are found from; `chains` are taken for the permutations that they are,
    `partial_sums` for sums that one operand has only some of the rows of, `fills` for copies that put
    constants in, `gates` for products that lack channels which only a factor tells from constants, and `maps`
    for convolutions to whose results what such channels would add is added.
    """

    graph: Graph
    facts: tuple[Fact, ...]
    sites: tuple[Site, ...]
    rules: Rules
    extents: Mapping[Dim, int]
    keep: tuple[str, ...]
    lives: tuple[Tensor, ...]
    borders: Mapping[int, Bordered]
    chains: tuple[Chain, ...] = ()
    partial_sums: tuple[PartialSum, ...] = ()
    fills: tuple[Fill, ...] = ()
    gates: tuple[Gate, ...] = ()
    maps: tuple[BorderMap, ...] = ()

    def with_maps(self, maps: tuple[BorderMap, ...]) -> Problem:
        """The same with these maps."""
        mapped = {one.op.index for one in maps}
        sites = sites_of(self.graph, self.facts, self.lives, self.rules, self.borders, mapped)
        return evolve(self, maps=maps, sites=sites)

    def constraints(self) -> list[Constraint]:
        """What the ops demand, and the modules that are to be kept."""
        # A choice that names an index comes before those that only count, which that index may satisfy; one
        # of few before one of many, which may fall on the same.
        instead: tuple[PartialSum | Fill | Gate, ...] = (*self.partial_sums, *self.fills, *self.gates)
        found = constraints_of(self.graph, self.sites, self.rules, self.chains, instead)
        ordered = sorted(found, key=_candidates)
        return [*ordered, *_kept_modules(self.graph, self.keep)]

    def seeds(self, constraints: Iterable[Constraint]) -> dict[Dim, Tensor | None]:
        """What is needed for its own sake."""
        found = _seeds(self.graph, self.sites)
        for dim in _copies(self.graph, constraints, self.rules):
            found.pop(dim, None)
        for gate in self.gates:
            if gate.part in found:
                needed = found[gate.part]
                found[gate.part] = ~gate.spare if needed is None else needed & ~gate.spare
        return found


def _candidates(constraint: Constraint) -> float:
    """Of how many indices one is chosen by name; infinite where none is."""
    match constraint:
        case Carrier():
            return 0
        case Spanned():
            return int(constraint.candidates.sum())
    return math.inf


def settle(
    problem: Problem,
    given: Iterable[Constraint],
    rewriter: SourceRewriter,
    granted: frozenset[int],
    align: Align | None = None,
) -> Feasibility:
    """The keep-sets under the constraints `given` and those that the forward adds, with nothing missing."""
    constraints = list(given)
    seeds = problem.seeds(constraints)
    for _ in range(2 * len(problem.graph.ops) + 2):
        found = _solve(problem, seeds, constraints, align)
        feasibility = make_feasible(
            found,
            rewriter,
            granted,
            problem.chains,
            problem.partial_sums,
            problem.fills,
            problem.gates,
            problem.maps,
        )
        if not feasibility.missing:
            return feasibility
        constraints += feasibility.missing
        granted = feasibility.granted
    raise FixpointError("the sizes that the forward computes do not settle; a rule is at fault")


def _solve(
    problem: Problem,
    seeds: Mapping[Dim, Tensor | None],
    constraints: Sequence[Constraint],
    align: Align | None,
) -> Analysis:
    sites, rules = problem.sites, problem.rules
    kept = solve_keep_sets(problem.extents, seeds, constraints)
    alignments: tuple[Constraint, ...] = ()
    if align is not None:
        kept, alignments = align_keep_sets(kept, constraints, kernel_dims(sites, rules), align)
    resized: dict[int, Shape] = {}
    for site in sites:
        resized.update(rule_of(site.op, rules).resize(site, kept))
    held = (*constraints, *alignments)
    return Analysis(problem.graph, problem.facts, sites, rules, kept, seeds, held, resized)


def extents_of(graph: Graph) -> dict[Dim, int]:
    """The size of every dimension of every value."""
    return {(v.index, d): n for v in graph.values for d, n in enumerate(v.shape)}


def sites_of(
    graph: Graph,
    facts: tuple[Fact, ...],
    lives: tuple[Tensor, ...],
    rules: Rules,
    borders: Mapping[int, Bordered] = MappingProxyType({}),
    mapped: Collection[int] = (),
) -> tuple[Site, ...]:
    """Each op as its rule gets to see it; to the results of those number `mapped` maps are added."""
    layers = ((op, rule_of(op, rules).weight) for op in graph.ops)
    return tuple(
        Site(
            graph, op, facts, lives, layer.settable_of(op), layer.takes_bias(op), borders, op.index in mapped
        )
        for op, layer in layers
    )


def boundary(graph: Graph) -> frozenset[int]:
    """Values that stay whole: what the model takes and returns, and state that is not ours to cut."""
    whole = {v.index for v in (*graph.inputs, *graph.outputs)}
    # What nobody reads in eval mode may be for training.
    whole |= {v.index for v in graph.state if v.origin is Origin.CONSTANT or not graph.readers[v.index]}
    return frozenset(whole)


def _seeds(graph: Graph, sites: Sequence[Site]) -> dict[Dim, Tensor | None]:
    """Per dimension, the indices that the model's boundary or a live Unknown element needs."""
    seeds: dict[Dim, Tensor | None] = {}
    whole = boundary(graph)
    # Elsewhere what is read beside a weight needs its columns; state that lacks data has to do so here.
    alone = {v.index for op in graph.ops if all(v.is_state for v in op.operands) for v in op.operands}
    for value in graph.values:
        if value.index in whole:
            seeds.update({(value.index, d): None for d in range(value.ndim)})
        elif not value.is_state or value.index in alone:
            # A graph without ops returns what it is given.
            seeds.update(_needed(value, sites[0]))
    return seeds


def _needed(value: Value, site: Site) -> Iterable[tuple[Dim, Tensor | None]]:
    needed = site.live(value) & ~site.known(value)
    if needed.numel() == 1:
        return [((value.index, d), None) for d in range(value.ndim)] if bool(needed) else []
    if not bool(needed.any()):
        return []
    return [
        ((value.index, d), None if needed.shape[d] == 1 else any_along(needed, d, value.shape[d]))
        for d in range(value.ndim)
    ]


def _copies(graph: Graph, constraints: Iterable[Constraint], rules: Rules) -> Iterable[Dim]:
    """Dimensions along which there are only copies that one view lists: how many there are counts."""
    for constraint in constraints:
        if isinstance(constraint, Copied):
            value, dim = constraint.copies
            producer = graph.producer[value]
            while producer is not None and len(graph.readers[value]) == 1:
                yield value, dim
                op = graph.ops[producer]
                if rule_of(op, rules).arrangement == "copies":
                    break
                value = op.operands[0].index
                producer = graph.producer[value]


def constraints_of(
    graph: Graph,
    sites: Sequence[Site],
    rules: Rules,
    chains: Sequence[Chain] = (),
    instead: Sequence[PartialSum | Fill | Gate] = (),
) -> Iterable[Constraint]:
    """What the rules demand, and what the forward does with sizes out of sight.

    The constraints of `chains` and `instead` stand in the place of those of their ops.
    """
    last = {chain.ops[-1].index: chain for chain in chains}
    chained = frozenset(op.index for chain in chains for op in chain.ops)
    coupled = {(one.copy if isinstance(one, Fill) else one.op).index: one for one in instead}
    chained |= {op.index for one in instead if isinstance(one, Gate) for op in one.ops if op is not one.op}
    extents = Extents(graph, rules)
    for site in sites:
        if site.op.index in chained:
            yield from last[site.op.index].couple() if site.op.index in last else ()
            continue
        if site.op.index in coupled:
            yield from coupled[site.op.index].couple()
            continue
        yield from couple_loosely(site, extents)
        yield from kept_as_told_by_size(site, extents)
        if site.op.is_rigid:
            yield from pinned_whole(site.op, site.because("the call it is part of insists on its sizes"))
    out_of_sight = Reason(None, "the forward takes this size out of sight (float(), len(), range(), ...)")
    for root in graph.opaque_roots:
        if isinstance(root, SizeOf):
            yield Pinned((root.value, root.dim), out_of_sight)


def _kept_modules(graph: Graph, names: tuple[str, ...]) -> Iterable[Pinned]:
    for op in graph.ops:
        name = next((n for n in names if op.owner.path == n or op.owner.path.startswith(n + ".")), None)
        if name is not None:
            reason = Reason(op.index, f"keep={name!r} was asked for")
            yield from pinned_whole(op, reason)


def with_copies(problem: Problem, gaps: Sequence[Gap]) -> tuple[Problem, tuple[Fill, ...], Inserted]:
    """The problem with a copy before each op that has `gaps`, the fills that these may be, and the graph."""
    inserted = insert_copies(problem.graph, {(gap.reader.index, gap.argument) for gap in gaps})
    copied = [copy.operands[0].index for copy in inserted.copies.values()]
    graph = inserted.graph
    facts = (*problem.facts, *(problem.facts[value] for value in copied))
    lives = (*problem.lives, *(problem.lives[value] for value in copied))
    bordered = dict(problem.borders)
    for copy in inserted.copies.values():
        if copy.operands[0].index in bordered:
            bordered[copy.result.index] = bordered[copy.operands[0].index]
    maps = tuple(one.moved(inserted.op) for one in problem.maps)
    sites = sites_of(graph, facts, lives, problem.rules, bordered, {one.op.index for one in maps})
    found = evolve(
        problem,
        graph=graph,
        facts=facts,
        lives=lives,
        borders=bordered,
        sites=sites,
        extents=extents_of(graph),
        gates=tuple(gate.moved(inserted.op) for gate in problem.gates),
        maps=maps,
    )
    fills = tuple(gap.filled(inserted) for gap in gaps)
    return found, fills, inserted
