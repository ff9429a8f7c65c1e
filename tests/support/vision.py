"""torchvision's classifiers with random weights, on any build of torch.

A torchvision wheel built for CUDA fails at import on a CPU torch, because it attaches fake kernels to
operators that its extension would have declared. Classifiers use none of them, so declaring the two that
matter is enough.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType

import torch
from torch import Tensor, nn

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# The declarations last as long as their Library object.
_LIBRARIES: list[torch.library.Library] = []

_SLOW_TO_INITIALISE = frozenset({"googlenet", "inception_v3"})
# Random networks of this depth run out of scale where statistics come from fewer positions.
_DEEPEST = frozenset({"efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7"})


class TorchvisionUnavailableError(ImportError):
    """torchvision is not installed, or fails at import even with its operators declared."""


@functools.cache
def torchvision_models() -> ModuleType:
    """The module `torchvision.models`; raises `TorchvisionUnavailableError` where it cannot be had."""
    try:
        return importlib.import_module("torchvision.models")
    except ImportError as error:
        raise TorchvisionUnavailableError(f"torchvision cannot be imported: {error}") from error
    except RuntimeError:
        return _import_with_declared_operators()


def available() -> bool:
    """Whether torchvision's models can be built here."""
    try:
        torchvision_models()
    except TorchvisionUnavailableError:
        return False
    return True


@functools.cache
def classifiers(max_parameters: int = 100_000_000) -> tuple[str, ...]:
    """Names of all torchvision classifiers with at most `max_parameters` parameters, in alphabetical order.

    The count is the one in torchvision's own weight records (auxiliary heads of googlenet left out), so
    that no model is built.
    """
    models = torchvision_models()
    names: list[str] = models.list_models(module=models)
    return tuple(sorted(name for name in names if _recorded_parameters(name) <= max_parameters))


def build(name: str, size: int | None = None) -> nn.Module:
    """The classifier `name` in eval mode, its weights random but always the same; uses no global RNG.

    A ViT is built for square images of `size`, at least 32, or by default of `resolution(name)`; its
    position table, and nothing else, is the larger for it. The others take images as they come, or are
    built for 224 only.
    """
    options: dict[str, object] = {"init_weights": False} if name in _SLOW_TO_INITIALISE else {}
    if name.startswith("vit"):
        options["image_size"] = size or resolution(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision_models().get_model(name, weights=None, **options)
    assert isinstance(model, nn.Module)
    return model.eval()


def resolution(name: str) -> int:
    """Height and width, in pixels, at which `name` is checked: small, but maps keep interior positions."""
    if name == "maxvit_t":
        return 224
    if name.startswith("swin"):
        return 128 if name.startswith("swin_v2") else 112
    if name == "inception_v3":
        return 139
    return 128 if name in _DEEPEST else 96


def other_resolution(name: str) -> int | None:
    """A second size that the same model must also be exact at; None where the architecture fixes the size."""
    if name.startswith(("vit", "swin", "maxvit")):
        return None
    if name == "inception_v3":
        return 107
    return 112 if name in _DEEPEST else 80


def further_resolutions(name: str) -> tuple[int, int]:
    """An odd size and a larger one to try `name` at, which a model made for one size refuses.

    At some odd sizes the deepest random networks move by 1e-9 when the last digits of their input change.
    """
    return (145 if name in _DEEPEST else 97), 160


def images(batch: int, size: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random images (batch, 3, size, size): fine noise on coarse patches, each image of its own brightness.

    White noise alone looks the same to a network that averages over positions, whatever the seed. All have a
    mean square of 1: random networks of great depth may blow up on one image of unusual contrast.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(side: int) -> Tensor:
        return torch.randn(batch, 3, side, side, generator=generator, dtype=torch.float64)

    coarse = nn.functional.interpolate(normal(4), size=(size, size), mode="nearest")
    mixed = 0.6 * normal(size) + 0.8 * coarse + 0.5 * normal(1)
    return (mixed / mixed.square().mean((1, 2, 3), keepdim=True).sqrt()).to(dtype)


def doubles(size: int, batch: int, seed: int) -> Tensor:
    """The same in float64; the size first, since it is what a model has fixed."""
    return images(batch, size, seed, torch.float64)


def _recorded_parameters(name: str) -> int:
    records = torchvision_models().get_model_weights(name)
    return min(int(record.meta["num_params"]) for record in records)


def _import_with_declared_operators() -> ModuleType:
    for module in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _OPERATORS:
        library.define(schema)
    _LIBRARIES.append(library)
    try:
        return importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:
        raise TorchvisionUnavailableError(
            f"torchvision cannot be imported with this torch: {error}"
        ) from error
