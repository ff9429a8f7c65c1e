"""LayerNorm told what the elements that are gone add up to."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from inspect import signature
from types import MappingProxyType
from typing import Any

import torch
from attrs import asdict, frozen
from torch import Tensor

from speedup.ir.graph import Op
from speedup.lowerings.comparing import keywords_agree
from speedup.lowerings.lowering import Agrees, Lowering, Written
from speedup.lowerings.syntax import Change, end_of, last_name, start_of


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


@frozen
class PartialLayerNorm(Lowering):
    """LayerNorm over `total` elements; the `dropped` ones add up to `dropped_sum`, their squares to
    `dropped_squares`.
    """

    helpers = MappingProxyType({"partial_layer_norm": partial_layer_norm})

    dropped: int
    total: int
    dropped_sum: float
    dropped_squares: float

    def compute(self, op: Op, arguments: Mapping[str, Any], operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """The norm of what is left."""
        data, weight, bias = (*operands, None, None)[:3]
        assert data is not None, "the data come first"
        return [partial_layer_norm(data, op["normalized_shape"], weight, bias, op["eps"], **asdict(self))]

    def rewrite(self, written: Written) -> tuple[Change, ...] | None:
        """A call of `partial_layer_norm` with the norm's own arguments and what it is told."""
        call = written.call
        known = tuple(signature(partial_layer_norm).parameters)[:5]
        if call is None or call.is_method or len(call.node.args) > len(known):
            return None
        if any(k.arg not in known for k in call.node.keywords):
            return None
        told = ", ".join(f"{name}={value!r}" for name, value in asdict(self).items())
        inside = [end_of(a) for a in (*call.node.args, *(k.value for k in call.node.keywords))]
        return (
            Change(start_of(call.node.func), end_of(call.node.func), "partial_layer_norm"),
            Change(max(inside), end_of(call.node), f", {told})"),
        )

    @staticmethod
    def may_replace(old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
        """A call of `partial_layer_norm` with the same tensors."""
        match new, last_name(old.func).rstrip("_"):
            case ast.Call(func=ast.Name(id="partial_layer_norm"), args=args), "layer_norm":
                return agrees(old.args, args, True) and keywords_agree(old, new, agrees)
        return False
