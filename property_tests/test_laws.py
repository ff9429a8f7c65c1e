"""Laws of plans as functions of masks and tensors: what more masks, a second plan and a state dict do."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from property_tests.test_fixpoint import analysis_of, extents_of
from property_tests.test_networks import given_model, shapes
from speedup import Plan, apply_masks, materialize, plan_speedup
from speedup.cutting.tensors import apply_edits
from speedup.engine.constraints import Equal
from speedup.engine.keepsets import solve_keep_sets
from speedup.ir.edits import (
    AddToParameter,
    MergeColumns,
    NewBias,
    RewriteForward,
    Slice,
    SliceGroups,
)
from speedup.ir.paths import join_path
from speedup.masks import resolve_masks
from speedup.testing.habits import masks
from speedup.testing.masks import mask_tensors
from speedup.testing.oracle import assert_same_output, masked_copy
from speedup.testing.snapshots import tensor_bytes
from speedup.testing.strategies import Case, cases

_FEW = settings(max_examples=max(1, settings().max_examples // 6))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by their first name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _more(
    case: Case, data: st.DataObject, may_be_cut: Callable[[str], bool] = lambda parameter: True
) -> Case:
    """`case` with masks on top of its own, for those parameters that may be cut."""
    extra = data.draw(masks(case.network), label="masks on top")
    cuts = (*case.masks.cuts, *(cut for cut in extra.cuts if may_be_cut(cut.parameter)))
    return attrs.evolve(case, masks=attrs.evolve(case.masks, cuts=cuts))


def _plan(case: Case) -> Plan:
    model, given_masks = given_model(case)
    return plan_speedup(model, case.example(), given_masks)


@_FEW
@given(case=cases())
def test_state_of_the_small_model_is_the_plan_applied_to_the_state_of_the_model(case: Case) -> None:
    model, given_masks = given_model(case)
    plan = plan_speedup(model, case.example(), given_masks, reparametrized="keep")
    before = _tensors(model)
    changed = {**before, **apply_edits(before, resolve_masks(model, given_masks), plan.edits)}
    changed |= {join_path(e.path, "bias"): e.value.tensor for e in plan.edits if isinstance(e, NewBias)}
    after = _tensors(materialize(plan, verify="none"))
    assert after.keys() == changed.keys()
    for name, tensor in after.items():
        assert tensor_bytes(tensor) == tensor_bytes(changed[name].to(tensor.dtype)), name


@_FEW
@given(case=cases())
def test_planning_and_materializing_twice_gives_the_same_bits(case: Case) -> None:
    one, other = (materialize(_plan(case), verify="none").state_dict() for _ in range(2))
    assert {n: tensor_bytes(t) for n, t in one.items()} == {n: tensor_bytes(t) for n, t in other.items()}


@_FEW
@given(case=cases(), data=st.data())
def test_more_masks_never_keep_more(case: Case, data: st.DataObject) -> None:
    assert _plan(_more(case, data)).parameters_after <= _plan(case).parameters_after


@_FEW
@given(case=cases(), data=st.data())
def test_masks_that_are_written_into_the_weights_count_like_masks(case: Case, data: st.DataObject) -> None:
    both = _more(case, data)
    model = case.model()
    at_once = plan_speedup(model, case.example(), mask_tensors(both.masks, model))
    first = apply_masks(model, mask_tensors(case.masks, model))
    after_another = plan_speedup(first, case.example(), mask_tensors(both.masks, first))
    assert shapes(materialize(at_once, verify="none")) == shapes(materialize(after_another, verify="none"))


@_FEW
@given(case=cases(), data=st.data())
def test_materializing_with_one_mask_after_another_is_materializing_with_both(
    case: Case, data: st.DataObject
) -> None:
    model = case.model()
    plan = plan_speedup(model, case.example(), mask_tensors(case.masks, model))
    both = _more(case, data, _after_payments(plan))
    at_once = {n: m.expand(model.get_parameter(n).shape) for n, m in mask_tensors(both.masks, model).items()}
    # What was added to a parameter lives on where its mask is 0.
    left = {n: m for n, m in at_once.items() if n not in _paid(plan)}
    slices = [e for e in plan.edits if isinstance(e, Slice | SliceGroups) and e.name in left]
    small = materialize(plan, verify="none")
    twice = materialize(
        plan_speedup(small, case.example(), {**left, **apply_edits(left, {}, slices)}), verify="none"
    )
    once = materialize(plan_speedup(model, case.example(), at_once), verify="none")
    assert all(
        all(a <= b for a, b in zip(shapes(twice)[name], sizes, strict=True))
        for name, sizes in shapes(once).items()
        if name in shapes(twice)
    )
    for batch in (1, 3):
        assert_same_output(
            twice.eval(), masked_copy(model, both.masks).eval(), case.inputs(batch, seed=batch)
        )


def _paid(plan: Plan) -> set[str]:
    """The tensors that make up for dropped constants."""
    new = {join_path(e.path, "bias") for e in plan.edits if isinstance(e, NewBias)}
    return new | {e.name for e in plan.edits if isinstance(e, AddToParameter | MergeColumns)}


def _after_payments(plan: Plan) -> Callable[[str], bool]:
    """Tells parameters that are read only after all constants that were dropped have been made up for.

    The constants depend on the others, which therefore must not be masked any more.
    """
    order = [layer.path for layer in plan.layers]
    restated = {e.path for e in plan.edits if isinstance(e, RewriteForward)}
    places = [n for n, path in enumerate(order) if any(_is_in(path, outer) for outer in restated)]
    places += [n for name in _paid(plan) for n, path in enumerate(order) if _is_in(name, path)]
    after = order[max(places, default=-1) + 1 :]
    return lambda name: any(_is_in(name, path) for path in after)


def _is_in(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(f"{path}.")


@_FEW
@given(case=cases(), seed=st.integers(0, 999))
def test_order_of_forced_constraints_of_a_network_does_not_matter(case: Case, seed: int) -> None:
    analysis = analysis_of(case)
    is_forced = [isinstance(c, Equal) or not c.is_choice for c in analysis.constraints]
    forced = [c for c, own in zip(analysis.constraints, is_forced, strict=True) if own]
    random.Random(seed).shuffle(forced)
    supply = iter(forced)
    shuffled = [next(supply) if own else c for c, own in zip(analysis.constraints, is_forced, strict=True)]
    extents = extents_of(analysis)
    kept = solve_keep_sets(extents, analysis.seeds, shuffled)
    assert all(bool((kept[d] == analysis.kept[d]).all()) for d in extents)
