"""The check of one model of torchvision, timm, transformers or another library, with masks that suit each.

torchvision's classifiers have half of each convolution's filters masked by default, which is R1; the models
of the others random rows of every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from speedup import apply_masks
from tests.support import timm_models, transformers_models, vision
from tests.support.lively import make_lively
from tests.support.masking import Masks, Recipe, l1_half_masks, random_row_and_bias_masks
from tests.support.measure import BATCH_SIZES, Exactness, MakeInputs, check_exact, inputs_of, relative_error
from tests.support.third_party import require
from tests.support.third_party.case import built
from tests.support.transformers_cases import Call

_SEED = 7
# BatchNorm at the few positions of a small image needs many images; full-size ones are dearer.
_CALIBRATION_IMAGES = {"small": 32, "full": 8}
_CALIBRATION_CALLS = 16


# Deep networks of random weights may be chaotic: no two ways to add up the same numbers then give the same.
_MOST_TREMOR = 2e-11
_DRAWS = 20


def lively_classifier(
    name: str,
    *,
    size: int | None = None,
    dtype: torch.dtype = torch.float32,
    recipe: Recipe = l1_half_masks,
    seed: int = _SEED,
) -> tuple[nn.Module, Masks]:
    """The classifier `name`, lively for square images of `size`, and the masks that `recipe` gives it."""
    size = size or vision.resolution(name)
    model = vision.build(name, size)
    images = _CALIBRATION_IMAGES["small" if size < 200 else "full"]
    make_lively(model, vision.images(images, size, seed=_SEED), seed=seed, recipe=recipe)
    model.to(dtype)
    return model, recipe(model)


def _calm_classifier(name: str, recipe: Recipe, sizes: Sequence[int]) -> tuple[nn.Module, Masks]:
    """The first draw of the classifier, in float64, whose output follows its input calmly.

    It does at its resolution and at `sizes`, on all that it is going to be compared on.

    Raises:
        AssertionError: no draw does.
    """
    size = vision.resolution(name)
    calls = [(size, batch) for batch in BATCH_SIZES] + [(other, BATCH_SIZES[0]) for other in sizes]
    for seed in range(_SEED, _SEED + _DRAWS):
        model, masks = lively_classifier(name, dtype=torch.float64, recipe=recipe, seed=seed)
        masked = apply_masks(model, masks).eval()
        if all(_tremor(masked, partial(vision.doubles, at), batch) < _MOST_TREMOR for at, batch in calls):
            return model, masks
    raise AssertionError(f"{name}: the last digit of the input moves the output of {_DRAWS} draws too far")


def _tremor(masked: nn.Module, make: MakeInputs, batch: int) -> float:
    """How far the output moves when the input does by its last digit; 0 where the model does not take it."""
    try:
        return relative_error(masked, _Nudged(masked), inputs_of(make, batch))
    except (RuntimeError, AssertionError):
        # Models refuse sizes in their own ways.
        return 0.0


class _Nudged(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> object:
        return self.model(x * (1 + torch.finfo(x.dtype).eps))


def check_classifier(
    name: str, *, recipe: Recipe = l1_half_masks, also_verified: bool = False, sizes: Sequence[int] = ()
) -> Exactness:
    """Plan, materialize and compare `name` in float64 at its resolution and, where it takes one, another.

    With `sizes` it is compared at its resolution and these, which it may refuse, and the result tells all
    one by one, the resolution first. It is drawn anew where rounding alone shows at one of them.
    """
    size, other = vision.resolution(name), vision.other_resolution(name)
    if sizes:
        model, masks = _calm_classifier(name, recipe, sizes)
    else:
        model, masks = lively_classifier(name, dtype=torch.float64, recipe=recipe)
    return check_exact(
        model,
        masks,
        partial(vision.doubles, size),
        name=name,
        other_inputs=[] if other is None or sizes else [partial(vision.doubles, other)],
        sizes={at: partial(vision.doubles, at) for at in ((size, *sizes) if sizes else ())},
        also_verified=also_verified,
    )


def check_timm(family: str, *, seed: int = _SEED, also_verified: bool = False) -> Exactness:
    """Plan, materialize and compare timm's `family` like a classifier; `seed` draws weights and masks."""
    recipe = partial(random_row_and_bias_masks, seed=seed)
    size, other = timm_models.resolution(family), timm_models.other_resolution(family)
    model = timm_models.build(family)
    example = timm_models.images(_CALIBRATION_CALLS, size, seed=seed)
    make_lively(model, example, seed=seed, recipe=recipe)
    model.double()
    return check_exact(
        model,
        recipe(model),
        partial(vision.doubles, size),
        name=f"{family}/{timm_models.model_name(family)}",
        other_inputs=[] if other is None else [partial(vision.doubles, other)],
        also_verified=also_verified,
    )


def check_transformers(name: str, *, seed: int = _SEED, also_verified: bool = False) -> Exactness:
    """Plan, materialize and compare the class `name` of transformers, in float64, at one size or two."""
    recipe = partial(random_row_and_bias_masks, seed=seed, more=transformers_models.output_dims())
    size, other = transformers_models.size(name), transformers_models.other_size(name)
    model = transformers_models.build(name).double()
    example = transformers_models.inputs(name, size, _CALIBRATION_CALLS, seed, torch.float64)
    make_lively(model, example, seed=seed, recipe=recipe)
    return check_exact(
        model,
        recipe(model),
        partial(_call, name, size),
        name=name,
        other_inputs=[] if other is None else [partial(_call, name, other)],
        also_verified=also_verified,
    )


def check_third_party(
    library: str, name: str, *, seed: int = _SEED, also_verified: bool = False
) -> Exactness:
    """Plan, materialize and compare the model `name` of a library, in float64, and count its layers' work."""
    case = require(library).cases[name]
    recipe = partial(random_row_and_bias_masks, seed=seed)
    model = built(case)
    make_lively(model, case.inputs(_CALIBRATION_CALLS, seed), seed=seed, recipe=recipe)
    return check_exact(
        model, recipe(model), case.inputs, name=name, also_verified=also_verified, counts_work=True
    )


def _call(name: str, size: int, batch: int, seed: int) -> Call:
    return transformers_models.inputs(name, size, batch, seed, torch.float64)
