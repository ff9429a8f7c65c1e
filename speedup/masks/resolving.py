"""Masks in whatever form the user has them, against the model that they are for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from attrs import frozen
from torch import nn

from speedup.masks.files import read_masks
from speedup.masks.fitting import fitting_mask
from speedup.masks.forms import name_of_key, pruned_state, without_wrapper
from speedup.masks.names import Names, flatten_masks, parameter_name
from speedup.masks.problems import MaskProblem, RefusedError, error_of
from speedup.masks.value import Masks
from speedup.modules.copying import ModuleT, copy_module
from speedup.modules.plannable import require_weights

MaskSource = Mapping[Any, object] | str | os.PathLike[str] | Masks


def resolve_masks(model: nn.Module, masks: MaskSource | None) -> Masks:
    """Check masks in any accepted form against `model` and return them by canonical parameter name.

    Args:
        model: the model to mask; like `masks` it is not written, nor does the result share storage with it.
        masks: nothing; `{parameter: m}`; `{module: {"weight": m, "bias": m}}` as in NNI (Microsoft,
            `nni.compression`); both in one dict; the state dict of a model under `torch.nn.utils.prune`; a
            file of such a dict, by `torch.save` or, for parameter names only, `.safetensors`; or `Masks`.
            A key may also be the module or parameter itself, or a pair of a module and "weight"; what a
            wrapper put before all names (`module.`, `_orig_mod.`) is left out. An `m` is None, or zeros and
            ones in any dtype; it has its parameter's number of dimensions, each full or of size 1, or is a
            scalar; it is on its parameter's device, or on the CPU if that is "meta" (from a file, array or
            list it is moved). Two for one tied parameter keep what both keep. With `torch.nn.utils.prune`,
            "weight" means "weight_orig".

    Raises:
        UnknownNameError: a name is that of no module or no parameter.
        MaskTargetError: a name is that of a buffer, or of a computed or uninitialised tensor.
        MaskShapeError, MaskValueError, MaskDeviceError: a mask does not fit its parameter.
        MaskFileError: the file is missing or damaged, or holds something other than a dict of tensors.
        MaskError: `masks`, or one of them, is of a type that cannot be read as masks; or there are
            several problems, of different kinds. The message lists all that `check_masks` finds.
    """
    found = _read(model, masks)
    if found.refusals:
        raise error_of(found.problems) from found.refusals[0].__cause__
    if isinstance(masks, Masks) and all(masks.get(name) is mask for name, mask in found.keep.items()):
        return masks
    return Masks(found.keep)


def check_masks(model: nn.Module, masks: MaskSource | None) -> tuple[MaskProblem, ...]:
    """Everything that keeps `masks` from being those of `model`; empty when `plan_speedup` would take them.

    Args:
        model: the model to mask, only read.
        masks: in any form that `plan_speedup` takes.
    """
    return _read(model, masks).problems


@frozen(eq=False)
class _Reading:
    """The masks that fit, by canonical name in the model's order, and why others were refused."""

    keep: dict[str, torch.Tensor]
    refusals: tuple[RefusedError, ...]

    @property
    def problems(self) -> tuple[MaskProblem, ...]:
        return tuple(refusal.problem for refusal in self.refusals)


def _read(model: nn.Module, masks: MaskSource | None) -> _Reading:
    try:
        given = _given(masks)
    except RefusedError as refusal:
        return _Reading({}, (refusal,))
    names, from_file = Names.of(model), isinstance(masks, str | os.PathLike)
    given = without_wrapper({name_of_key(key, model): value for key, value in given.items()}, names.modules)
    keep: dict[str, torch.Tensor] = {}
    refusals: list[RefusedError] = []
    for name, value in _by_full_name(given, names, refusals):
        try:
            parameter = names.parameters[parameter_name(name, names)]
            mask = fitting_mask(name, value, parameter, movable=from_file)
        except RefusedError as refusal:
            refusals.append(refusal)
            continue
        canonical = names.canonical[id(parameter)]
        keep[canonical] = keep[canonical] & mask if canonical in keep else mask
    return _Reading({n: keep[n] for n in names.canonical.values() if n in keep}, tuple(refusals))


def _given(masks: MaskSource | None) -> Mapping[Any, object]:
    """The mapping that `masks` is, or that the file of this path holds."""
    found: object = read_masks(os.fspath(masks)) if isinstance(masks, str | os.PathLike) else masks
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        what = f"masks: pass a dict, a path, Masks or None, not a {type(found).__name__}"
        raise RefusedError("", what, "Its keys are names of parameters or modules.")
    return pruned_state(found)


def _by_full_name(
    given: Mapping[object, object], names: Names, refusals: list[RefusedError]
) -> Iterator[tuple[str, object]]:
    """The masks that are not None, each under module and parameter name joined."""
    for key, value in given.items():
        try:
            if isinstance(value, Mapping) and isinstance(key, str):
                names.require_module(key)
            inner = tuple(flatten_masks({key: value}))
        except RefusedError as refusal:
            refusals.append(refusal)
            continue
        yield from inner


def apply_masks(model: ModuleT, masks: MaskSource | None) -> ModuleT:
    """Return the masked model, against which a smaller one is judged.

    It is a deep copy of `model` in which each masked parameter is zero where its mask says so, and nothing
    else differs: classes, hooks, flags, ties, dtypes, devices and `requires_grad` are kept. `model` is not
    written. Raises what `resolve_masks` raises, `ModelError` if the weights are kept elsewhere (offloaded or
    partitioned), and `SpeedupError` if some part of `model` cannot be copied.
    """
    require_weights(model)
    parameters = dict(model.named_parameters())
    replacements = {}
    for name, mask in resolve_masks(model, masks).items():
        old = parameters[name].detach()
        # A product would leave NaN and -0.0 behind; `out` keeps the parameter's memory format.
        new = torch.where(mask.to(old.device), old, old.new_zeros(()), out=torch.empty_like(old))
        replacements[id(parameters[name])] = new
    return copy_module(model, replacements)
