"""Functions that rewritten forwards call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def partial_layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    dropped: int,
    total: int,
    dropped_sum: float,
    dropped_squares: float,
) -> Tensor:
    """Layer normalization over `total` elements of which `dropped` are not there.

    Those are the same for every input and have left their sum and their sum of squares.

    Args:
        input: (..., *S), where S are the sizes of what is left of the normalized dimensions.
        normalized_shape: S, or what it was; only its length counts.
        weight: S, or None for ones.
        bias: S, or None for zeros.
        eps: added to the variance.
        dropped: how many elements are gone.
        total: how many elements the statistics are taken over.
        dropped_sum: sum of the elements that are gone.
        dropped_squares: sum of their squares.

    Returns:
        What `torch.nn.functional.layer_norm` gives at the elements that are left.
    """
    dims = tuple(range(-len(normalized_shape), 0))
    # A proxy, as torch.fx passes it, has no dtype to branch on.
    is_half = isinstance(input, Tensor) and input.dtype in (torch.float16, torch.bfloat16)
    wide = input.float() if is_half else input
    mean = (wide.sum(dims, keepdim=True) + dropped_sum) / total
    centered = wide - mean
    # Of the elements that are gone, the squares of c - mean add up to this.
    rest = dropped_squares - 2 * dropped_sum * mean + dropped * mean.square()
    variance = (centered.square().sum(dims, keepdim=True) + rest) / total
    result = (centered * torch.rsqrt(variance + eps)).to(input.dtype)
    if weight is not None:
        result = result * weight
    return result if bias is None else result + bias
