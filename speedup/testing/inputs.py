"""The strategy `inputs_like(x)`: other batch sizes, other values, and where allowed other resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor

from speedup.ir.inputs import batch_size, example_from, fresh_inputs

# The values of an example with standard deviation one become small, large, or all the same.
_SCALES = (1.0, 0.0, 1e-2, -30.0)


@st.composite
def inputs_like(
    draw: st.DrawFn,
    x: Any,
    *,
    batch_sizes: Sequence[int] = (1, 2, 3),
    scales: Sequence[float] = _SCALES,
    resolutions: Sequence[tuple[int, ...]] = (),
) -> Any:
    """Inputs of the structure of `x`, a tensor, a tuple of arguments or a dict of keyword arguments.

    Floats are random with the mean and spread of those in `x`, times one of `scales`; integers and booleans
    are drawn from those in `x`. Where all tensors share their first dimension it becomes one of
    `batch_sizes`. With `resolutions`, tensors (batch, channels, *space) of as many dimensions as one of
    them names get that space.

    Raises:
        InputError: `x` is none of these, or holds no tensor.
    """
    example = example_from(x)
    size = draw(st.sampled_from(batch_sizes)) if batch_size(example) is not None else None
    scale = draw(st.sampled_from(scales))
    space = draw(st.sampled_from(((), *resolutions)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    stretched = attrs.evolve(example, tensors=tuple(_of_space(t, space) for t in example.tensors))
    tensors = (_scale(tensor, scale) for tensor in fresh_inputs(stretched, size, generator))
    args, kwargs = example.call(tuple(tensors))
    if isinstance(x, Tensor):
        return args[0]
    return type(x)(args) if args else kwargs


def _scale(tensor: Tensor, scale: float) -> Tensor:
    return tensor * scale if tensor.is_floating_point() else tensor


def _of_space(tensor: Tensor, space: tuple[int, ...]) -> Tensor:
    """Values of `tensor`, repeated or cut off, with other sizes from its third dimension on."""
    if not space or tensor.ndim != len(space) + 2:
        return tensor
    index = [
        torch.arange(size, device=tensor.device) % have
        for size, have in zip(space, tensor.shape[2:], strict=True)
    ]
    for dim, at in enumerate(index, start=2):
        tensor = tensor.index_select(dim, at)
    return tensor
