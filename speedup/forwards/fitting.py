"""Can the model's own Python code carry the keep-sets? And what has to be set or restated for it?

A size that the forward derives from shapes adapts by itself. An integer that a module keeps is
set to a new number. A call that states its numbers otherwise is restated in the source. Where
none of these will do, the op's dimensions are constrained and the fixpoint is taken again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from attrs import evolve, frozen

from speedup.analyses.analysis import Analysis
from speedup.engine.constraints import Cause, Constraint, Pinned
from speedup.engine.layout import Block, Move, box, restricted
from speedup.forwards.rewriting import Writer
from speedup.forwards.solving import Equation, components, related, solve
from speedup.ir.expressions import (
    AttributeOf,
    Derived,
    Root,
    SizeOf,
    attributes_in,
    concrete,
    derived_in,
    evaluate_expression,
    roots_in,
)
from speedup.ir.graph import Op, Shape, Value
from speedup.ir.operators import functional
from speedup.ir.restatements import Arguments, Restatement
from speedup.rules import rule_of
from speedup.rules.copies import copied
from speedup.rules.rule import Moves, all_pinned_as_stated


@frozen(eq=False)
class Fit:
    """An analysis that the forward can carry, or the constraints that are missing for it."""

    analysis: Analysis
    missing: tuple[Constraint, ...]
    fallen_back: frozenset[int]


def fitted(analysis: Analysis, writer: Writer, fallen_back: frozenset[int]) -> Fit:
    """Attributes and restated calls that make the forward fit; constraints where nothing does.

    `fallen_back` are ops whose rules were asked before what would do without restating them.
    """
    touched = [op for op in analysis.graph.ops if _is_touched(op, analysis)]
    failing = [op for op in touched if not _fits(op, analysis)]
    attributes = _attributes(analysis, failing, writer.own_numbers)
    if attributes:
        analysis = evolve(analysis, attributes=attributes)
        before = {op.index for op in failing}
        affected = [op for op in analysis.graph.ops if op.index in before or _reads(op, attributes)]
        failing = [op for op in affected if not _fits(op, analysis)]
    restated = {op.index: r for op in failing if (r := _restated(op, analysis)) is not None}
    written = writer.written(analysis, restated)
    analysis = evolve(analysis, restated=written)
    missing: list[Constraint] = list(_flipped_guards(analysis))
    again = set(fallen_back)
    for op in failing:
        if op.index in written:
            continue
        rule, fallback = rule_of(op, analysis.rules), tuple[Constraint, ...]()
        if rule.otherwise is not all_pinned_as_stated and op.index not in again:
            fallback = tuple(rule.otherwise(analysis.sites[op.index]))
            again.add(op.index)
        missing.extend(fallback or (p for p in _misfits_of(op, analysis) if not analysis.kept.is_full(p.dim)))
    return Fit(analysis, tuple(missing), frozenset(again))


def _is_touched(op: Op, analysis: Analysis) -> bool:
    values = (*op.operands, *op.results)
    if any(not analysis.kept.is_full((v.index, d)) for v in values for d in range(v.ndim)):
        return True
    found = tuple(op.arguments.values())
    return any(evaluate_expression(d.expression, analysis.lookup) != d.number for d in derived_in(found))


def _reads(op: Op, attributes: Mapping[AttributeOf, Any]) -> bool:
    found = derived_in(tuple(op.arguments.values()))
    return any(a in attributes for d in found for a in attributes_in(d.expression))


def _fits(op: Op, analysis: Analysis) -> bool:
    """Whether the op does what it has to on the smaller operands, as the forward calls it."""
    rule = rule_of(op, analysis.rules)
    if not rule.holds(analysis.sites[op.index], analysis.sizes, analysis.kept):
        return False
    given = analysis.arguments(op)
    if rule.moves is not None:
        return not _misplaced(op, rule.moves, given, analysis)
    wanted = wanted_arguments(op, analysis)
    return all(given[n] == wanted[n] for n in wanted if not _has_values(wanted[n]))


def wanted_arguments(op: Op, analysis: Analysis) -> dict[str, Any]:
    """The arguments that the op must have on the smaller operands."""
    needs = rule_of(op, analysis.rules).needs(analysis.sites[op.index], analysis.sizes, analysis.kept)
    return {name: concrete(a) for name, a in op.arguments.items()} | dict(needs)


def _has_values(argument: Any) -> bool:
    if isinstance(argument, tuple):
        return any(_has_values(a) for a in argument)
    return isinstance(argument, Value)


def _restated(op: Op, analysis: Analysis) -> Restatement | None:
    """Another way to state the call that does what it has to."""
    rule = rule_of(op, analysis.rules)
    wanted = wanted_arguments(op, analysis)
    site = analysis.sites[op.index]
    holds = rule.holds(site, analysis.sizes, analysis.kept)
    if holds and (rule.moves is None or not _misplaced(op, rule.moves, wanted, analysis)):
        given = analysis.arguments(op)
        changes = {n: wanted[n] for n in wanted if given[n] != wanted[n] and not _has_values(wanted[n])}
        return Arguments(MappingProxyType(changes))
    return rule.restate(site, analysis.sizes, analysis.kept)


def _flipped_guards(analysis: Analysis) -> Iterator[Pinned]:
    cause = Cause(None, "the forward compares this size and would take another branch")
    for guard in analysis.graph.guards:
        if evaluate_expression(guard.expression, analysis.lookup) != guard.outcome:
            pins = _pinned_roots(roots_in(guard.expression), cause)
            yield from (p for p in pins if not analysis.kept.is_full(p.dim))


def _pinned_roots(roots: Iterable[Root], cause: Cause) -> Iterator[Pinned]:
    yield from (Pinned((r.value, r.dim), cause) for r in roots if isinstance(r, SizeOf))


def _attributes(
    analysis: Analysis, failing: Sequence[Op], own_numbers: frozenset[str]
) -> Mapping[AttributeOf, Any]:
    """New numbers for the attributes that failing ops read; none where no numbers would do."""
    first = {a for op in failing for e in _equations(op, analysis) for a in e.unknowns}
    if not first:
        return MappingProxyType({})
    equations = [e for op in analysis.graph.ops for e in _equations(op, analysis)]
    equations += [Equation(g.expression, g.outcome) for g in analysis.graph.guards]
    equations = [e for e in equations if e.unknowns]
    fixed = {r: r.number for r in analysis.graph.escaped if isinstance(r, AttributeOf)}
    fixed.update({a: a.number for e in equations for a in e.unknowns if a.path in own_numbers})
    fixed.update(_of_layers(analysis, first))
    found: dict[AttributeOf, Any] = {}
    for component in components(related(equations, first)):
        found.update(solve(component, fixed, analysis.lookup) or {})
    return MappingProxyType({a: n for a, n in found.items() if n != a.number})


def _of_layers(analysis: Analysis, attributes: Iterable[AttributeOf]) -> Mapping[AttributeOf, Any]:
    """Attributes that describe the tensors of torch's own layers, and so follow from them."""
    paths = {a.path for a in attributes}
    found: dict[AttributeOf, Any] = {}
    for op in analysis.graph.ops:
        if op.owner.path in paths:
            layer = rule_of(op, analysis.rules).weight
            after = layer.attributes_of(op, analysis.sizes)
            for name, before in layer.attributes_of(op, lambda v: v.shape).items():
                if isinstance(before, int):
                    found[AttributeOf(op.owner.path, name, before)] = after[name]
    return found


def _equations(op: Op, analysis: Analysis) -> Iterator[Equation]:
    """What the numbers that the op gets from attributes have to be."""
    if not any(next(attributes_in(d.expression), None) for d in derived_in(tuple(op.arguments.values()))):
        return
    wanted = wanted_arguments(op, analysis)
    for name, argument in op.arguments.items():
        yield from _paired(argument, wanted[name])


def _paired(argument: Any, wanted: Any) -> Iterator[Equation]:
    if isinstance(argument, tuple) and isinstance(wanted, tuple):
        for one, other in zip(argument, wanted, strict=False):
            yield from _paired(one, other)
    elif isinstance(argument, Derived) and wanted != -1:
        yield Equation(argument.expression, wanted)


def _misfits_of(op: Op, analysis: Analysis) -> Iterator[Pinned]:
    """Pins that keep what the op cannot do without as it is stated."""
    rule = rule_of(op, analysis.rules)
    roots = [r for d in derived_in(tuple(op.arguments.values())) for r in roots_in(d.expression)]
    cause = Cause(op.index, "the forward states this size as a number that cannot follow")
    if rule.moves is None or not rule.holds(analysis.sites[op.index], analysis.sizes, analysis.kept):
        yield from _pinned_roots(roots, cause)
        yield from _pinned_whole(op, cause)
        return
    bad = _misplaced(op, rule.moves, analysis.arguments(op), analysis)
    yield from _pinned_roots(roots, cause)
    for move, block in bad:
        source, target = op.operands[move.operand], op.results[move.result]
        yield from (Pinned((source.index, d), cause) for d in block.source)
        yield from (Pinned((target.index, d), cause) for d in block.target)


def _pinned_whole(op: Op, cause: Cause) -> Iterator[Pinned]:
    for value in (*op.operands, *op.results):
        yield from (Pinned((value.index, d), cause) for d in range(value.ndim))


def _misplaced(
    op: Op, moves: Moves, arguments: Mapping[str, Any], analysis: Analysis
) -> list[tuple[Move, Block]]:
    """The blocks of a layout op that would not come out as they must, given `arguments`."""
    wanted = [analysis.sizes(r) for r in op.results]
    found = _meta_shapes(op, arguments, analysis)
    before = moves(
        {n: concrete(a) for n, a in op.arguments.items()},
        [v.shape for v in op.operands],
        [v.shape for v in op.results],
    )
    if found is None or len(found) != len(wanted):
        return [(move, block) for move in before for block in move.blocks]
    if found != wanted:
        return [
            (move, block)
            for move in before
            for block in move.blocks
            if len(found[move.result]) != len(wanted[move.result])
            or any(found[move.result][t] != wanted[move.result][t] for t in block.target)
        ]
    try:
        after = moves(arguments, [analysis.sizes(v) for v in op.operands], wanted)
    except (RuntimeError, IndexError, ValueError):
        # The operator's own shape function may take sizes that it cannot rearrange.
        return [(move, block) for move in before for block in move.blocks]
    return list(_moved_otherwise(op, before, after, analysis))


def _meta_shapes(op: Op, arguments: Mapping[str, Any], analysis: Analysis) -> list[Shape] | None:
    """The result shapes that the op gives on small operands; None when it cannot run on them."""

    def fill(argument: Any) -> Any:
        if isinstance(argument, Value):
            return torch.empty(analysis.sizes(argument), dtype=argument.dtype, device="meta")
        if isinstance(argument, tuple):
            return [fill(a) for a in argument]
        return argument

    target = functional(op.target)
    filled = {name: fill(argument) for name, argument in arguments.items()}
    keywords = {p.name: filled[p.name] for p in target._schema.arguments if p.kwarg_only}
    positional = [filled[p.name] for p in target._schema.arguments if not p.kwarg_only]
    try:
        results = target(*positional, **keywords)
    except (RuntimeError, IndexError, ValueError, TypeError):
        return None
    several = results if isinstance(results, list | tuple) else [results]
    return [tuple(r.shape) for r in several]


def _moved_otherwise(
    op: Op, before: Sequence[Move], after: Sequence[Move], analysis: Analysis
) -> Iterator[tuple[Move, Block]]:
    """Blocks whose kept elements would not be read as they must be."""
    for old, new in zip(before, after, strict=True):
        source, target = op.operands[old.operand], op.results[old.result]
        if any(copied(analysis.graph, source, block) for block in old.blocks):
            continue
        if all(b.index is None for b in (*old.blocks, *new.blocks)):
            continue
        if [(b.source, b.target) for b in old.blocks] != [(b.source, b.target) for b in new.blocks]:
            yield from ((old, block) for block in old.blocks)
            continue
        for block, other in zip(old.blocks, new.blocks, strict=True):
            if block.index is None and other.index is None:
                continue
            kept_source = box([analysis.kept[(source.index, d)] for d in block.source])
            kept_target = box([analysis.kept[(target.index, d)] for d in block.target])
            must = restricted(block.index, kept_source, kept_target)
            does = torch.arange(int(kept_target.sum())) if other.index is None else other.index
            if must is None or must.shape != does.shape or not bool((must == does).all()):
                yield old, block
