"""Indices along a dimension that something is put at, as source states them and as helpers use them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
    return torch.tensor(stated, device=rows.device)


def contiguous_axis(tensor: Tensor, dim: int) -> int:
    """Where to move `dim`: last where its indices lie next to one another, as those of channels_last.

    There they are put to their places in a fraction of the time.
    """
    return tensor.ndim - 1 if tensor.stride(dim) == 1 else dim
