"""Apply edits: to tensors, as a pure function, and to the modules of a fresh copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from itertools import chain
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.weight_norm import WeightNorm

from speedup.engine.lattice import to_double
from speedup.ir.edits import (
    AddToParameter,
    AdoptAttention,
    CombineColumns,
    Edit,
    MergeColumns,
    ModuleEdit,
    NewBias,
    RewriteForward,
    SetAttribute,
    Slice,
    SliceGroups,
    TensorEdit,
)
from speedup.ir.graph import Shape
from speedup.modules.attention import MultiheadAttention
from speedup.modules.attributes import set_attribute
from speedup.modules.copying import copy_module
from speedup.modules.rewritten import rewrite_module
from speedup.torch_api import pre_hooks_of


def apply_edits(
    tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor], edits: Iterable[Edit]
) -> dict[str, Tensor]:
    """The new tensors, by name, of all that masks or edits touch. A pure function of tensors.

    `tensors` maps canonical names to the planned model's parameters and buffers; `masks` are
    keep-masks by name. Untouched names are absent from the result.
    """
    by_name: dict[str, list[TensorEdit]] = {name: [] for name in masks}
    for edit in edits:
        if not isinstance(edit, ModuleEdit):
            by_name.setdefault(edit.name, []).append(edit)
    # One tensor at a time: a masked copy at full size lives no longer than its own edits.
    return {
        name: _change_tensor(tensors[name].detach(), masks.get(name), own) for name, own in by_name.items()
    }


def _change_tensor(tensor: Tensor, mask: Tensor | None, edits: Iterable[TensorEdit]) -> Tensor:
    if mask is not None:
        zero = torch.zeros((), dtype=tensor.dtype, device=tensor.device)
        tensor = torch.where(mask.to(tensor.device), tensor, zero)
    for edit in edits:
        tensor = _apply(edit, tensor)
    return tensor.contiguous()


def _apply(edit: TensorEdit, tensor: Tensor) -> Tensor:
    match edit:
        case Slice(_, dim, indices):
            return tensor.index_select(dim, torch.tensor(indices, device=tensor.device))
        case SliceGroups(_, rows, columns):
            height = torch.tensor(rows, device=tensor.device)
            width = torch.tensor(columns, device=tensor.device)
            return tensor[height[:, None], width]
        case AddToParameter(_, delta, _):
            return (to_double(tensor) + delta.tensor.to(tensor.device)).to(tensor.dtype)
        case MergeColumns():
            return _combine_columns(
                edit, (edit.into,), torch.tensor(edit.factors, dtype=torch.float64), tensor
            )
        case CombineColumns():
            return _combine_columns(edit, edit.into, edit.factors.tensor, tensor)


def _combine_columns(
    edit: MergeColumns | CombineColumns, into: tuple[int, ...], factors: Tensor, tensor: Tensor
) -> Tensor:
    result = tensor.clone()
    part = result if edit.rows is None else result.narrow(0, edit.rows[0], edit.rows[1] - edit.rows[0])
    columns, targets = (torch.tensor(found, device=tensor.device) for found in (edit.columns, into))
    carried = part.index_select(edit.dim, columns).double().movedim(edit.dim, -1) @ factors.to(tensor.device)
    carried = carried.unsqueeze(edit.dim) if factors.ndim == 1 else carried.movedim(-1, edit.dim)
    total = part.index_select(edit.dim, targets).double() + carried
    part.index_copy_(edit.dim, targets, total.to(tensor.dtype))
    return result


def change_modules(small: nn.Module, edits: Iterable[Edit]) -> None:
    """Apply, in place, the edits of modules to `small`, whose tensors have their new sizes."""
    edits = tuple(edits)
    with torch.no_grad():
        _give_biases(small, edits)
    _refresh_cached(small)
    _change_classes(small, edits)


def hollow_copy(model: nn.Module, edits: Iterable[Edit]) -> nn.Module:
    """The small model without its weights: every tensor is one zero, expanded to its new shape."""
    edits = tuple(edits)
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    by_name: dict[str, list[Slice | SliceGroups]] = {}
    for edit in edits:
        if isinstance(edit, Slice | SliceGroups):
            by_name.setdefault(edit.name, []).append(edit)
    with torch.no_grad():
        hollow = {id(tensor): _hollow(tensor, by_name.get(name, ())) for name, tensor in held.items()}
        small = copy_module(model, hollow)
    change_modules(small, edits)
    return small


def _hollow(tensor: Tensor, edits: Iterable[Slice | SliceGroups]) -> Tensor:
    shape = reduce(_slice_shape, edits, tuple(tensor.shape))
    return torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(shape)


def _slice_shape(shape: Shape, edit: Slice | SliceGroups) -> Shape:
    match edit:
        case Slice(_, dim, indices):
            return *shape[:dim], len(indices), *shape[dim + 1 :]
        case SliceGroups(_, rows, columns):
            return len(rows), len(columns[0]), *shape[2:]


def planned_shapes(shapes: Mapping[str, Shape], edits: Iterable[Edit]) -> Mapping[str, Shape]:
    """The shapes by name of the small model's tensors, those of new biases included.

    `shapes` are those of the planned model's, by the names that the edits use.
    """
    found = dict(shapes)
    for edit in edits:
        if isinstance(edit, Slice | SliceGroups):
            found[edit.name] = _slice_shape(found[edit.name], edit)
        elif isinstance(edit, NewBias):
            found[edit.name] = tuple(edit.value.tensor.shape)
    return MappingProxyType(found)


def _give_biases(small: nn.Module, edits: Iterable[Edit]) -> None:
    for edit in edits:
        if isinstance(edit, NewBias):
            module = small.get_submodule(edit.path)
            # A bias of a sum is given to a module whose layers hold all parameters.
            weight = next(chain(module.parameters(recurse=False), module.parameters(), small.parameters()))
            value = edit.value.tensor.to(device=weight.device, dtype=weight.dtype, copy=True)
            bias = nn.Parameter(value, requires_grad=weight.requires_grad)
            module.register_parameter(edit.attribute, bias)


def _refresh_cached(small: nn.Module) -> None:
    """Recompute the weights that `torch.nn.utils` keeps on modules between forwards."""
    for module in small.modules():
        for hook in pre_hooks_of(module).values():
            if isinstance(hook, BasePruningMethod | WeightNorm):
                hook(module, None)


def _change_classes(small: nn.Module, edits: Iterable[Edit]) -> None:
    for edit in edits:
        if isinstance(edit, AdoptAttention):
            MultiheadAttention.adopt(small.get_submodule(edit.path))
        elif isinstance(edit, SetAttribute):
            set_attribute(small.get_submodule(edit.path), edit.attribute, edit.after)
        elif isinstance(edit, RewriteForward):
            rewrite_module(small.get_submodule(edit.path), edit.functions)
