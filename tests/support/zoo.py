"""The check of one model of torchvision, timm or transformers, with masks that suit each library.

torchvision's classifiers have half of each convolution's filters masked by default, which is R1; the models
of timm and transformers random rows of every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from tests.support import timm_models, transformers_models, vision
from tests.support.lively import make_lively
from tests.support.masking import Masks, Recipe, l1_half_masks, random_row_and_bias_masks
from tests.support.measure import Exactness, check_exact
from tests.support.transformers_cases import Call

_SEED = 7
# BatchNorm at the few positions of a small image needs many images; full-size ones are dearer.
_CALIBRATION_IMAGES = {"small": 32, "full": 8}
_CALIBRATION_CALLS = 16


def lively_classifier(
    name: str, *, size: int | None = None, dtype: torch.dtype = torch.float32, recipe: Recipe = l1_half_masks
) -> tuple[nn.Module, Masks]:
    """The classifier `name`, lively for square images of `size`, and the masks that `recipe` gives it."""
    size = size or vision.resolution(name)
    model = vision.build(name, size)
    images = _CALIBRATION_IMAGES["small" if size < 200 else "full"]
    make_lively(model, vision.images(images, size, seed=_SEED), seed=_SEED, recipe=recipe)
    model.to(dtype)
    return model, recipe(model)


def check_classifier(
    name: str, *, recipe: Recipe = l1_half_masks, also_verified: bool = False, sizes: Sequence[int] = ()
) -> Exactness:
    """Plan, materialize and compare `name` in float64 at its resolution and, where it takes one, another.

    With `sizes` it is compared at its resolution and these, which it may refuse, and the result tells all
    one by one, the resolution first.
    """
    model, masks = lively_classifier(name, dtype=torch.float64, recipe=recipe)
    size, other = vision.resolution(name), vision.other_resolution(name)
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


def _call(name: str, size: int, batch: int, seed: int) -> Call:
    return transformers_models.inputs(name, size, batch, seed, torch.float64)
