"""`materialize`: apply a plan to its model's tensors and build the new, smaller module."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from speedup.building import apply_edits, change_modules
from speedup.copying import copy_module
from speedup.errors import InputError, StaleModelError
from speedup.plan import Plan
from speedup.stamps import changes, stamps_of
from speedup.verify import verify as check

Level = Literal["full", "structure", "none"]


def materialize(plan: Plan, *, verify: Level = "full") -> nn.Module:
    """Build the small model of `plan`: same classes, names, hooks, flags; smaller tensors.

    It shares no storage with the planned model, which is not changed. Peak memory is that of
    both models.

    Args:
        plan: what `plan_speedup` returned.
        verify: "full" re-exports the small model, compares it with the plan, and runs it
            against the masked model on fresh inputs at two batch sizes; "structure" only
            compares the traces; "none" checks nothing.

    Raises:
        InputError: `verify` is none of these.
        StaleModelError: the model's tensors changed since planning.
        StructureError, OutputError: the small model is not equivalent; it is not handed out.
    """
    if verify not in get_args(Level):
        raise InputError(f"verify={verify!r} is no level; choose one of {', '.join(get_args(Level))}")
    with torch.inference_mode(mode=False):
        small = _built(plan)
        if verify != "none":
            check(plan, small, level=verify)
    return small


def _built(plan: Plan) -> nn.Module:
    subject = plan.subject
    changed = changes(subject.stamps, stamps_of(subject.model))
    if changed:
        names = ", ".join(name or "the model itself" for name in changed[:3])
        raise StaleModelError(
            f"the model changed since it was planned: {names}{' and others' if len(changed) > 3 else ''}. "
            "Plan it again."
        )
    with torch.no_grad():
        small = copy_module(subject.model, _replacements(plan))
    change_modules(small, plan.edits)
    return small


def _replacements(plan: Plan) -> dict[int, Tensor]:
    model = plan.subject.model
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    changed = apply_edits(held, plan.subject.masks, plan.edits)
    return {id(held[name]): tensor for name, tensor in changed.items()}
