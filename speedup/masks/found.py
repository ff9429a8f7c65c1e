"""Masks that stand somewhere already: as zeros in weights, in the buffers of a pruned model, in a file.

All sources return a new dict from parameter name to bool keep-mask, True where the parameter is kept, of
the parameters that lose anything. Dicts of several sources join like any dicts; every function that takes
masks takes them.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from speedup.errors import MaskTargetError
from speedup.ir.paths import join_path
from speedup.masks.files import read_masks
from speedup.masks.fitting import free_mask
from speedup.masks.forms import pruned_state
from speedup.masks.names import flatten_masks
from speedup.masks.problems import RefusedError, error_of
from speedup.modules.plannable import require_weights

# Targets of NNI that are activations: `_input_0`, `_output_0`.
_ACTIVATIONS = ("_input_", "_output_")


def masks_from_zeros(model: nn.Module) -> dict[str, Tensor]:
    """Masks of the zeros that stand in the parameters of `model`, as left by any pruner.

    Planning counts zeros as masked by itself; written down, they can be looked at, saved, and laid on
    another copy of the model, such as one with the weights as they were before.

    Args:
        model: any module, only read. Parameters on the "meta" device hold no values and get no mask.

    Returns:
        Parameter name -> mask of the parameter's shape, on its device, for parameters that hold a zero.

    Raises:
        MaskTargetError: a parameter is uninitialised.
        ModelError: the weights are kept elsewhere, offloaded or partitioned.
    """
    require_weights(model)
    masks: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise MaskTargetError(f"parameter {name!r} is uninitialised; run the model once first.")
        if not parameter.is_meta:
            masks[name] = parameter.detach() != 0
    return _masking(masks)


def masks_from_prune(model: nn.Module) -> dict[str, Tensor]:
    """Masks that `torch.nn.utils.prune` keeps in `model`, structured, unstructured and global ones.

    Of several prunings of one parameter, torch holds the product.

    Args:
        model: any module, only read. Where nothing is pruned, or no longer since `prune.remove`, there is
            no mask: see `masks_from_zeros`.

    Returns:
        Name -> mask of the parameter's shape, on its device. The name is the one from before the pruning
        ("conv.weight"), good for the model both as it is and after `prune.remove`.

    Raises:
        ModelError: the weights are kept elsewhere, offloaded or partitioned.
    """
    require_weights(model)
    masks: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        buffers = dict(module.named_buffers(recurse=False))
        for original, parameter in module.named_parameters(recurse=False):
            name = original.removesuffix("_orig")
            mask = buffers.get(f"{name}_mask")
            if name != original and mask is not None and mask.shape == parameter.shape:
                masks[join_path(path, name)] = mask != 0
    return _masking(masks)


def masks_from_file(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Masks from a file: one that `torch.save` wrote, or `.safetensors` with parameter names.

    Read are the forms of dict that `plan_speedup` takes, which include what NNI 3 (`nni.compression`)
    hands to its `ModelSpeedup`: `{module: {"weight": mask, "bias": mask or None}}`, a `defaultdict` too. Its
    masks of activations (`_output_0`) may be there where they mask nothing. Of the state dict of a model
    under `torch.nn.utils.prune`, its masks are read. Nothing in a file is executed.

    Args:
        path: the file. It is read onto the CPU.

    Returns:
        Parameter name -> mask of the shape it was stored in. Whether they fit a model,
        `check_masks(model, masks)` says.

    Raises:
        MaskFileError: the file is missing or damaged, or holds something other than a dict of tensors.
        MaskValueError: a mask holds something other than zeros and ones.
        MaskTargetError: a mask is for an activation (NNI's `_input_0`, `_output_0`), and masks some of it.
        MaskError: there are several problems, of different kinds.
    """
    refusals: list[RefusedError] = []
    masks: dict[str, Tensor] = {}
    try:
        for name, value in flatten_masks(pruned_state(read_masks(os.fspath(path)))):
            try:
                masks[name] = _of_parameter(name, value)
            except RefusedError as refusal:
                refusals.append(refusal)
    except RefusedError as refusal:
        refusals.append(refusal)
    if refusals:
        raise error_of([refusal.problem for refusal in refusals]) from refusals[0].__cause__
    return _masking(masks)


def _of_parameter(name: str, value: object) -> Tensor:
    if name.rpartition(".")[2].startswith(_ACTIVATIONS) and not bool(free_mask(name, value).all()):
        what = f"mask for {name!r}: it is for what the module takes or returns, no parameter"
        advice = "Mask the rows, and the biases, that compute those channels instead."
        raise RefusedError(name, what, advice, MaskTargetError)
    return free_mask(name, value)


def _masking(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those that mask anything."""
    return {name: mask for name, mask in masks.items() if not torch.all(mask)}
