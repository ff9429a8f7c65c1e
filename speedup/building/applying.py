"""Apply edits to the modules of a fresh copy, whose tensors have their new sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from types import MappingProxyType

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.weight_norm import WeightNorm

from speedup.cutting.tensors import planned_shapes
from speedup.ir.edits import AdoptAttention, Edit, NewBias, RewriteForward, SetAttribute
from speedup.modules.attention import MultiheadAttention
from speedup.modules.attributes import set_attribute
from speedup.modules.copying import copy_module, held_tensors
from speedup.modules.rewritten import rewrite_module
from speedup.torch_api import pre_hooks_of


def change_modules(small: nn.Module, edits: Iterable[Edit]) -> None:
    """Apply, in place, the edits of modules to `small`, whose tensors have their new sizes."""
    edits = tuple(edits)
    with torch.no_grad():
        _give_biases(small, edits)
    _refresh_cached(small)
    _change_classes(small, edits)


def hollow_copy(
    model: nn.Module,
    edits: Iterable[Edit],
    device: torch.device | str | None = None,
    filled: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> nn.Module:
    """The small model without its weights: every tensor is one zero, expanded to its new shape.

    All are on `device`; None: each where that of the model is. Those named in `filled` have data.
    """
    edits = tuple(edits)
    held = held_tensors(model)
    shapes = planned_shapes({name: tuple(tensor.shape) for name, tensor in held.items()}, edits)
    with torch.no_grad():
        hollow = {
            id(tensor): torch.zeros((), dtype=tensor.dtype, device=device or tensor.device).expand(
                shapes[name]
            )
            for name, tensor in held.items()
        }
        hollow.update({id(held[name]): tensor for name, tensor in filled.items()})
        small = copy_module(model, hollow)
    change_modules(small, edits)
    return small


def _give_biases(small: nn.Module, edits: Iterable[Edit]) -> None:
    for edit in edits:
        if isinstance(edit, NewBias):
            module = small.get_submodule(edit.path)
            weight = beside(small, edit)
            value = edit.value.tensor.to(device=weight.device, dtype=weight.dtype, copy=True)
            bias = nn.Parameter(value, requires_grad=weight.requires_grad)
            module.register_parameter(edit.attribute, bias)


def beside(model: nn.Module, edit: NewBias) -> nn.Parameter:
    """The parameter that the new one is like: of its type, on its device, trained as it is."""
    module = model.get_submodule(edit.path)
    # A bias of a sum is given to a module whose layers hold all parameters.
    return next(chain(module.parameters(recurse=False), module.parameters(), model.parameters()))


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
