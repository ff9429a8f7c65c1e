"""The way that costs nothing: the call stands as it is, since sizes follow by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from speedup.analyses.analysis import Analysis
from speedup.engine.layout import Block, IndexMap, box, restrict_index
from speedup.ir.expressions import with_traced_numbers
from speedup.ir.graph import Op, Shape, Value, call_arguments
from speedup.ir.operators import functional_form
from speedup.rules import rule_of
from speedup.rules.copies import copied_dims
from speedup.rules.moves import moves_at
from speedup.rules.rule import Moves


def fits(op: Op, analysis: Analysis) -> bool:
    """Whether the op does what it has to on the smaller operands, as the forward calls it."""
    rule = rule_of(op, analysis.rules)
    if not rule.holds(analysis.sites[op.index], analysis.sizes, analysis.kept):
        return False
    given = analysis.arguments(op)
    if rule.moves is not None:
        return not misplaced_blocks(op, rule.moves, given, analysis)
    wanted = wanted_arguments(op, analysis)
    return all(given[n] == wanted[n] for n in wanted if not has_values(wanted[n]))


def wanted_arguments(op: Op, analysis: Analysis) -> dict[str, Any]:
    """The arguments that the op must have on the smaller operands."""
    needs = rule_of(op, analysis.rules).needs(analysis.sites[op.index], analysis.sizes, analysis.kept)
    return {name: with_traced_numbers(a) for name, a in op.arguments.items()} | dict(needs)


def has_values(argument: Any) -> bool:
    """Whether tensors or numbers of the trace stand in an argument."""
    if isinstance(argument, tuple):
        return any(has_values(a) for a in argument)
    return isinstance(argument, Value)


def misplaced_blocks(
    op: Op, moves: Moves, arguments: Mapping[str, Any], analysis: Analysis
) -> list[tuple[IndexMap, Block]]:
    """The blocks of a layout op that would not come out as they must, given `arguments`."""
    wanted = [analysis.sizes(r) for r in op.results]
    found = _meta_shapes(op, arguments, analysis)
    before = moves_at(op, moves)
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
    return list(_moves_otherwise(op, before, after, analysis))


def _meta_shapes(op: Op, arguments: Mapping[str, Any], analysis: Analysis) -> list[Shape] | None:
    """The result shapes that the op gives on small operands; None when it cannot run on them."""

    def fill(argument: Any) -> Any:
        if isinstance(argument, Value):
            return torch.empty(analysis.sizes(argument), dtype=argument.dtype, device="meta")
        if isinstance(argument, tuple):
            return [fill(a) for a in argument]
        return argument

    target = functional_form(op.target)
    filled = {name: fill(argument) for name, argument in arguments.items()}
    positional, keywords = call_arguments(op, filled)
    try:
        results = target(*positional, **keywords)
    except (RuntimeError, IndexError, ValueError, TypeError):
        return None
    several = results if isinstance(results, list | tuple) else [results]
    return [tuple(r.shape) for r in several]


def _moves_otherwise(
    op: Op, before: Sequence[IndexMap], after: Sequence[IndexMap], analysis: Analysis
) -> Iterator[tuple[IndexMap, Block]]:
    """Blocks whose kept elements would not be read as they must be."""
    for old, new in zip(before, after, strict=True):
        source, target = op.operands[old.operand], op.results[old.result]
        if any(copied_dims(analysis.graph, source, block) for block in old.blocks):
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
            must = restrict_index(block.index, kept_source, kept_target)
            does = torch.arange(int(kept_target.sum())) if other.index is None else other.index
            if must is None or must.shape != does.shape or not bool((must == does).all()):
                yield old, block
