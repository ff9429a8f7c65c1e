"""The module that holds one operator between layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from property_tests.around.layers import Head, Layer, Shape
from property_tests.around.operands import Turn
from tests.support.soundness import Case, Tensors


class Stem(nn.Module):
    """A layer, and behind it what makes an operand of its floats."""

    def __init__(self, layer: nn.Module, turn: Turn) -> None:
        super().__init__()
        self.layer = layer
        self.turn = turn

    def forward(self, x: Tensor) -> Tensor:
        return self.turn(self.layer(x))


class Leave(nn.Module):
    """A layer behind a result, then perhaps a head."""

    def __init__(self, layer: nn.Module, head: nn.Module | None) -> None:
        super().__init__()
        self.layer = layer
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        left: Tensor = self.layer(x)
        return left if self.head is None else self.head(left)


class Around(nn.Module):
    """`call` on the inputs, each through its stem, and on parameters; each result through its own leave.

    The bypass, if any, has the last input, and is added to the first result that is a number, or
    multiplied with it. With `guarded`, what is no number counts as one: zero times infinity is nothing
    that is promised.
    """

    def __init__(
        self,
        call: Case,
        stems: Sequence[nn.Module],
        held: Sequence[Tensor],
        bypass: nn.Module | None,
        multiplied: bool,
        guarded: bool,
        leaves: Sequence[nn.Module],
    ) -> None:
        super().__init__()
        self.function = call.function
        self.is_held = tuple(operand.state for operand in call.operands)
        self.stems = nn.ModuleList(stems)
        self.held = nn.ParameterList(held)
        self.bypass = bypass
        self.multiplied = multiplied
        self.guarded = guarded
        self.leaves = nn.ModuleList(leaves)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        made = iter([stem(x) for stem, x in zip(self.stems, inputs, strict=False)])
        held = iter(self.held)
        operands = [next(held if is_held else made) for is_held in self.is_held]
        results = [numbers(r) for r in listed(self.function(*operands))]
        if self.guarded:
            results = [r.nan_to_num(0.5, 2.0, -2.0).clamp(-50.0, 50.0) for r in results]
        if self.bypass is not None:
            other = self.bypass(inputs[-1])
            if not results:
                results = [other]
            else:
                results[0] = results[0] * other if self.multiplied else results[0] + other
        return tuple(leave(r) for leave, r in zip(self.leaves, results, strict=True))


def listed(results: Any) -> list[Tensor]:
    """What an operator returns, as a list."""
    if results is None:
        return []
    return list(results) if isinstance(results, list | tuple) else [results]


def numbers(result: Tensor) -> Tensor:
    """A result in float64, complex numbers as pairs."""
    if result.is_complex():
        result = torch.view_as_real(result.resolve_conj())
    return result.to(torch.float64)


def leave(layer: Layer, head: bool, shape: Shape) -> nn.Module:
    """The leave for results of `shape`; nothing stands behind one that is empty."""
    if 0 in shape:
        return nn.Identity()
    return Leave(layer.build(shape), Head(shape) if head else None)


def stem(layer: Layer, turn: Turn | None, operand: Tensors) -> nn.Module:
    """The stem of `operand`; without a turn it is an input as it stands."""
    return nn.Identity() if turn is None else Stem(layer.build(operand.shape), turn)
