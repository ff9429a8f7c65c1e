"""Laws of one operator's rule that take more than facts: its monotonicity, and what its keep-sets promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.cutting.tensors import apply_edits
from speedup.engine.lattice import Fact, fact, indicator, unknown
from speedup.forwards.rewriting import SourceRewriter
from speedup.ir.edits import AddToParameter, MergeColumns, SliceGroups
from speedup.ir.evaluation import evaluate
from speedup.ir.graph import Graph, Op, Value
from speedup.lowerings import Lowering
from speedup.planning.coupling import solve_coupling
from speedup.rules import STANDARD, rule_for
from tests.support.soundness import Abstract, Case, Tensors, abstract, some_extents

CLOSE: Mapping[str, Any] = {"rtol": 1e-9, "atol": 1e-10, "equal_nan": True}


def check_monotone(one: Case, seed: int) -> None:
    """Knowing less of the operands never tells more of the results; reading more never makes less live.

    Raises:
        AssertionError: it does.
    """
    generator = torch.Generator().manual_seed(seed)
    rule = rule_for(one.op.target, STANDARD)
    facts = [abstract(operand, generator).fact for operand in one.operands]
    raised = [_raised(f, generator) for f in facts]
    for less, more in zip(rule.known(one.op, raised), rule.known(one.op, facts), strict=True):
        assert not bool((less.known & ~more.known).any()), "more is known of less"
        values = torch.broadcast_tensors(less.known, less.value, more.value)
        torch.testing.assert_close(values[1][values[0]], values[2][values[0]], **CLOSE)
    lives = [torch.rand(some_extents(r.shape, generator), generator=generator) < 0.5 for r in one.op.results]
    fewer = [live & (torch.rand(live.shape, generator=generator) < 0.5) for live in lives]
    for less_read, read in zip(rule.live(one.op, facts, fewer), rule.live(one.op, facts, lives), strict=True):
        assert not bool((less_read & ~read).any()), "more is read for less"


def _raised(found: Fact, generator: torch.Generator) -> Fact:
    """`found` with some elements, or all, made Unknown."""
    shape = tuple(torch.broadcast_shapes(found.known.shape, found.value.shape))
    left = torch.rand(some_extents(shape, generator), generator=generator) < 0.7
    return fact(found.known & left, found.value)


class Obliging(SourceRewriter):
    """A source that can be made to say anything."""

    def writable(self, analysis: Analysis, wanted: Mapping[int, Lowering]) -> Mapping[int, Lowering]:
        """All that is wanted."""
        return wanted


@frozen(eq=False)
class Sliced:
    """A case with facts and liveness, and the analysis of a graph that consists of its operator."""

    one: Case
    operands: tuple[Abstract, ...]
    lives: tuple[Tensor, ...]
    analysis: Analysis

    @property
    def dropped(self) -> int:
        """How many indices of the operands and results are gone."""
        values = (*self.one.op.operands, *self.one.op.results)
        return sum(int((~self.analysis.kept[(v.index, d)]).sum()) for v in values for d in range(v.ndim))


def sliced(one: Case, seed: int) -> Sliced:
    """The keep-sets that the rule allows for random facts and liveness, whole slices not counting."""
    generator = torch.Generator().manual_seed(seed)
    op, rule = one.op, rule_for(one.op.target, STANDARD)
    extents = {n for v in (*op.operands, *op.results) for n in v.shape}
    patterns = {n: torch.rand(n, generator=generator) > 0.4 for n in sorted(extents)}
    operands = tuple(_patterned(operand, patterns, generator) for operand in one.operands)
    facts = [o.fact for o in operands]
    lives = [_live(r, patterns, generator) for r in op.results]
    known = rule.known(op, facts)
    reads = rule.live(op, facts, lives)
    graph = _read_graph(op, lives)
    rest = len(graph.ops) - 1
    all_facts = (*facts, *known, *(unknown(v.ndim, v.dtype) for v in graph.values[-rest:] if rest))
    all_lives = (*reads, *lives, *(indicator(False, v.ndim) for v in graph.values[-rest:] if rest))
    analysis = solve_coupling(graph, all_facts, all_lives, STANDARD, Obliging({}))
    return Sliced(one, operands, all_lives, analysis)


def _read_graph(op: Op, lives: Sequence[Tensor]) -> Graph:
    """The op, and after it others that read those of its results that are live."""
    values, ops = [*op.operands, *op.results], [op]
    for result, live in zip(op.results, lives, strict=True):
        if bool(live.any()):
            made = evolve(result, index=len(values))
            arguments = MappingProxyType({"self": result})
            ops.append(Op(len(ops), torch.ops.aten.relu.default, arguments, (made,), op.owner))
            values.append(made)
    return Graph(tuple(values), tuple(ops), (), ())


def _patterned(operand: Tensors, patterns: Mapping[int, Tensor], generator: torch.Generator) -> Abstract:
    """A random fact; most have the slices outside of the patterns along some dimensions Known, often 0."""
    if torch.rand((), generator=generator) < 0.2:
        return abstract(operand, generator)
    shape = operand.shape
    gone = torch.zeros(shape, dtype=torch.bool)
    for dim, extent in enumerate(shape):
        if torch.rand((), generator=generator) < 0.5:
            gone = gone | ~_along(patterns[extent], dim, len(shape))
    levels = operand.sampler(shape, generator)
    if operand.state or torch.rand((), generator=generator) < 0.6:
        levels = torch.zeros_like(levels)
    elif shape:
        axis = 1 % len(shape)
        levels = levels[tuple(slice(None) if d == axis else slice(0, 1) for d in range(len(shape)))].expand(
            shape
        )
    if operand.state:
        tensor = torch.where(gone, levels, operand.sampler(shape, generator))
        return Abstract(
            fact(torch.ones((1,) * len(shape), dtype=torch.bool), tensor),
            torch.ones(shape, dtype=torch.bool),
            tensor,
        )
    return Abstract(fact(gone, levels), gone, levels)


def _along(pattern: Tensor, dim: int, ndim: int) -> Tensor:
    return pattern.reshape([-1 if d == dim else 1 for d in range(ndim)])


def _live(result: Value, patterns: Mapping[int, Tensor], generator: torch.Generator) -> Tensor:
    live = torch.ones((1,) * result.ndim, dtype=torch.bool)
    for dim, extent in enumerate(result.shape):
        if torch.rand((), generator=generator) < 0.4:
            live = live & _along(patterns[extent], dim, result.ndim)
    return live


def check_sliced(one: Case, seed: int, draws: int = 2) -> int:
    """Hold what the operator does on what is left of its operands against its result; how much is gone.

    Raises:
        AssertionError: a live element that is left comes out as something else.
    """
    found = sliced(one, seed)
    if not found.dropped or not one.op.results:
        return found.dropped
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        full = [o.draw(t.sampler, generator) for o, t in zip(found.operands, one.operands, strict=True)]
        small = _smaller(found, _noisy(found, full, generator))
        got = run_restated(found.analysis, one.op, small)
        for result, before, after in zip(one.op.results, one.run(full), got, strict=True):
            assert tuple(after.shape) == found.analysis.sizes(result), "the sizes are not those planned"
            live = _box(found.analysis, result, found.lives[result.index].expand(result.shape))
            expected = _box(found.analysis, result, before)
            torch.testing.assert_close(after[live], expected[live], **CLOSE)
    return found.dropped


def _noisy(found: Sliced, full: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """The operands, in which whatever is called dead may be anything."""
    return [
        t if spec.state else torch.where(live, t, spec.sampler(spec.shape, generator))
        for t, spec, live in zip(full, found.one.operands, found.lives, strict=False)
    ]


def _box(analysis: Analysis, value: Value, tensor: Tensor) -> Tensor:
    for dim in range(value.ndim):
        tensor = tensor.index_select(dim, analysis.kept[(value.index, dim)].nonzero().reshape(-1))
    return tensor


def _smaller(found: Sliced, full: Sequence[Tensor]) -> list[Tensor]:
    """What is left of the operands once the rule has compensated for what is gone."""
    analysis, op = found.analysis, found.one.op
    edits = list(rule_for(op.target, STANDARD).compensate(analysis.sites[0], analysis.kept))
    assert all(isinstance(e, AddToParameter | MergeColumns | SliceGroups) for e in edits), edits
    grouped = {e.name for e in edits if isinstance(e, SliceGroups)}
    tensors = {v.name: t for v, t in zip(op.operands, full, strict=True) if v.is_state}
    compensated = {**tensors, **apply_edits(tensors, {}, edits)}
    small = []
    for value, tensor in zip(op.operands, full, strict=True):
        left = compensated.get(value.name, tensor)
        first = 2 if value.name in grouped else 0
        for dim in range(first, value.ndim):
            left = left.index_select(dim, analysis.kept[(value.index, dim)].nonzero().reshape(-1))
        assert tuple(left.shape) == analysis.sizes(value), "an operand's size is not the one planned"
        small.append(left)
    return small


def run_restated(analysis: Analysis, op: Op, small: Sequence[Tensor]) -> Sequence[Tensor]:
    """Run the op on smaller operands as the analysis says that it has to be stated."""
    arguments = analysis.arguments(op)
    lowering = analysis.restated.get(op.index)
    return _run(op, arguments, small) if lowering is None else lowering.compute(op, arguments, small)


def _run(op: Op, arguments: Mapping[str, Any], small: Sequence[Tensor]) -> Sequence[Tensor]:
    return evaluate(evolve(op, arguments=arguments), small)
