"""`materialize`: apply a plan to its model's tensors and build the new, smaller module."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from speedup.building.applying import change_modules
from speedup.building.binding import current_plan, plain_model
from speedup.building.pretrained import let_save
from speedup.building.streaming import build_from_checkpoint
from speedup.building.verifying import verify as check
from speedup.cutting.tensors import apply_edits
from speedup.errors import InputError
from speedup.modules.copying import copy_module, held_tensors
from speedup.plan import Plan
from speedup.sparse.applying import with_kernels
from speedup.sparse.choices import Choices
from speedup.writing import StrPath

Level = Literal["full", "structure", "none"]


def materialize(
    plan: Plan,
    model: nn.Module | None = None,
    *,
    checkpoint: StrPath | None = None,
    device: torch.device | str | None = None,
    verify: Level = "full",
    choices: Choices | None = None,
) -> nn.Module:
    """Build the small model of `plan`: same classes, names, hooks, flags; smaller tensors.

    It shares no storage with the planned model, which is not changed. Peak memory is that of
    both models. Weights that `torch.nn.utils` computes before each forward are plain parameters of it, under
    the names that they have without that ("conv.weight"), unless they were planned to stay as they are. A
    model of transformers saves itself, by `save_pretrained`, as `speedup.hf.save_pretrained` does; for that
    it holds on to the plan, with its masks.

    Args:
        plan: what `plan_speedup` or `Plan.from_json` returned.
        model: the model to make smaller, if that is not the very object that was planned. It must have the
            planned names, shapes, types and classes, and hold the planned numbers. Other weights do only
            where the plan follows from the masks alone (no constants were computed from weights, and all
            that goes is masked). Source that the plan holds is only run where it is `model`'s own with other
            numbers in it.
        checkpoint: a folder in the form of Hugging Face (`model.safetensors`, or shards and an index), or one
            safetensors file, that the small model's tensors are read from: only rows that stay, a few at a
            time, so that nothing larger than the small model is ever in memory. The model then gives its
            structure, and the buffers that state dicts leave out; it may be hollow (its parameters on the
            meta device), and another one of any weights does. The types are the checkpoint's.
        device: with `checkpoint`, where the tensors go; the CPU by default.
        verify: "full" re-exports the small model, compares it with the plan, and runs it
            against the masked model on inputs like the example at two batch sizes, as far as the
            masked model takes them, see `verify`; "structure" only compares the traces; "none" checks
            nothing. Of a checkpoint, "full" compares the traces alone, as there is no masked model to run.
        choices: what `tune` measured: the layers that gain by it get sparse kernels in place of dense
            weights, see `speedup.sparse`. These are verified by their outputs, the trace is that of the same
            model with dense weights. None: all stay dense.

    Raises:
        InputError: `verify` is none of these, the masked model does not run on its example, `choices` are
            none, or `device` is given without `checkpoint`.
        ForeignChoicesError: the choices were measured on another machine or for another model.
        ModelError: the weights of `model` are not in it, see `plan_speedup`; or a buffer's numbers are
            neither in the checkpoint nor in it.
        CheckpointError: the checkpoint lacks something, is damaged, packed or another model's.
        UnboundPlanError: the plan was read back, and `model` is missing.
        StaleModelError: the model changed since planning. Its kinds are for another `model`:
            `ArchitectureError` says where it is unlike the planned one, `OtherWeightsError` that the plan
            does not hold for its weights.
        ForeignSourceError: source in the plan is not that of the model's class.
        StructureError, OutputError: the small model is not equivalent; it is not handed out.
    """
    if verify not in get_args(Level):
        raise InputError(f"verify={verify!r} is no level; choose one of {', '.join(get_args(Level))}")
    if choices is not None and not isinstance(choices, Choices):
        raise InputError(
            f"choices is a {type(choices).__name__}; pass what tune(plan, x) or Choices.load returned"
        )
    if device is not None and checkpoint is None:
        raise InputError(
            "device= is for checkpoint=; a model that is in memory stays where it is: small.to()"
        )
    with torch.inference_mode(mode=False):
        if checkpoint is not None:
            small = build_from_checkpoint(plan, model, checkpoint, device, checked=verify != "none")
        else:
            plan = current_plan(plan, model)
            small = cut_model(plan, plain_model(plan).model)
        if choices is not None:
            small = with_kernels(small, choices)
        if checkpoint is None and verify != "none":
            check(plan, small, level=verify)
        let_save(small, plan)
    return small


def cut_model(plan: Plan, model: nn.Module) -> nn.Module:
    """The small model of `model`, which the plan holds for; nothing is checked."""
    with torch.no_grad():
        small = copy_module(model, _replacements(plan, model))
    change_modules(small, plan.edits)
    return small


def _replacements(plan: Plan, model: nn.Module) -> dict[int, Tensor]:
    held = held_tensors(model)
    changed = apply_edits(held, plan.subject.masks, plan.edits)
    return {id(held[name]): tensor for name, tensor in changed.items()}
