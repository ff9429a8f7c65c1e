"""One mask against the parameter that it is for: its shape, its values and its device."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from speedup.errors import MaskDeviceError, MaskShapeError, MaskTargetError, MaskValueError
from speedup.masks.problems import RefusedError
from speedup.masks.value import compact_mask


def fitting_mask(name: str, value: object, parameter: nn.Parameter, *, movable: bool) -> torch.Tensor:
    """`value` as a bool mask for `parameter`, compact where it can be.

    Raises:
        RefusedError: it does not fit.
    """
    if nn.parameter.is_lazy(parameter):
        raise RefusedError(
            name,
            f"mask for {name!r}: it is uninitialised; run the model once first",
            "It has no shape before that.",
            MaskTargetError,
        )
    mask = _as_tensor(name, value)
    fitted = compact_mask(_fit(name, mask, parameter.shape))
    return _binary(name, _place(name, fitted, parameter.device, movable or mask is not value))


def free_mask(name: str, value: object) -> torch.Tensor:
    """`value` as a bool mask on the CPU, whatever parameter it may be for.

    Raises:
        RefusedError: it cannot be read, or holds something other than zeros and ones.
    """
    return _binary(name, _as_tensor(name, value).cpu())


def mask_along(parameter: nn.Parameter, dim: int, gone: torch.Tensor) -> torch.Tensor:
    """A mask without the indices `gone` (bool) of `dim`, of size 1 elsewhere, on its parameter's device."""
    shape = [-1 if d == dim else 1 for d in range(parameter.ndim)]
    return ~gone.reshape(shape).to(_home(parameter.device))


def _home(device: torch.device) -> torch.device:
    """Where the masks of parameters on `device` are: their values are read."""
    return torch.device("cpu") if device.type == "meta" else device


def _as_tensor(name: str, value: object) -> torch.Tensor:
    """`value` itself if it is a strided tensor, else one of the same content."""
    if isinstance(value, torch.Tensor):
        return value if value.layout is torch.strided else value.to_dense()
    try:
        return torch.tensor(value, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"mask for {name!r}: pass a tensor, not a {type(value).__name__} ({error})"
        raise RefusedError(name, what, "Arrays and lists of zeros and ones are read too.") from error


def _fit(name: str, mask: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """`mask` with as many dimensions as `shape`, each full or, also where it was expanded, of size 1."""
    if mask.ndim == 0:
        return mask.reshape((1,) * len(shape))
    # Each choice of dimensions of the parameter that those of the mask could be meant for.
    choices = itertools.combinations(range(len(shape)), mask.ndim)
    fits = [dims for dims in choices if all(mask.shape[i] in (1, shape[dim]) for i, dim in enumerate(dims))]
    if fits and mask.ndim == len(shape):
        for dim, stride in enumerate(mask.stride()):
            mask = mask.narrow(dim, 0, 1) if stride == 0 and mask.shape[dim] > 1 else mask
        return mask
    shapes = [[mask.shape[dims.index(d)] if d in dims else 1 for d in range(len(shape))] for dims in fits]
    advice = ": use " + " or ".join(f"mask.reshape{tuple(sizes)}" for sizes in shapes) if fits else ""
    raise RefusedError(
        name,
        f"mask for {name!r} has shape {tuple(mask.shape)}, its parameter {tuple(shape)}",
        f"A mask needs as many dimensions, each of its parameter's size or 1{advice}.",
        MaskShapeError,
    )


def _place(name: str, mask: torch.Tensor, device: torch.device, movable: bool) -> torch.Tensor:
    """`mask` where it belongs: with its parameter, or where its values can be read if that has none."""
    target = _home(device)
    if mask.device == target or movable:
        return mask.to(target)
    what = (
        f"mask for {name!r} is on '{mask.device}', its parameter on '{device}'; make the mask on '{target}'"
    )
    raise RefusedError(name, what, "Its values are read there.", MaskDeviceError)


def _binary(name: str, mask: torch.Tensor) -> torch.Tensor:
    """`mask` as bool, given that it holds only zeros and ones."""
    if mask.dtype is torch.bool:
        return mask
    ones = mask.eq(1)
    wrong = mask.ne(0).ne_(ones)
    if not bool(wrong.any()):
        return ones
    index = tuple(map(int, torch.unravel_index(wrong.flatten().to(torch.uint8).argmax(), mask.shape)))
    raise RefusedError(
        name,
        f"mask for {name!r} holds {mask[index].item()} at index {index}; {int(wrong.sum())} of its"
        f" {mask.numel()} elements are neither 0 nor 1",
        "Binarise it first, for instance with mask > 0.5.",
        MaskValueError,
    )
