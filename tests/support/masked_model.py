"""A model with masks and inputs, ready to be planned: what the checks of whole models start from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from attrs import field, frozen
from torch import Tensor, nn

from tests.support.lively import make_lively
from tests.support.masking import Masks, Recipe
from tests.support.measure import MakeInputs

_SEED = 7
_CALIBRATION_BATCH = 16


@frozen(eq=False)
class MaskedModel:
    """A lively float64 model in eval mode, its masks, and what makes inputs for it.

    `other_inputs` makes inputs of another size (resolution, sequence length), where the model takes one.
    """

    model: nn.Module
    masks: Masks
    make_inputs: MakeInputs
    other_inputs: MakeInputs | None = None


def _as_tuple(indices: Iterable[int]) -> tuple[int, ...]:
    return tuple(indices)


@frozen
class Cut:
    """Indices of one dimension of a parameter that masks remove; the others of the parameter stay."""

    parameter: str
    dim: int
    indices: tuple[int, ...] = field(converter=_as_tuple)
    masked: bool = True
    """False where nothing masks them, and they go because nothing reads them any more."""


def masked_model(
    model: nn.Module, recipe: Recipe, make_inputs: MakeInputs, other_inputs: MakeInputs | None = None
) -> MaskedModel:
    """`model`, modified in place: float64, eval mode, lively under the masks that `recipe` gives it."""
    model.double().eval()
    make_lively(model, make_inputs(_CALIBRATION_BATCH, _SEED), seed=_SEED, recipe=recipe)
    return MaskedModel(model, recipe(model), make_inputs, other_inputs)


def masks_of(model: nn.Module, cuts: tuple[Cut, ...]) -> Masks:
    """Masks that are zero at the `cuts`."""
    masks: Masks = {}
    for cut in cuts:
        if cut.masked:
            path, _, name = cut.parameter.rpartition(".")
            mask = masks.setdefault(path, {}).setdefault(
                name, torch.ones_like(model.get_parameter(cut.parameter), requires_grad=False)
            )
            mask.index_fill_(cut.dim, torch.tensor(cut.indices, dtype=torch.long), 0)
    return masks


def shapes_after(model: nn.Module, cuts: tuple[Cut, ...]) -> Mapping[str, tuple[int, ...]]:
    """The shapes of the parameters named in `cuts`, once the indices are gone."""
    shapes: dict[str, list[int]] = {}
    for cut in cuts:
        shape = shapes.setdefault(cut.parameter, list(model.get_parameter(cut.parameter).shape))
        shape[cut.dim] -= len(set(cut.indices))
    return MappingProxyType({name: tuple(shape) for name, shape in shapes.items()})


def normal(*shape: int) -> Callable[[int, int], Tensor]:
    """Standard normal float64 tensors (batch, *shape)."""
    return partial(_normal, shape)


def token_ids(length: int, vocabulary: int) -> Callable[[int, int], Tensor]:
    """Random token ids (batch, length)."""
    return partial(_token_ids, length, vocabulary)


def _normal(shape: tuple[int, ...], batch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *shape, generator=generator, dtype=torch.float64)


def _token_ids(length: int, vocabulary: int, batch: int, seed: int) -> Tensor:
    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))
