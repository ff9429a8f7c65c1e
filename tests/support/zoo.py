"""The check of one torchvision classifier, by default with R1: half of each convolution's filters masked."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from tests.support import vision
from tests.support.lively import make_lively
from tests.support.masking import Masks, Recipe, l1_half_masks
from tests.support.measure import Exactness, check_exact

_SEED = 7
# BatchNorm at the few positions of a small image needs many images; full-size ones are dearer.
_CALIBRATION_IMAGES = {"small": 32, "full": 8}


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


def check_classifier(name: str, *, recipe: Recipe = l1_half_masks, also_verified: bool = False) -> Exactness:
    """Plan, materialize and compare `name` in float64 at its resolution and, where it takes one, another."""
    model, masks = lively_classifier(name, dtype=torch.float64, recipe=recipe)
    size, other = vision.resolution(name), vision.other_resolution(name)
    return check_exact(
        model,
        masks,
        partial(_images, size),
        name=name,
        other_inputs=[] if other is None else [partial(_images, other)],
        also_verified=also_verified,
    )


def _images(size: int, batch: int, seed: int) -> Tensor:
    return vision.images(batch, size, seed, torch.float64)
