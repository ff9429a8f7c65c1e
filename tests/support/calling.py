"""Calls of a model with any kind of inputs, and comparison of what two such calls return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from speedup.ir.inputs import tensors_of
from tests.support.lively import Inputs


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`inputs` as positional and keyword arguments."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return tuple(inputs), {}


def outputs(model: Callable[..., Any], inputs: Inputs) -> tuple[Tensor, ...]:
    """The tensors that `model` returns, without gradients; it may write to copies of its inputs only."""
    args, kwargs = arguments(pytree.tree_map_only(Tensor, Tensor.clone, inputs))
    with torch.no_grad():
        return tensors_of(model(*args, **kwargs))


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """`inputs` with their floating-point tensors in `dtype`."""
    return pytree.tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, inputs)


def require_close(expected: Sequence[Tensor], actual: Sequence[Tensor], tolerance: float) -> None:
    """Raise an AssertionError unless tensors differ by less than `tolerance` of their largest magnitude.

    They may differ in floating-point type, not in shape.
    """
    _require_same_form(expected, actual)
    error = _largest_error(expected, actual)
    assert error < tolerance, f"the outputs differ by {error:.1e} of their size, not below {tolerance:.0e}"


def _require_same_form(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> None:
    forms = [[tuple(tensor.shape) for tensor in tensors] for tensors in (expected, actual)]
    assert forms[0] == forms[1], f"the outputs' shapes are {forms[1]}, not {forms[0]}"
    assert forms[0], "the output holds no tensor"


def _largest_error(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    return max((_error(one, other) for one, other in zip(expected, actual, strict=True)), default=0.0)


def _error(expected: Tensor, actual: Tensor) -> float:
    if not expected.numel():
        return 0.0
    expected, actual = expected.double(), actual.double()
    if not bool(actual.isfinite().all()):
        return float("inf")
    return float((expected - actual).abs().max()) / (float(expected.abs().max()) or 1.0)
