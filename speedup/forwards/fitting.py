"""Can the model's own Python code carry the keep-sets? And what has to be set or restated for it?

There are several ways for each op, from the cheapest on: its call stands as it is (`native`), integers that
modules keep are set to new numbers (`attributes`), or the source states another call (`speedup.lowerings`).
Where none of these will do, the op's dimensions are constrained and the fixpoint is taken again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from attrs import evolve, frozen

from speedup.analyses.analysis import Analysis
from speedup.analyses.border_maps import BorderMap
from speedup.analyses.chains import Chain
from speedup.analyses.fills import Fill
from speedup.analyses.gates import Gate
from speedup.analyses.partial_sums import PartialSum
from speedup.analyses.spare_rows import SpareRows
from speedup.engine.constraints import Constraint, Counted, Pinned, Reason
from speedup.engine.layout import restrict_index
from speedup.forwards.attributes import reads, solve_numbers
from speedup.forwards.native import fits, has_values, misplaced_blocks, wanted_arguments
from speedup.forwards.rewriting import SourceRewriter
from speedup.ir.edits import ConstantTensor
from speedup.ir.expressions import (
    Attempt,
    Derived,
    Guard,
    Root,
    SizeOf,
    derived_in,
    evaluate_expression,
    roots_in,
    sizes_in,
)
from speedup.ir.graph import Frame, Op
from speedup.lowerings import (
    AddBorder,
    AddRows,
    Alternative,
    Arguments,
    FillRows,
    GateRows,
    Lowering,
    PassOn,
    SelectIndices,
)
from speedup.lowerings.own_parameters import BORDER_MAP, CONSTANT_ROWS, GATED_ROWS, STREAM_BIAS, own_names
from speedup.rules import rule_of
from speedup.rules.copies import is_copy
from speedup.rules.extents import Extents

_CANNOT_FOLLOW = "the forward states this size as a number that cannot follow"
_Place = tuple[str, tuple[Frame, ...], str]
Rows = TypeVar("Rows", PartialSum, Fill, Gate, BorderMap)
Made = TypeVar("Made", bound=Lowering | None)


@frozen(eq=False)
class Feasibility:
    """An analysis that the forward can carry, or the constraints that are missing for it.

    `granted` are ops under the constraints of one of their rules' alternatives; `refused` are chains,
    sums, fills, gates and maps that the source cannot be made to state.
    """

    analysis: Analysis
    missing: tuple[Constraint, ...]
    granted: frozenset[int]
    refused: tuple[Chain | PartialSum | Fill | Gate | BorderMap, ...] = ()


def make_feasible(
    analysis: Analysis,
    rewriter: SourceRewriter,
    granted: frozenset[int],
    chains: Sequence[Chain] = (),
    partial_sums: Sequence[PartialSum] = (),
    fills: Sequence[Fill] = (),
    gates: Sequence[Gate] = (),
    maps: Sequence[BorderMap] = (),
) -> Feasibility:
    """Attributes and restated calls that make the forward fit; constraints where nothing does.

    `granted` are ops that were given the constraints of an alternative before; `chains` are coupled as the
    permutations that they are, one operand of each of `partial_sums` need not have all rows, what reads
    each of `fills` is given constants, each of `gates` may lack channels, and `maps` may be added to what
    convolutions give.
    """
    # Where it has them, the op stays as it is.
    partial_sums = [one for one in partial_sums if one.is_partial(analysis)]
    fills = [one for one in fills if one.is_partial(analysis)]
    gates = [one for one in gates if one.is_partial(analysis)]
    maps = [one for one in maps if one.is_partial(analysis)]
    apart = {op.index for chain in chains for op in chain.ops}
    apart |= {one.op.index for one in partial_sums} | {op.index for one in gates for op in one.ops}
    apart |= {one.copy.index for one in fills}
    touched = [op for op in analysis.graph.ops if op.index not in apart and _is_touched(op, analysis)]
    failing = [op for op in touched if not fits(op, analysis)]
    attributes = solve_numbers(analysis, failing, rewriter.own_numbers)
    if attributes:
        analysis = evolve(analysis, attributes=attributes)
        before = {op.index for op in failing}
        affected = [op for op in analysis.graph.ops if op.index in before or reads(op, attributes)]
        failing = [op for op in affected if not fits(op, analysis)]
    offers = {op.index: sorted(_offers(op, analysis), key=lambda one: one.cost) for op in failing}
    offers.update(_of_chains(chains, analysis))
    offers.update(_of_partial_sums(partial_sums, analysis, rewriter))
    offers.update(_of_gates(gates, analysis, rewriter))
    offers.update(_of_maps(maps, analysis, rewriter))
    offers.update(_of_fills(fills, analysis, rewriter, offers))
    written = _write(offers, granted, analysis, rewriter)
    analysis = evolve(analysis, restated=written)
    missing: list[Constraint] = list(_flipped_guards(analysis))
    now = set(granted)
    firm: list[Constraint] = []
    open_: list[Constraint] = []
    for op in failing:
        if op.index in written:
            continue
        asked = next((one.constraints for one in offers[op.index] if one.constraints), ())
        if asked and op.index not in now:
            now.add(op.index)
            missing.extend(asked)
        else:
            pins: Iterable[Constraint] = _open_pins(_misfits_of(op, analysis), analysis)
            pins = pins or _open_pins(_all_of(op), analysis)
            counts = _counts_that_differ(op, analysis)
            (open_ if counts or _follows_cuts(op, analysis) else firm).extend(counts or pins)
    # Numbers that are derived from sizes may come out once those have grown that others cannot do without.
    missing.extend(firm or open_)
    refused: tuple[Chain | PartialSum | Fill | Gate | BorderMap, ...] = (
        *(c for c in chains if any(op.index not in written for op in c.ops if not is_copy(op))),
        *(one for one in partial_sums if one.op.index not in written),
        *(one for one in gates if any(op.index not in written for op in one.ops)),
        *(one for one in maps if not isinstance(written.get(one.op.index), AddBorder)),
        *(one for one in fills if not isinstance(written.get(one.reader.index), FillRows)),
    )
    return Feasibility(analysis, tuple(missing), frozenset(now), refused)


def _of_chains(chains: Sequence[Chain], analysis: Analysis) -> Iterator[tuple[int, list[Alternative]]]:
    """Of each chain the last op selects indices, and the others leave their operands as they are."""
    for chain in chains:
        for op in chain.ops[:-1]:
            if not is_copy(op):
                yield op.index, [Alternative(PassOn())]
        source, target = (analysis.kept[(value.index, chain.dim)] for value in (chain.source, chain.result))
        read = restrict_index(chain.order, source, target)
        assert read is not None, "what a permutation reads is kept"
        yield chain.ops[-1].index, [Alternative(SelectIndices(tuple(read.tolist()), chain.dim))]


def _of_partial_sums(
    partial_sums: Sequence[PartialSum], analysis: Analysis, rewriter: SourceRewriter
) -> Iterator[tuple[int, list[Alternative]]]:
    """Of each sum the rows are added to their places."""

    def added(one: PartialSum, name: str) -> AddRows:
        return AddRows(one.operand, one.dim, one.places(analysis), name, _held(one, analysis))

    for one, lowering in _named(partial_sums, STREAM_BIAS, added, rewriter):
        yield one.op.index, [Alternative(lowering)]


def _of_gates(
    gates: Sequence[Gate], analysis: Analysis, rewriter: SourceRewriter
) -> Iterator[tuple[int, list[Alternative]]]:
    """Of each product with a gate, what is left out is put together of the rest."""

    def gated(one: Gate, name: str) -> GateRows | None:
        mixing = one.mixing(analysis)
        if mixing is None:
            return None
        left_out, places = ConstantTensor(mixing.columns), one.places(analysis)
        return GateRows(one.operand, one.dim, places, mixing.carriers, mixing.into, name, left_out)

    for one, lowering in _named(gates, GATED_ROWS, gated, rewriter):
        if lowering is not None:
            yield one.op.index, [Alternative(lowering)]
            yield from ((op.index, [Alternative(PassOn())]) for op in one.ops if op is not one.op)


def _of_maps(
    maps: Sequence[BorderMap], analysis: Analysis, rewriter: SourceRewriter
) -> Iterator[tuple[int, list[Alternative]]]:
    """To the result of each convolution a map is added."""

    def added(one: BorderMap, name: str) -> AddBorder:
        return AddBorder(one.margins, name, ConstantTensor(one.numbers(analysis)))

    for one, lowering in _named(maps, BORDER_MAP, added, rewriter):
        yield one.op.index, [Alternative(lowering)]


def _of_fills(
    fills: Sequence[Fill],
    analysis: Analysis,
    rewriter: SourceRewriter,
    offers: Mapping[int, Sequence[Alternative]],
) -> Iterator[tuple[int, list[Alternative]]]:
    """Before each reader constants are put in; of `offers` for its call, other numbers go with that."""

    def filled(one: Fill, name: str) -> FillRows:
        total = analysis.kept.count(one.whole)
        return FillRows(one.argument, one.dim, one.places(analysis), total, name, _held(one, analysis))

    by_reader: dict[int, list[Arguments | FillRows | None]] = {}
    for one, lowering in _named(fills, CONSTANT_ROWS, filled, rewriter):
        number = one.reader.index
        if number not in by_reader:
            own = [a.lowering for a in offers.get(number, ()) if isinstance(a.lowering, Arguments)]
            by_reader[number] = [*own] if number in offers else [None]
        by_reader[number] = [evolve(lowering, beside=other) for other in by_reader[number]]
    for number, lowerings in by_reader.items():
        yield number, [Alternative(lowering) for lowering in lowerings]


def _named(
    some: Sequence[Rows], stem: str, make: Callable[[Rows, str], Made], rewriter: SourceRewriter
) -> Iterator[tuple[Rows, Made]]:
    """What to make of each of `some`, with the name that its module has for its constants."""
    places: dict[tuple[str, Frame, str], list[Rows]] = {}
    for one in some:
        places.setdefault(one.place, []).append(one)
    names: dict[str, Iterator[str]] = {}
    for (path, _, _), alike in places.items():
        module = rewriter.modules.get(path)
        name = next(n for n in names.setdefault(path, own_names(stem)) if not hasattr(module, n))
        found = [(one, make(one, name)) for one in alike]
        # What runs several times says and holds the same each time.
        if all(made == found[0][1] for _, made in found):
            yield from found


def _held(one: SpareRows, analysis: Analysis) -> ConstantTensor | None:
    """The constants that a module has to hold; None where all are 0."""
    constants = one.left_out(analysis)
    return ConstantTensor(constants) if bool(constants.any()) else None


def _offers(op: Op, analysis: Analysis) -> Iterator[Alternative]:
    """The ways to carry `op` by another call, or under further constraints."""
    rule, site = rule_of(op, analysis.rules), analysis.sites[op.index]
    wanted = wanted_arguments(op, analysis)
    holds = rule.holds(site, analysis.sizes, analysis.kept)
    if holds and (rule.moves is None or not misplaced_blocks(op, rule.moves, wanted, analysis)):
        given = analysis.arguments(op)
        changes = {n: wanted[n] for n in wanted if given[n] != wanted[n] and not has_values(wanted[n])}
        yield Alternative(Arguments(MappingProxyType(changes)))
    yield from rule.alternatives(site, analysis.sizes, analysis.kept)


def _write(
    offers: Mapping[int, Sequence[Alternative]],
    granted: frozenset[int],
    analysis: Analysis,
    rewriter: SourceRewriter,
) -> Mapping[int, Lowering]:
    """By op, the cheapest lowering that the source can be made to state."""
    left = {
        number: [a.lowering for a in some if a.lowering and (not a.constraints or number in granted)]
        for number, some in offers.items()
    }
    written: Mapping[int, Lowering] = MappingProxyType({})
    while wanted := {number: some.pop(0) for number, some in left.items() if some and number not in written}:
        written = rewriter.writable(analysis, {**written, **wanted})
    return written


def _is_touched(op: Op, analysis: Analysis) -> bool:
    values = (*op.operands, *op.results)
    if any(not analysis.kept.is_full((v.index, d)) for v in values for d in range(v.ndim)):
        return True
    found = tuple(op.arguments.values())
    return any(evaluate_expression(d.expression, analysis.lookup) != d.number for d in derived_in(found))


def _flipped_guards(analysis: Analysis) -> Iterator[Pinned]:
    """What has to stay so that comparisons come out, and counts are, as in the masked model at every size."""
    reason = Reason(None, "the forward compares this size and would take another branch")
    graph, extents = analysis.graph, Extents(analysis.graph, analysis.rules)
    for question in graph.questions:
        cut = [r for r in roots_in(question.expression) if _is_cut(r, analysis)]
        if not cut or isinstance(question, Attempt):
            continue
        is_guard = isinstance(question, Guard)
        flips = is_guard and evaluate_expression(question.expression, analysis.lookup) != question.number
        # Beside a size that follows the inputs it may do so at another one.
        if flips or any(extents.varies(graph.values[s.value], s.dim) for s in sizes_in(question.expression)):
            yield from _pinned_roots(cut, reason)


def _is_cut(root: Root, analysis: Analysis) -> bool:
    return isinstance(root, SizeOf) and not analysis.kept.is_full((root.value, root.dim))


def _pinned_roots(roots: Iterable[Root], reason: Reason) -> Iterator[Pinned]:
    yield from (Pinned((r.value, r.dim), reason) for r in roots if isinstance(r, SizeOf))


def _open_pins(pins: Iterable[Pinned], analysis: Analysis) -> list[Constraint]:
    """Those of what is not kept whole anyway."""
    return [pin for pin in pins if not analysis.kept.is_full(pin.dim)]


def _misfits_of(op: Op, analysis: Analysis) -> Iterator[Pinned]:
    """Pins that keep what the op cannot do without as it is stated."""
    rule = rule_of(op, analysis.rules)
    if rule.moves is None or not rule.holds(analysis.sites[op.index], analysis.sizes, analysis.kept):
        yield from _all_of(op)
        return
    reason = Reason(op.index, _CANNOT_FOLLOW)
    bad = misplaced_blocks(op, rule.moves, analysis.arguments(op), analysis)
    yield from _pinned_roots((r for d in _differing(op, analysis) for r in roots_in(d.expression)), reason)
    for move, block in bad:
        source, target = op.operands[move.operand], op.results[move.result]
        yield from (Pinned((source.index, d), reason) for d in block.source)
        yield from (Pinned((target.index, d), reason) for d in block.target)


def _all_of(op: Op) -> Iterator[Pinned]:
    """Pins that keep all that the op touches, and the sizes that its numbers are derived from."""
    reason = Reason(op.index, _CANNOT_FOLLOW)
    roots = (r for d in derived_in(tuple(op.arguments.values())) for r in roots_in(d.expression))
    yield from _pinned_roots(roots, reason)
    yield from pinned_whole(op, reason)


def _counts_that_differ(op: Op, analysis: Analysis) -> list[Constraint]:
    """What the results of all ops that the same piece of source runs have to agree on if it states them."""
    moves = rule_of(op, analysis.rules).moves
    if moves is None:
        return []
    places = analysis.graph.once("by place", lambda: _by_place(analysis.graph.ops))
    shapes = [r.shape for r in op.results]
    alike = [other for other in places[_place(op)] if [r.shape for r in other.results] == shapes]
    wrong = {
        (move.result, dim)
        for other in alike
        for move, block in misplaced_blocks(other, moves, analysis.arguments(other), analysis)
        for dim in block.target
    }
    reason = Reason(op.index, "the forward states this size as a number that cannot follow each of several")
    found = (tuple((other.results[n].index, dim) for other in alike) for n, dim in sorted(wrong))
    return [Counted(dims, reason) for dims in found if len({analysis.kept.count(d) for d in dims}) > 1]


def _by_place(ops: Iterable[Op]) -> Mapping[_Place, Sequence[Op]]:
    found: dict[_Place, list[Op]] = {}
    for op in ops:
        found.setdefault(_place(op), []).append(op)
    return found


def _place(op: Op) -> _Place:
    return op.owner.path, op.calls[:1], str(op.target)


def _follows_cuts(op: Op, analysis: Analysis) -> bool:
    """Whether a number that does not come out is derived from a size that is cut."""
    return any(_is_cut(r, analysis) for d in _differing(op, analysis) for r in roots_in(d.expression))


def _differing(op: Op, analysis: Analysis) -> Iterator[Derived]:
    """The derived numbers among the arguments of `op` that are given otherwise than they are wanted."""
    given, wanted = analysis.arguments(op), wanted_arguments(op, analysis)
    for name, argument in op.arguments.items():
        yield from _not_as_wanted(argument, given[name], wanted[name])


def _not_as_wanted(argument: Any, given: Any, wanted: Any) -> Iterator[Derived]:
    if isinstance(argument, Derived):
        if wanted not in (-1, given):
            yield argument
    elif isinstance(argument, tuple) and isinstance(wanted, tuple):
        for parts in zip(argument, given, wanted, strict=False):
            yield from _not_as_wanted(*parts)


def pinned_whole(op: Op, reason: Reason) -> Iterator[Pinned]:
    """Pins that keep all that the op touches."""
    for value in (*op.operands, *op.results):
        yield from (Pinned((value.index, d), reason) for d in range(value.ndim))
