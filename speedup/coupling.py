"""From facts and liveness to keep-sets: seeds, constraints, and what the forward itself can carry.

The least fixpoint says which slices could go. The model's Python code then has to run on the
smaller tensors as it stands: a size it derives from shapes adapts, a literal does not. Where
an op would not come out as the fixpoint needs it, its dimensions are pinned and the fixpoint
is taken again; pins only grow, so this ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from speedup import native
from speedup.constraints import Cause, Constraint, Dim, Pinned
from speedup.errors import FixpointError
from speedup.graph import (
    Graph,
    Op,
    Origin,
    Shape,
    SizeOf,
    Value,
    carried,
    concrete,
    derived_in,
    evaluate_expression,
    sizes_in,
)
from speedup.keepsets import KeepSets, solve
from speedup.lattice import Fact, along
from speedup.layout import Block, Move, box, restricted
from speedup.rules import Rules, rule_for
from speedup.rules.rule import Moves, Rule, Site, functional


@frozen(eq=False)
class Analysis:
    """All that was found about a graph: facts per value, sites per op, and the keep-sets.

    `kept` is the least fixpoint of `constraints` above `seeds`; `resized` overrides shapes that
    keep-sets alone do not tell.
    """

    graph: Graph
    facts: tuple[Fact, ...]
    sites: tuple[Site, ...]
    rules: Rules
    kept: KeepSets
    seeds: Mapping[Dim, Tensor | None]
    constraints: tuple[Constraint, ...]
    resized: Mapping[int, Shape]

    def sizes(self, value: Value) -> Shape:
        """The shape of `value` in the small model."""
        override = self.resized.get(value.index)
        if override is not None:
            return override
        return tuple(self.kept.count((value.index, d)) for d in range(value.ndim))

    def arguments(self, op: Op) -> dict[str, Any]:
        """The arguments of `op` as the small model's forward will pass them."""
        return _carried_arguments(op, rule_for(op.target, self.rules), self)

    def size(self, value: int, dim: int) -> int:
        return self.sizes(self.graph.values[value])[dim]


def couple(
    graph: Graph, facts: tuple[Fact, ...], lives: tuple[Tensor, ...], rules: Rules, keep: Iterable[str] = ()
) -> Analysis:
    """The least keep-sets that the model's own forward can carry.

    `keep` names modules whose tensors must not change.

    Raises:
        FixpointError: the iteration does not settle (a rule is at fault).
    """
    seeds = _seeds(graph, facts, lives)
    extents = {(v.index, d): n for v in graph.values for d, n in enumerate(v.shape)}
    sites = tuple(
        Site(graph, op, facts, lives, native.settable(op), native.may_add_bias(op)) for op in graph.ops
    )
    constraints = list(_constraints(graph, sites, rules))
    constraints += _kept_modules(graph, tuple(keep))
    for _ in range(len(graph.ops) + 2):
        kept = solve(extents, seeds, constraints)
        resized: dict[int, Shape] = {}
        for site in sites:
            resized.update(rule_for(site.op.target, rules).resize(site, kept))
        analysis = Analysis(graph, facts, sites, rules, kept, seeds, tuple(constraints), resized)
        pins = [p for p in _misfits(analysis) if not kept.is_full(p.dim)]
        if not pins:
            return analysis
        constraints += pins
    raise FixpointError("the sizes that the forward computes do not settle; a rule is at fault")


def _seeds(graph: Graph, facts: Sequence[Fact], lives: Sequence[Tensor]) -> dict[Dim, Tensor | None]:
    """Per dimension, the indices that the model's boundary or a live Unknown element needs."""
    seeds: dict[Dim, Tensor | None] = {}
    whole = {v.index for v in (*graph.inputs, *graph.outputs)}
    # What nobody reads in eval mode may be for training: it is not ours to cut.
    whole |= {v.index for v in graph.state if v.origin is Origin.CONSTANT or not graph.readers[v.index]}
    for value in graph.values:
        if value.index in whole:
            seeds.update({(value.index, d): None for d in range(value.ndim)})
        elif not value.is_state:
            seeds.update(_needed(value, facts[value.index], lives[value.index]))
    return seeds


def _needed(value: Value, found: Fact, live: Tensor) -> Iterable[tuple[Dim, Tensor | None]]:
    needed = live & ~found.known
    if needed.numel() == 1:
        return [((value.index, d), None) for d in range(value.ndim)] if bool(needed) else []
    if not bool(needed.any()):
        return []
    return [
        ((value.index, d), None if needed.shape[d] == 1 else along(needed, d, value.shape[d]))
        for d in range(value.ndim)
    ]


def _constraints(graph: Graph, sites: Sequence[Site], rules: Rules) -> Iterable[Constraint]:
    for site in sites:
        yield from rule_for(site.op.target, rules).couple(site)
        if native.is_rigid(site.op):
            cause = site.because(f"{site.op.owner.type.__name__} insists on the sizes it was built for")
            yield from _pinned_whole(site.op, cause)
    escape = Cause(None, "the forward takes this size out of sight (float(), math.sqrt, len, ...)")
    for size in graph.escaped:
        yield Pinned((size.value, size.dim), escape)


def _kept_modules(graph: Graph, names: tuple[str, ...]) -> Iterable[Pinned]:
    for op in graph.ops:
        name = next((n for n in names if op.owner.path == n or op.owner.path.startswith(n + ".")), None)
        if name is not None:
            cause = Cause(op.index, f"keep={name!r} was asked for")
            yield from _pinned_whole(op, cause)


def _pinned_whole(op: Op, cause: Cause) -> Iterable[Pinned]:
    for value in (*op.operands, *op.results):
        yield from (Pinned((value.index, d), cause) for d in range(value.ndim))


def _carried_arguments(op: Op, rule: Rule, analysis: Analysis) -> dict[str, Any]:
    needs = rule.needs(op, analysis.sizes)
    able = analysis.sites[op.index].settable
    return {
        name: needs[name] if name in needs and name in able else carried(argument, analysis.size)
        for name, argument in op.arguments.items()
    }


def _misfits(analysis: Analysis) -> Iterable[Pinned]:
    """Pins for every op that the forward would not run as needed, and every guard that would flip."""
    for guard in analysis.graph.guards:
        if evaluate_expression(guard.expression, analysis.size) != guard.outcome:
            cause = Cause(None, "the forward compares this size and would take another branch")
            yield from _pin_sizes(sizes_in(guard.expression), cause)
    for op in analysis.graph.ops:
        if _is_touched(op, analysis):
            yield from _misfits_of(op, analysis)


def _is_touched(op: Op, analysis: Analysis) -> bool:
    values = (*op.operands, *op.results)
    if any(not analysis.kept.is_full((v.index, d)) for v in values for d in range(v.ndim)):
        return True
    return any(carried(d, analysis.size) != d.number for d in derived_in(tuple(op.arguments.values())))


def _pin_sizes(sizes: Iterable[SizeOf], cause: Cause) -> Iterable[Pinned]:
    for size in sizes:
        yield Pinned((size.value, size.dim), cause)


def _pin_roots(op: Op, cause: Cause) -> Iterable[Pinned]:
    for derived in derived_in(tuple(op.arguments.values())):
        yield from _pin_sizes(sizes_in(derived.expression), cause)


def _pin_all(op: Op, cause: Cause) -> Iterable[Pinned]:
    yield from _pin_roots(op, cause)
    yield from _pinned_whole(op, cause)


def _misfits_of(op: Op, analysis: Analysis) -> Iterable[Pinned]:
    rule = rule_for(op.target, analysis.rules)
    arguments = _carried_arguments(op, rule, analysis)
    if rule.moves is not None:
        yield from _misfits_of_layout(op, rule.moves, arguments, analysis)
        return
    wanted = {name: concrete(a) for name, a in op.arguments.items()} | dict(rule.needs(op, analysis.sizes))
    if _is_filled(op):
        wanted["size"] = analysis.sizes(op.result)
    if any(arguments[name] != wanted[name] for name in wanted if not _has_values(wanted[name])):
        cause = Cause(op.index, "the forward passes a number here that does not follow the new sizes")
        yield from _pin_all(op, cause)


def _is_filled(op: Op) -> bool:
    return "size" in op.arguments and len(op.results) == 1 and not op.operands[1:]


def _has_values(argument: Any) -> bool:
    if isinstance(argument, tuple):
        return any(_has_values(a) for a in argument)
    return isinstance(argument, Value)


def _misfits_of_layout(
    op: Op, moves: Moves, arguments: Mapping[str, Any], analysis: Analysis
) -> Iterable[Pinned]:
    cause = Cause(op.index, "the forward states this size as a literal number")
    wanted = [analysis.sizes(r) for r in op.results]
    found = _meta_shapes(op, arguments, analysis)
    if found is None or len(found) != len(wanted):
        yield from _pin_all(op, cause)
        return
    before = moves(
        {n: concrete(a) for n, a in op.arguments.items()}, _shapes(op.operands), _shapes(op.results)
    )
    bad = [
        (move, block)
        for move in before
        for block in move.blocks
        if any(found[move.result][t] != wanted[move.result][t] for t in block.target)
    ]
    if found == wanted:
        try:
            after = moves(arguments, [analysis.sizes(v) for v in op.operands], wanted)
        except (RuntimeError, IndexError, ValueError):
            # The operator's own shape function may take sizes that it cannot rearrange.
            yield from _pin_all(op, cause)
            return
        bad = list(_moved_otherwise(op, before, after, analysis))
    if bad:
        yield from _pin_roots(op, cause)
    for move, block in bad:
        source, target = op.operands[move.operand], op.results[move.result]
        yield from (Pinned((source.index, d), cause) for d in block.source)
        yield from (Pinned((target.index, d), cause) for d in block.target)


def _shapes(values: Iterable[Value]) -> list[Shape]:
    return [v.shape for v in values]


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
    except (RuntimeError, IndexError, ValueError):
        return None
    several = results if isinstance(results, list | tuple) else [results]
    return [tuple(r.shape) for r in several]


def _moved_otherwise(
    op: Op, before: Sequence[Move], after: Sequence[Move], analysis: Analysis
) -> Iterable[tuple[Move, Block]]:
    """Blocks whose kept elements would not be read as they must be."""
    for old, new in zip(before, after, strict=True):
        source, target = op.operands[old.operand], op.results[old.result]
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
