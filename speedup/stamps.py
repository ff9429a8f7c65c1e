"""Fingerprints of a model, to notice that it changed between planning and materializing."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor, nn

from speedup.graph import Shape


@frozen
class TensorStamp:
    """Identity and content of one parameter or buffer."""

    name: str
    shape: Shape
    dtype: torch.dtype
    address: int
    checksum: int


@frozen
class ModuleStamp:
    """Class of one module and, for torch's own, its settings."""

    name: str
    type: type
    settings: str


Stamp = TensorStamp | ModuleStamp


def stamps_of(model: nn.Module) -> tuple[Stamp, ...]:
    """Stamps of all parameters, buffers and modules. Reads the tensors once, at memory speed."""
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    tensors = [TensorStamp(n, tuple(t.shape), t.dtype, id(t), _checksum(t)) for n, t in named]
    modules = [
        ModuleStamp(name, type(module), module.extra_repr() if _is_torch(module) else "")
        for name, module in model.named_modules(remove_duplicate=False)
    ]
    return (*tensors, *modules)


def _is_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def _checksum(tensor: Tensor) -> int:
    """The tensor's bytes added up as 64-bit integers: exact, and the same in any order."""
    if tensor.is_meta or not tensor.numel():
        return 0
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    whole = flat.numel() // 8 * 8
    total = int(flat[whole:].sum())
    return total + (int(flat[:whole].view(torch.int64).sum()) if whole else 0)


def changes(before: tuple[Stamp, ...], now: tuple[Stamp, ...]) -> tuple[str, ...]:
    """Names of what differs, in the order of `before`."""
    first = {(type(stamp), stamp.name): stamp for stamp in before}
    second = {(type(stamp), stamp.name): stamp for stamp in now}
    keys = {**first, **second}
    return tuple(dict.fromkeys(key[1] for key in keys if first.get(key) != second.get(key)))
