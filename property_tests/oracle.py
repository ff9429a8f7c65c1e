"""What a small model is compared with: the masked model, made here and not by the library."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from property_tests.masks import Masks, write_masks

# Merging channels reorders sums. The networks are small and well conditioned: perturbing every weight
# by 1e-14 moves their outputs by less than 1e-11 of their size, and a lost constant by much more than
# 1e-9 of it.
TOLERANCE = 1e-9
# For an output that is zero but for the rounding of sums whose terms are of order one.
ROUNDING = 1e-13


def masked_copy(model: nn.Module, masks: Masks) -> nn.Module:
    """A copy of the model in which the masked values are zero."""
    masked = copy.deepcopy(model)
    write_masks(masks, masked)
    return masked


def run(model: nn.Module, inputs: tuple[Tensor, ...]) -> object:
    """The model's output; the inputs are copied, since a model is free to write to them."""
    with torch.no_grad():
        return model(*(given.clone() for given in inputs))


def assert_same_output(model: nn.Module, oracle: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Compare structure, dtypes, shapes and values of both models' outputs."""
    expected, structure = _leaves(run(oracle, inputs))
    got, small_structure = _leaves(run(model, inputs))
    assert small_structure == structure
    for path, want in expected.items():
        if not isinstance(want, Tensor):
            assert got[path] == want, f"output{path}"
            continue
        have = got[path]
        assert isinstance(have, Tensor), f"output{path}"
        assert (have.shape, have.dtype) == (want.shape, want.dtype), f"output{path}"
        error, allowed = _distance(have, want), ROUNDING + TOLERANCE * float(want.abs().max())
        # The sensitivity costs two more runs, so it is measured only for an output that looks wrong.
        assert error <= allowed or error <= _sensitivity(oracle, inputs), (
            f"output{path} is off by {error:.3g}, allowed are {allowed:.3g}"
        )


def _leaves(output: object) -> tuple[dict[str, object], pytree.TreeSpec]:
    paths, structure = pytree.tree_flatten_with_path(output)
    return {pytree.keystr(path): leaf for path, leaf in paths}, structure


def _distance(have: Tensor, want: Tensor) -> float:
    """The largest difference; infinite where one of the two is not finite."""
    return float((have - want).abs().nan_to_num(nan=torch.inf).max())


def _sensitivity(model: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """How far rounding errors in the weights, a hundred times as large as real ones, move the output.

    Only an ill-conditioned network is excused by it, such as one that divides by the root of a sum
    of squares that is zero but for rounding.
    """
    generator = torch.Generator().manual_seed(0)
    perturbed = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in perturbed.parameters():
            noise = torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
            parameter.mul_(1.0 + 2e-14 * noise)
    before, _ = _leaves(run(model, inputs))
    after, _ = _leaves(run(perturbed, inputs))
    return max(
        _distance(value, after_value)
        for value, after_value in zip(before.values(), after.values(), strict=True)
        if isinstance(value, Tensor) and isinstance(after_value, Tensor)
    )
