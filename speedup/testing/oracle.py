"""What a small model is compared with: the masked model, and how far from it rounding may lead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from attrs import frozen
from torch import Tensor, nn

from speedup.building.comparison import error_line
from speedup.building.draws import draws
from speedup.ir.inputs import Example, batch_size, example_from, leaves_of
from speedup.modules.copying import copy_module
from speedup.modules.isolation import isolated
from speedup.testing.masks import MaskSpec, write_masks
from speedup.torch_api import TreeSpec, tree_structure

# Merging channels reorders sums. In float64, perturbing every weight of a small, well conditioned network
# by 1e-14 moves its outputs by less than 1e-11 of their variation; a lost constant by much more than 1e-9.
TOLERANCE: Mapping[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 5e-2,
}
# For an output that is zero but for the rounding of sums whose terms are of order one, in units of rounding.
_ROUNDINGS = 500.0
# By how many units of rounding the state is moved to see how ill-conditioned a model is.
_PERTURBATION = 100.0
# An output that is nothing but amplified rounding, as a constant normalized by itself, moves by as much as it
# is off, give or take the sample.
_MARGIN = 10.0


def masked_copy(model: nn.Module, masks: MaskSpec) -> nn.Module:
    """A copy of the model in which the masked values are zero, made without the library's `apply_masks`."""
    masked = copy_module(model, {})
    write_masks(masks, masked)
    return masked


def run(model: nn.Module, inputs: Sequence[Tensor]) -> object:
    """The model's output for positional arguments."""
    return output_of(model, example_from(tuple(inputs)), inputs)


def output_of(model: nn.Module, example: Example, tensors: Sequence[Tensor]) -> object:
    """The model's output for a call like `example`; the inputs are copied, as a model may write to them."""
    args, kwargs = example.with_fresh_objects().call([given.clone() for given in tensors])
    with isolated(), torch.no_grad():
        torch.manual_seed(0)
        return model(*args, **kwargs)


def assert_same_output(small: nn.Module, masked: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Compare structure, dtypes, shapes and values of both models' outputs.

    Raises:
        AssertionError: they differ by more than rounding explains.
    """
    found = Yardstick(masked, example_from(tuple(inputs))).deviation(small, tuple(inputs))
    assert found is None, found


@frozen(eq=False)
class Yardstick:
    """The masked model, in calls like `example`, as what other models are held against.

    `tolerance` is the largest error allowed, relative to how much an output varies from one input to
    another; None: by the output's dtype.
    """

    masked: nn.Module
    example: Example
    tolerance: float | None = None

    def expected(self, tensors: Sequence[Tensor]) -> object:
        """What the masked model returns; it raises its own errors where it cannot be called with these."""
        return output_of(self.masked, self.example, tensors)

    def deviation(self, small: nn.Module, tensors: tuple[Tensor, ...]) -> str | None:
        """Where and how `small` differs on `tensors`, in words; None where it does not."""
        expected = self.expected(tensors)
        try:
            got = output_of(small, self.example, tensors)
        except Exception as error:
            return f"it raises {type(error).__name__}, where the masked model runs: {error_line(error)}"
        wanted, found = dict(leaves_of(expected)), dict(leaves_of(got))
        if wanted.keys() != found.keys() or _structure(expected) != _structure(got):
            return f"the outputs differ in structure: masked {_structure(expected)}, small {_structure(got)}"
        for place, want in wanted.items():
            difference = self._difference(place, want, found[place], small, tensors)
            if difference is not None:
                return difference
        return None

    def _difference(
        self, place: str, want: object, have: object, small: nn.Module, tensors: tuple[Tensor, ...]
    ) -> str | None:
        if not (isinstance(want, Tensor) and isinstance(have, Tensor)):
            return None if want == have else f"output{place} is {have!r}, that of the masked model {want!r}"
        if (want.shape, want.dtype) != (have.shape, have.dtype):
            return f"output{place} is {_form(have)}, that of the masked model {_form(want)}"
        error, allowed = distance(have, want), self._allowed(place, want, tensors)
        # The sensitivity costs two more runs, so it is measured only for an output that looks wrong.
        if error <= allowed or error <= _MARGIN * self._sensitivity(place, want, tensors):
            return None
        size = float(want.abs().max())
        return f"output{place} is off by {error:.3g} (allowed: {allowed:.3g}, largest value: {size:.3g})"

    def _allowed(self, place: str, want: Tensor, tensors: tuple[Tensor, ...]) -> float:
        tolerance = TOLERANCE.get(want.dtype, 0.0) if self.tolerance is None else self.tolerance
        if not want.is_floating_point() or not want.numel():
            return 0.0
        size = float(want.abs().nan_to_num(0, 0, 0).max())
        rounding = _ROUNDINGS * torch.finfo(want.dtype).eps * max(1.0, size)
        other = self._varied(place, want, batch_size(self.example.with_tensors(tensors)))
        variation = size if other is None else distance(want, other)
        return rounding + tolerance * min(size, variation)

    def _varied(self, place: str, want: Tensor, size: int | None) -> Tensor | None:
        """The same part of the output for inputs drawn anew; None where the model takes none."""
        for draw in draws(self.example, size, _generator()):
            other = self._elsewhere(place, want, partial(self.expected, draw.tensors))
            if other is not None and draw.is_varied:
                return other
        return None

    def _sensitivity(self, place: str, want: Tensor, tensors: tuple[Tensor, ...]) -> float:
        """How far rounding errors in the state, a hundred times as large as real ones, move the output.

        Only an ill-conditioned network is excused by it, such as one that divides by the root of a sum
        of squares that is zero but for rounding.
        """
        generator = _generator()
        perturbed = copy_module(self.masked, {})
        with torch.no_grad():
            for tensor in (*perturbed.parameters(), *perturbed.buffers()):
                if tensor.is_floating_point():
                    noise = torch.randn(tensor.shape, dtype=torch.float64, generator=generator)
                    far = _PERTURBATION * torch.finfo(tensor.dtype).eps
                    tensor.mul_((1.0 + far * noise).to(tensor))
        moved = self._elsewhere(place, want, lambda: output_of(perturbed, self.example, tensors))
        return 0.0 if moved is None else distance(want, moved)

    def _elsewhere(self, place: str, like: Tensor, output: Callable[[], object]) -> Tensor | None:
        """The same part of another output; None where there is no such tensor of equal shape."""
        try:
            found = dict(leaves_of(output())).get(place)
        except Exception:
            # Random inputs may be none that the model can be called with.
            return None
        return found if isinstance(found, Tensor) and found.shape == like.shape else None


def distance(have: Tensor, want: Tensor) -> float:
    """The largest difference; infinite where only one of the two is a number, or they are not numbers."""
    if not want.numel():
        return 0.0
    if not (want.is_floating_point() or want.is_complex()):
        return 0.0 if torch.equal(have, want) else torch.inf
    wide = torch.complex128 if want.is_complex() else torch.float64
    apart = (have.to(wide) - want.to(wide)).abs()
    return float(apart.masked_fill(_same_non_number(have, want), 0.0).nan_to_num(nan=torch.inf).max())


def _same_non_number(have: Tensor, want: Tensor) -> Tensor:
    return (have == want) | (have.isnan() & want.isnan())


def _structure(output: object) -> TreeSpec:
    return tree_structure(output)


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
