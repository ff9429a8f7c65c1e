"""How tensors lie in memory: contiguous, channels last, or with their dimensions in any other order."""

from __future__ import annotations

from torch import Tensor


def laid_out_like(tensor: Tensor, other: Tensor) -> Tensor:
    """`tensor` without gaps, its dimensions in the order in which those of `other` lie.

    Both have as many dimensions. Where `other` is in channels_last, so is the result; it is `tensor` itself
    where that lies so already. Where dimensions of `other` are expanded, the result is contiguous.
    """
    strides = other.stride()
    if other.is_contiguous() or 0 in strides:
        return tensor.contiguous()
    # Of dimensions with one stride, those of extent 1 come last, as torch writes its memory formats.
    order = sorted(range(other.ndim), key=lambda dim: (-strides[dim], other.shape[dim] == 1))
    back = sorted(range(other.ndim), key=order.__getitem__)
    return tensor.permute(order).contiguous().permute(back)
