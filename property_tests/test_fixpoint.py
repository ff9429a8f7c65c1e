"""The keep-sets of random networks: a fixpoint of their constraints, and monotone in what is needed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from property_tests.test_networks import given_model
from speedup import STANDARD
from speedup.analyses import constants, liveness
from speedup.analyses.analysis import Analysis
from speedup.engine.constraints import Closure, Dim, Equal
from speedup.engine.keepsets import solve_keep_sets
from speedup.forwards.rewriting import SourceRewriter
from speedup.ir.inputs import example_from
from speedup.masks import resolve_masks
from speedup.planning.coupling import solve_coupling
from speedup.testing.strategies import Case, cases
from speedup.tracing.trace import trace_call


def analysis_of(case: Case) -> Analysis:
    model, masks = given_model(case)
    traced = trace_call(model, example_from(case.example()))
    facts = constants.find_constants(traced.graph, traced.tensors, resolve_masks(model, masks), STANDARD)
    lives = liveness.find_liveness(traced.graph, facts, STANDARD)
    rewriter = SourceRewriter(dict(model.named_modules(remove_duplicate=False)))
    return solve_coupling(traced.graph, facts, lives, STANDARD, rewriter)


def extents_of(analysis: Analysis) -> dict[Dim, int]:
    return {(v.index, d): n for v in analysis.graph.values for d, n in enumerate(v.shape)}


@settings(max_examples=max(1, settings().max_examples // 3))
@given(case=cases())
def test_keep_sets_of_a_network_satisfy_every_constraint_and_hold_the_seeds(case: Case) -> None:
    analysis = analysis_of(case)
    for dim, seed in analysis.seeds.items():
        wanted = analysis.kept[dim] if seed is not None else ~analysis.kept[dim]
        assert not bool((~wanted & seed).any() if seed is not None else wanted.any())
    for constraint in analysis.constraints:
        if isinstance(constraint, Equal):
            first, *others = (analysis.kept[d] for d in constraint.dims)
            assert all(bool((first == other).all()) for other in others)
        else:
            _assert_satisfied(constraint, analysis)
    assert all(bool(analysis.kept[d].any()) for d, n in extents_of(analysis).items() if n)


def _assert_satisfied(constraint: Closure, analysis: Analysis) -> None:
    for dim, demand in constraint.close(analysis.kept.__getitem__):
        assert not bool((demand & ~analysis.kept[dim]).any()), constraint.reason.words


@settings(max_examples=max(1, settings().max_examples // 3))
@given(case=cases(), data=st.data())
def test_needing_more_never_keeps_less(case: Case, data: st.DataObject) -> None:
    analysis = analysis_of(case)
    forced = [c for c in analysis.constraints if isinstance(c, Equal) or not c.is_choice]
    extents = extents_of(analysis)
    less = solve_keep_sets(extents, analysis.seeds, forced)
    dims = sorted(d for d, n in extents.items() if n)
    extra = data.draw(st.lists(st.sampled_from(dims), max_size=3), label="whole dimensions needed as well")
    more = solve_keep_sets(extents, {**analysis.seeds, **dict.fromkeys(extra)}, forced)
    assert all(not bool((less[d] & ~more[d]).any()) for d in dims)
