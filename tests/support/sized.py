"""Models that do something else at other sizes of their input, and the check that one plan holds at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import torch
from attrs import field, frozen
from torch import Tensor, nn

from speedup import apply_masks, materialize, plan_speedup
from tests.support.lively import Inputs
from tests.support.masked_model import MaskedModel, masked_model
from tests.support.masking import Masks, Recipe
from tests.support.measure import relative_error
from tests.support.untouched import differences, snapshot

Size: TypeAlias = tuple[int, ...]
MakeSized: TypeAlias = Callable[[Size, int, int], Inputs]
"""(size, batch size, seed) -> the arguments of one call."""
Rows: TypeAlias = Mapping[str, tuple[int, ...]]

TOLERANCE = 1e-9
_CALLS = 3


@frozen(eq=False)
class Sized:
    """A model, its masks, and sizes that it takes; it is planned at the first of them alone.

    `batches` are compared at every size; the plan is made at a batch of `example_batch`.
    """

    make: Callable[[], nn.Module]
    recipe: Recipe
    make_inputs: MakeSized
    sizes: tuple[Size, ...]
    batches: tuple[int, ...] = (1, 3)
    example_batch: int = 2

    def masked(self) -> MaskedModel:
        """The model in float64 and eval mode, lively at the example's size, with its masks."""
        return masked_model(self.make(), self.recipe, partial(self.make_inputs, self.sizes[0]))

    def example(self) -> Inputs:
        """What the plan is made from."""
        return self.make_inputs(self.sizes[0], self.example_batch, 0)

    def calls(self, size: Size, batch: int) -> list[Inputs]:
        """Some inputs of one size."""
        return [self.make_inputs(size, batch, 100 * batch + call) for call in range(_CALLS)]


def check_every_size(case: Sized) -> None:
    """Plan at one size and compare at all; something must go, and nothing be touched.

    Raises:
        AssertionError: names the sizes and batch sizes at which outputs differ, with their relative errors.
    """
    masked = case.masked()
    before = snapshot(masked.model)
    plan = plan_speedup(masked.model, case.example(), masked.masks)
    small = materialize(plan).eval()
    touched = differences(before, snapshot(masked.model))
    assert not touched, f"the model was touched: {touched}"
    wrong = errors_by_size(case, apply_masks(masked.model, masked.masks).eval(), small)
    assert not wrong, f"not the same at (size, batch size): {wrong}"
    assert plan.parameters_after < plan.parameters_before, "nothing was removed"


def errors_by_size(case: Sized, masked: nn.Module, small: nn.Module) -> dict[tuple[Size, int], float | str]:
    """By size and batch size, how far `small` is from `masked` where that is not within the tolerance.

    A call that only `small` fails on is told by its error.
    """
    found: dict[tuple[Size, int], float | str] = {}
    for size in case.sizes:
        for batch in case.batches:
            calls = case.calls(size, batch)
            with torch.no_grad():
                _called(masked, calls[0])
            try:
                error: float | str = relative_error(masked, small, calls)
            except Exception as failure:
                error = f"{type(failure).__name__}: {failure}"
            if isinstance(error, str) or not error < TOLERANCE:
                found[size, batch] = error
    return found


def _called(model: nn.Module, inputs: Inputs) -> object:
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


@frozen
class MaskedRows:
    """A recipe: of the layers in `constant` rows of the weight alone, of those in `gone` also of the bias."""

    constant: Rows = field(factory=dict)
    gone: Rows = field(factory=dict)

    def __call__(self, model: nn.Module) -> Masks:
        masks: Masks = {}
        for path, rows in self.constant.items():
            masks[path] = {"weight": _without(model.get_parameter(f"{path}.weight"), rows)}
        for path, rows in self.gone.items():
            named = model.get_submodule(path).named_parameters(recurse=False)
            masks[path] = {name: _without(parameter, rows) for name, parameter in named}
        return masks


def _without(parameter: Tensor, rows: tuple[int, ...]) -> Tensor:
    mask = torch.ones_like(parameter, requires_grad=False)
    mask[list(rows)] = 0
    return mask


def normal(size: Size, batch: int, seed: int, *, channels: int) -> Tensor:
    """Standard normal tensors: (batch, length, channels) for one size, (batch, channels, *size) for more."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, *size, channels) if len(size) == 1 else (batch, channels, *size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)
