"""Tensors, their types, and lists of indices, as text that gives back every bit."""

from __future__ import annotations

import base64
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
# Longer than any dimension that a plan lists the indices of, so that a short text cannot fill the memory.
_MOST = 1 << 28
# The same for all entries of a mask.
_MOST_ENTRIES = 1 << 32


def type_text(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def type_from_text(text: object) -> torch.dtype:
    """The type that `type_text` wrote.

    Raises:
        ValueError: there is none of this name.
    """
    found = getattr(torch, text, None) if isinstance(text, str) else None
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{text!r} is no type of tensors")
    return found


def bytes_of(tensor: Tensor) -> bytes:
    """The elements of a tensor in order, as the machine holds them."""
    return bytes(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def tensor_text(tensor: Tensor) -> dict[str, Any]:
    """Type, shape, and the bytes compressed by zlib, in base64."""
    data = base64.b64encode(zlib.compress(bytes_of(tensor))).decode()
    return {"dtype": type_text(tensor.dtype), "shape": list(tensor.shape), "data": data}


def tensor_from_text(given: object) -> Tensor:
    """The tensor that `tensor_text` wrote, on the CPU.

    Raises:
        ValueError: it says something else.
    """
    if not isinstance(given, Mapping) or set(given) != {"dtype", "shape", "data"}:
        raise ValueError("a tensor is written as dtype, shape and data")
    dtype, shape = type_from_text(given["dtype"]), shape_from_text(given["shape"])
    size = math.prod(shape) * dtype.itemsize
    try:
        packed = base64.b64decode(given["data"], validate=True)
        unpacking = zlib.decompressobj()
        # No more than the shape asks for is ever unpacked.
        found = unpacking.decompress(packed, size + 1)
    except (TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"the data of a tensor are damaged: {error}") from error
    if len(found) != size or not unpacking.eof:
        raise ValueError(f"the data of a tensor are not the {size} bytes of shape {shape}")
    if dtype is torch.bool and found.strip(b"\0\1"):
        raise ValueError("the data of a mask hold something other than 0 and 1")
    flat = (
        torch.frombuffer(bytearray(found), dtype=torch.uint8) if found else torch.empty(0, dtype=torch.uint8)
    )
    return flat.view(dtype).reshape(shape)


def shape_from_text(given: object) -> tuple[int, ...]:
    """A shape, from a list of integers.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(given, list) or not all(type(n) is int and n >= 0 for n in given):
        raise ValueError(f"a shape is a list of sizes, not {given!r}")
    return tuple(given)


def indices_text(indices: Iterable[int]) -> str:
    """`0-13,15,17-63` for these indices in this order."""
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in _runs(indices))


def _runs(indices: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of indices that follow one another."""
    first = last = None
    for index in indices:
        if first is None or last is None:
            first = last = index
        elif index == last + 1:
            last = index
        else:
            yield first, last
            first = last = index
    if first is not None and last is not None:
        yield first, last


def indices_from_text(given: object) -> tuple[int, ...]:
    """The indices that `indices_text` wrote.

    Raises:
        ValueError: it says something else.
    """
    found: list[int] = []
    for part in given.split(",") if isinstance(given, str) and given else ():
        run = _RANGE.fullmatch(part)
        if run is None:
            raise ValueError(f"{part!r} is no index and no range of indices such as 0-13")
        first, last = int(run[1]), int(run[2] or run[1])
        if last < first or last - first + len(found) > _MOST:
            raise ValueError(f"{part!r} is no range of indices")
        found.extend(range(first, last + 1))
    if not isinstance(given, str):
        raise ValueError(f"indices are written as in '0-13,15', not as {given!r}")
    return tuple(found)


def mask_text(mask: Tensor, write: Callable[[Iterable[int]], Any] = indices_text) -> dict[str, Any]:
    """A keep-mask: the indices that it drops, if it varies along one dimension only, else the whole of it.

    `write` puts these indices down.
    """
    if mask.numel() > max(mask.shape, default=1):
        along = _only_dimension(mask)
        if along is None:
            return tensor_text(mask)
        profile = mask[tuple(slice(None) if dim == along else 0 for dim in range(mask.ndim))]
        return {"shape": list(mask.shape), "along": along, "dropped": write(_dropped(profile))}
    return {"shape": list(mask.shape), "dropped": write(_dropped(mask.reshape(-1)))}


def _dropped(mask: Tensor) -> list[int]:
    found: list[int] = (~mask).nonzero().reshape(-1).tolist()
    return found


def _only_dimension(mask: Tensor) -> int | None:
    """The dimension along which alone the mask varies."""
    for dim in range(mask.ndim):
        others = [d for d in range(mask.ndim) if d != dim]
        if mask.numel() and torch.equal(mask.amin(others), mask.amax(others)):
            return dim
    return None


def mask_from_text(given: object, read: Callable[[object], tuple[int, ...]] = indices_from_text) -> Tensor:
    """The mask that `mask_text` wrote. `read` takes up indices.

    Raises:
        ValueError: it says something else.
    """
    if not isinstance(given, Mapping) or not {"shape", "dropped"} <= set(given) <= {
        "shape",
        "along",
        "dropped",
    }:
        mask = tensor_from_text(given)
        if mask.dtype is not torch.bool:
            raise ValueError("a mask is of type bool")
        return mask
    shape, dropped = shape_from_text(given["shape"]), read(given["dropped"])
    along, total = given.get("along"), math.prod(shape)
    if along is not None and not (type(along) is int and 0 <= along < len(shape)):
        raise ValueError(f"a mask of shape {shape} does not vary along {along!r}")
    extent = total if along is None else shape[along]
    if extent > _MOST or total > _MOST_ENTRIES or any(index >= extent for index in dropped):
        raise ValueError(f"a mask of shape {shape} cannot drop index {max(dropped, default=0)}")
    mask = torch.ones(extent, dtype=torch.bool)
    mask[list(dropped)] = False
    if along is None:
        return mask.reshape(shape)
    return mask.reshape([extent if dim == along else 1 for dim in range(len(shape))]).expand(shape)
