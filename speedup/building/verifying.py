"""The gate: a small model is compared with the plan, then with the masked model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

import torch
from attrs import frozen
from torch import Tensor, nn

from speedup.building.binding import bind_plan, current_plan, first_words, plain_model
from speedup.building.comparison import Comparison, Leaves, error_line, rows_like, scratch_copy, tolerance
from speedup.building.draws import Draw, Values, draws, first_taken
from speedup.building.expected import actual_trace, first_difference
from speedup.cutting.tensors import apply_edits
from speedup.errors import ExportError, InputError, OutputError, StructureError
from speedup.ir.inputs import batch_size
from speedup.masks import apply_masks
from speedup.modules.copying import held_tensors
from speedup.modules.isolation import isolated
from speedup.modules.surroundings import is_tensor, surroundings_kept
from speedup.plan import Plan
from speedup.sparse.applying import dense_model
from speedup.tracing.islands import retrace

_SEED = 20_000


Level = Literal["full", "structure"]


@frozen
class Drawn:
    """The inputs of one comparison of outputs.

    `call` is the number of the example call that they are like, `batch` their first extent, None where the
    call's tensors share none. `floats` and `integers` (booleans too) say which values were redrawn; None
    where the call has no such tensors.
    """

    call: int
    batch: int | None
    floats: Values | None
    integers: Values | None


@frozen
class Verification:
    """What was checked: the largest relative error and the batch sizes that ran.

    `level` is "full" where outputs were compared; `drawn` says on which inputs, one for each comparison.
    """

    structure: bool
    error: float | None
    batch_sizes: tuple[int | None, ...]
    level: Level = "structure"
    drawn: tuple[Drawn, ...] = ()


def verify(
    plan: Plan,
    small: nn.Module,
    *,
    level: Level = "full",
    model: nn.Module | None = None,
) -> Verification:
    """Check that `small` is what `plan` promises; `level` as in `materialize`.

    Outputs are compared on inputs like the example's. Their integers and booleans are redrawn from the
    example's own where the masked model takes such a draw, else they stay as they are in the example; and
    where it takes none with other floats either, the example itself is compared on.

    A plan that was read back takes as `model` one that was planned, or is like it.

    Raises:
        UnboundPlanError, StaleModelError: there is no model to compare with, or another than was planned.
        ModelError: the model's weights are not in it, see `plan_speedup`.
        InputError: the masked model does not run on its example.
        StructureError: the small model traces to other operations than planned.
        OutputError: its outputs differ from the masked model's, or it raises an error where that one runs;
            names the first such module. Of a small model that was trained since it says that.
    """
    with torch.inference_mode(mode=False):
        if model is not None and model is not plan.subject.model:
            plan = bind_plan(plan, model)
        try:
            return _verified(plan, small, level)
        except OutputError as error:
            _require_planned_numbers(plan, small, error)
            raise


def _require_planned_numbers(plan: Plan, small: nn.Module, error: OutputError) -> None:
    """Raise where other outputs are no fault of the plan, as one of the models has other weights by now."""
    plan = current_plan(plan, None)
    model = plain_model(plan).model
    held = held_tensors(model)
    planned = {**held, **apply_edits(held, plan.subject.masks, plan.edits)}
    own = held_tensors(small).items()
    other = [name for name, tensor in own if name in planned and not _is_equal(tensor, planned[name])]
    if other:
        raise OutputError(
            f"{error} Besides, the small model holds other numbers than the plan gives it "
            f"({first_words(map(repr, other))}), as it does once it was trained: its outputs are not the "
            "masked model's any more, and need not be. Compare outputs before training; level='structure' "
            "checks what holds after it, too."
        ) from error


def _is_equal(tensor: Tensor, planned: Tensor) -> bool:
    """Whether the numbers are the planned ones, wherever and in whatever type they are by now."""
    if tensor.shape != planned.shape or tensor.is_meta or planned.is_meta:
        return tensor.shape == planned.shape
    return torch.equal(tensor.detach(), planned.detach().to(device=tensor.device, dtype=tensor.dtype))


def _verified(plan: Plan, small: nn.Module, level: Level) -> Verification:
    subject = plan.subject
    if level == "structure" or not subject.is_rehearsed:
        check_structure(plan, dense_model(small))
    if level == "structure" or any(t.is_meta for call in subject.calls for t in call.tensors):
        return Verification(True, None, ())
    return _compared(plan, small, tolerance(subject.computed))


def check_structure(plan: Plan, small: nn.Module) -> None:
    """Raise unless `small`, which need have no weights, traces to the operations that `plan` expects.

    Raises:
        StructureError: names the first operation that is another one.
    """
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
    candidate = scratch_copy(small).eval()
    generator = torch.Generator().manual_seed(_SEED)
    worst = 0.0
    with isolated(), surroundings_kept(masked, is_tensor):
        # Islands come first: what they return is not decided by thresholds, and they name the fault.
        for one in _islands(plan, masked, candidate, limit):
            worst = max(worst, _error_of_island(one, generator))
        errors = [
            found
            for number, call in enumerate(plan.subject.calls)
            for found in _errors(
                number, Comparison(masked, candidate, call, limit), generator, call in plan.subject.found
            )
        ]
    drawn = tuple(one for one, _ in errors)
    sizes = tuple(dict.fromkeys(one.batch for one in drawn))
    return Verification(True, max(worst, *(error for _, error in errors)), sizes, "full", drawn)


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
    except Exception as error:
        if one.example.is_drawn:
            # Nor need what was drawn in place of recorded inputs be any.
            return 0.0
        raise _does_not_run(one, error) from error
    return one.error(own, reference, _other(one, None, generator))


def _errors(
    call: int, one: Comparison, generator: torch.Generator, is_found: bool
) -> Iterator[tuple[Drawn, float]]:
    """The error at the example's batch size and, where the model takes it, at another."""
    taken = list(_references(call, one, generator, is_found))
    for drawn, draw, reference in taken:
        rows = (rows_like(reference, found) for _, other, found in taken if other is not draw)
        # How much outputs vary is seen from row to row, where each input has one.
        varied = next((leaves for leaves in rows if leaves is not None), None)
        other = _other(one, drawn.batch, generator) if varied is None else varied
        yield drawn, one.error(draw.tensors, reference, other)


def _references(
    call: int, one: Comparison, generator: torch.Generator, is_found: bool
) -> Iterator[tuple[Drawn, Draw, Leaves]]:
    """Draws of different batch sizes, and what the masked model returns there."""
    own = batch_size(one.example)
    for size in (None,) if own is None else (own, 1 if own != 1 else 2):
        try:
            draw, reference = first_taken(draws(one.example, size, generator), one.reference)
        except Exception as error:
            # A model that fixes its batch size is compared at that size only. One that was planned at a size
            # which it can be traced at, but does not take (a table that is too short), is never called so.
            if size == own and is_found:
                return
            if size == own:
                raise _does_not_run(one, error) from error
            continue
        yield Drawn(call, size, draw.floats, draw.integers), draw, reference


def _other(one: Comparison, size: int | None, generator: torch.Generator) -> Leaves | None:
    """What the masked model returns on one draw more, None where it takes none."""
    with suppress(Exception):
        return first_taken(draws(one.example, size, generator), one.reference)[1]
    return None


def _does_not_run(one: Comparison, error: Exception) -> InputError:
    module = f"module {one.path!r} of the masked model" if one.path else "the masked model"
    given = "inputs drawn in place of its example" if one.example.is_drawn else "its example"
    return InputError(
        f"{module} does not run on {given}, so that there is nothing to compare the small model with: "
        f"{type(error).__name__}: {error_line(error)}. Plan with an input that it takes in eval mode, or "
        'pass verify="structure" to compare no outputs.'
    )
