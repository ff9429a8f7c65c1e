"""Indices along a dimension that something is put at, as source states them and as helpers use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speedup.engine.borders import pair_of


def are_proxies(*tensors: object) -> bool:
    """Whether torch.fx traces what is done with them: its graph then holds a helper's call as it is."""
    return not all(isinstance(one, Tensor) for one in tensors)


def stated_places(indices: Sequence[int]) -> int | list[int]:
    """The indices; the first of them where the others follow it one by one."""
    first = indices[0]
    is_run = list(indices) == list(range(first, first + len(indices)))
    return first if is_run else list(indices)


def places_of(stated: int | Sequence[int], rows: Tensor, axis: int) -> Tensor:
    """Such indices as a tensor, of as many as `rows` has along `axis`."""
    if isinstance(stated, int):
        return torch.arange(stated, stated + rows.shape[axis], device=rows.device)
    return index_tensor(stated, rows.device)


def index_tensor(indices: Sequence[int], device: torch.device) -> Tensor:
    """The indices as a tensor."""
    return _tensor(_array, device, tuple(indices))


def others_than(stated: int | Sequence[int], rows: int, total: int, device: torch.device) -> Tensor:
    """Of `total` indices those that are none of such ones, which are `rows` in number."""
    return _tensor(_others, device, _listed(stated, rows), total)


def _listed(stated: int | Sequence[int], rows: int) -> tuple[int, ...]:
    return tuple(range(stated, stated + rows) if isinstance(stated, int) else stated)


def _tensor(make: Callable[..., Any], device: torch.device, *arguments: Any) -> Tensor:
    """What `make` gives for the arguments, which is remembered: lists are read number by number."""
    made = make(*arguments) if torch.compiler.is_compiling() else _remembered(make, *arguments)
    return torch.tensor(made, device=device)


@lru_cache(maxsize=4096)
def _remembered(make: Callable[..., Any], *arguments: Any) -> npt.NDArray[np.int64]:
    return np.array(make(*arguments), dtype=np.int64)


def _array(indices: tuple[int, ...]) -> list[int]:
    return list(indices)


def _others(own: tuple[int, ...], total: int) -> list[int]:
    return sorted(set(range(total)).difference(own))


def pairs_near_ends(length: int, margin: int, device: torch.device) -> Tensor:
    """For each position of an axis the number that `pair_of` gives it."""
    # An export may leave the length open.
    if type(length) is int:
        return _tensor(_pairs, device, length, margin)
    places = torch.arange(length, device=device)
    return places.clamp(max=margin) * (margin + 1) + (length - 1 - places).clamp(max=margin)


def _pairs(length: int, margin: int) -> list[int]:
    return [pair_of(place, length, margin) for place in range(length)]


def contiguous_axis(tensor: Tensor, dim: int) -> int:
    """Where to move `dim`: last where its indices lie next to one another, as those of channels_last.

    There they are put to their places in a fraction of the time.
    """
    return tensor.ndim - 1 if tensor.stride(dim) == 1 else dim
