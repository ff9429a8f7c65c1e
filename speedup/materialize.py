"""`materialize`: apply a plan to its model's tensors and build the new, smaller module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.weight_norm import WeightNorm

from speedup.copying import copy_module
from speedup.edits import AddToParameter, Edit, MergeColumns, NewBias, SetAttribute, Slice, SliceGroups
from speedup.errors import InputError, StaleModelError
from speedup.lattice import wide
from speedup.plan import Plan
from speedup.stamps import changes, stamps_of
from speedup.verify import verify as check

Level = Literal["full", "structure", "none"]
TensorEdit = Slice | SliceGroups | AddToParameter | MergeColumns


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
        _give_biases(small, plan.edits)
    _refresh_cached(small)
    _set_attributes(small, plan.edits)
    return small


def apply_edits(
    tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor], edits: Iterable[Edit]
) -> dict[str, Tensor]:
    """The new tensors, by name, of all that masks or edits touch. A pure function of tensors.

    `tensors` maps canonical names to the planned model's parameters and buffers; `masks` are
    keep-masks by name. Untouched names are absent from the result.
    """
    by_name: dict[str, list[TensorEdit]] = {name: [] for name in masks}
    for edit in edits:
        if not isinstance(edit, NewBias | SetAttribute):
            by_name.setdefault(edit.name, []).append(edit)
    # One tensor at a time: a masked copy at full size lives no longer than its own edits.
    return {name: _changed(tensors[name].detach(), masks.get(name), own) for name, own in by_name.items()}


def _changed(tensor: Tensor, mask: Tensor | None, edits: Iterable[TensorEdit]) -> Tensor:
    if mask is not None:
        zero = torch.zeros((), dtype=tensor.dtype, device=tensor.device)
        tensor = torch.where(mask.to(tensor.device), tensor, zero)
    for edit in edits:
        tensor = _applied(edit, tensor)
    return tensor.contiguous()


def _applied(edit: TensorEdit, tensor: Tensor) -> Tensor:
    match edit:
        case Slice(_, dim, indices):
            return tensor.index_select(dim, torch.tensor(indices, device=tensor.device))
        case SliceGroups(_, rows, columns):
            height = torch.tensor(rows, device=tensor.device)
            width = torch.tensor(columns, device=tensor.device)
            return tensor[height[:, None], width]
        case AddToParameter(_, delta, _):
            return (wide(tensor) + delta.tensor.to(tensor.device)).to(tensor.dtype)
        case MergeColumns():
            return _merged(edit, tensor)


def _merged(edit: MergeColumns, tensor: Tensor) -> Tensor:
    result = tensor.clone()
    part = result if edit.rows is None else result.narrow(0, edit.rows[0], edit.rows[1] - edit.rows[0])
    columns = torch.tensor(edit.columns, device=tensor.device)
    factors = torch.tensor(edit.factors, dtype=torch.float64, device=tensor.device)
    carried = part.index_select(edit.dim, columns).double().movedim(edit.dim, -1) @ factors
    target = part.select(edit.dim, edit.into)
    target.copy_((target.double() + carried).to(tensor.dtype))
    return result


def _replacements(plan: Plan) -> dict[int, Tensor]:
    model = plan.subject.model
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    changed = apply_edits(held, plan.subject.masks, plan.edits)
    return {id(held[name]): tensor for name, tensor in changed.items()}


def _give_biases(small: nn.Module, edits: Iterable[Edit]) -> None:
    for edit in edits:
        if isinstance(edit, NewBias):
            module = small.get_submodule(edit.path)
            weight = next(module.parameters(recurse=False))
            value = edit.value.tensor.to(device=weight.device, dtype=weight.dtype, copy=True)
            module.register_parameter("bias", nn.Parameter(value, requires_grad=weight.requires_grad))


def _refresh_cached(small: nn.Module) -> None:
    """Recompute the weights that `torch.nn.utils` keeps on modules between forwards."""
    for module in small.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, BasePruningMethod | WeightNorm):
                hook(module, None)


def _set_attributes(small: nn.Module, edits: Iterable[Edit]) -> None:
    for edit in edits:
        if isinstance(edit, SetAttribute):
            module = small.get_submodule(edit.path)
            if hasattr(module, edit.attribute):
                setattr(module, edit.attribute, edit.after)
