"""The gate: a small model is compared with the plan, then with the masked model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from attrs import frozen
from torch import nn

from speedup.errors import ExportError, StructureError
from speedup.files.binding import bound
from speedup.masks import apply_masks
from speedup.plan import Plan
from speedup.planning.comparison import Comparison, scratch, tolerance
from speedup.planning.expected import actual_trace, first_difference
from speedup.spec.inputs import batch_size, fresh_inputs
from speedup.tracing.islands import retrace
from speedup.tracing.isolation import isolated

_SEED = 20_000


@frozen
class Verification:
    """What was checked: the largest relative error and the batch sizes that ran."""

    structure: bool
    error: float | None
    batch_sizes: tuple[int | None, ...]


def verify(
    plan: Plan,
    small: nn.Module,
    *,
    level: Literal["full", "structure"] = "full",
    model: nn.Module | None = None,
) -> Verification:
    """Check that `small` is what `plan` promises; `level` as in `materialize`.

    A plan that was read back takes as `model` one that was planned, or is like it.

    Raises:
        UnboundPlanError, StaleModelError: there is no model to compare with, or another than was planned.
        StructureError: the small model traces to other operations than planned.
        OutputError: its outputs differ from the masked model's; names the first such module.
    """
    with torch.inference_mode(mode=False):
        if model is not None and model is not plan.subject.model:
            plan = bound(plan, model)
        return _verified(plan, small, level)


def _verified(plan: Plan, small: nn.Module, level: str) -> Verification:
    subject = plan.subject
    if level == "structure" or not subject.is_rehearsed:
        _check_structure(plan, small)
    if level == "structure" or any(t.is_meta for t in subject.example.tensors):
        return Verification(True, None, ())
    return _compared(plan, small, tolerance(subject.computed))


def _check_structure(plan: Plan, small: nn.Module) -> None:
    try:
        graph = retrace(small, plan.subject.calls, plan.subject.islands).graph
        difference = first_difference(plan.expected, actual_trace(graph, plan.expected.opaque))
    except ExportError as error:
        raise StructureError(f"the small model cannot be traced: {error}") from error
    if difference is not None:
        raise StructureError(
            f"the small model does not compute what was planned: {difference.words}. Plan again with "
            "keep=[that module's path] to leave it as it is, and please report this."
        )


def _compared(plan: Plan, small: nn.Module, limit: float) -> Verification:
    masked = apply_masks(plan.subject.planned_model(), plan.subject.masks).eval()
    candidate = scratch(small).eval()
    generator = torch.Generator().manual_seed(_SEED)
    worst = 0.0
    with isolated():
        # Islands come first: what they return is not decided by thresholds, and they name the fault.
        for one in _islands(plan, masked, candidate, limit):
            worst = max(worst, _error_of_island(one, generator))
        errors = dict(_errors(Comparison(masked, candidate, plan.subject.example, limit), generator))
    return Verification(True, max(worst, *errors.values()), tuple(errors))


def _islands(plan: Plan, masked: nn.Module, candidate: nn.Module, limit: float) -> Iterator[Comparison]:
    if plan.subject.islands is not None:
        for island in plan.subject.islands.islands:
            modules = masked.get_submodule(island.path), candidate.get_submodule(island.path)
            yield from (Comparison(*modules, call, limit, island.path) for call in island.calls)


def _error_of_island(one: Comparison, generator: torch.Generator) -> float:
    """The error on the recorded inputs; others may be none that the module is ever called with."""
    own = one.example.tensors
    try:
        reference = one.reference(own)
    except Exception:
        if one.example.is_drawn:
            # Nor need what was drawn in place of recorded inputs be any.
            return 0.0
        raise
    try:
        other = one.reference(fresh_inputs(one.example, None, generator))
    except Exception:
        other = None
    return one.error(own, reference, other)


def _errors(one: Comparison, generator: torch.Generator) -> Iterator[tuple[int | None, float]]:
    """The error at the example's batch size and, where the model takes it, at another."""
    own = batch_size(one.example)
    sizes: list[int | None] = [None] if own is None else [own, 1 if own != 1 else 2]
    for size in sizes:
        inputs = [fresh_inputs(one.example, size, generator) for _ in range(2)]
        try:
            reference, other = (one.reference(tensors) for tensors in inputs)
        except Exception:
            # A model that fixes its batch size is compared at that size only.
            if size == own:
                raise
            continue
        yield size, one.error(inputs[0], reference, other)
