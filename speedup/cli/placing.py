"""Where, and in which type, what a command line names is put: `--device` and `--dtype`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from speedup.errors import InputError

_TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
}


def device_of(name: str | None) -> torch.device | None:
    """The device of this name; None where none is given.

    Raises:
        InputError: there is no such device here.
    """
    if name is None:
        return None
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"device {name!r} cannot be used here: {said}. Name another, such as cpu") from error
    return device


def dtype_of(name: str | None) -> torch.dtype | None:
    """The floating-point type of this name; None where none is given.

    Raises:
        InputError: there is no such type.
    """
    if name is not None and name not in _TYPES:
        raise InputError(f"there is no floating-point type {name!r}; choose one of {', '.join(_TYPES)}")
    return None if name is None else _TYPES[name]


def placed_model(model: nn.Module, device: torch.device | None, dtype: torch.dtype | None) -> nn.Module:
    """`model` itself, moved."""
    return model if device is None and dtype is None else model.to(device=device, dtype=dtype)


def placed_call(call: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """The tensors of a call, moved; of a type that is no floating-point one they stay."""
    match call:
        case Tensor():
            return call.to(device=device, dtype=dtype if call.is_floating_point() else None)
        case dict():
            return {name: placed_call(part, device, dtype) for name, part in call.items()}
        case tuple():
            return tuple(placed_call(part, device, dtype) for part in call)
    return call
