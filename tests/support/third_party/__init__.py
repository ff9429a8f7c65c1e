"""Models of libraries that are not installed with this project: one per family, small, of random weights.

A library is one file: a mapping from names to cases, built without a look at the network. Where one is not
installed, `require` says how to.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

from attrs import frozen

from tests.support import vision
from tests.support.third_party import (
    diffusers_models,
    monai_models,
    open_clip_models,
    pytorchcv_models,
    segmentation_models,
    vit_pytorch_models,
    x_transformers_models,
)
from tests.support.third_party.case import Case


class LibraryMissingError(ImportError):
    """A library is not installed; the message has the command that installs it."""


@frozen
class Library:
    """What a library is imported as, what pip installs for it beside what the tests need, and its models."""

    module: str
    packages: tuple[str, ...]
    cases: Mapping[str, Case]


LIBRARIES: Mapping[str, Library] = MappingProxyType(
    {
        "pytorchcv": Library("pytorchcv", ("pytorchcv",), pytorchcv_models.CASES),
        "segmentation-models-pytorch": Library(
            "segmentation_models_pytorch", ("segmentation-models-pytorch",), segmentation_models.CASES
        ),
        "vit-pytorch": Library("vit_pytorch", ("vit-pytorch", "einops"), vit_pytorch_models.CASES),
        "x-transformers": Library(
            "x_transformers",
            ("x-transformers", "einops", "einx", "frozendict", "loguru", "torch-einops-utils"),
            x_transformers_models.CASES,
        ),
        "diffusers": Library("diffusers", ("diffusers", "importlib_metadata"), diffusers_models.CASES),
        "monai": Library("monai", ("monai", "einops"), monai_models.CASES),
        "open-clip-torch": Library(
            "open_clip", ("open-clip-torch", "ftfy", "wcwidth"), open_clip_models.CASES
        ),
    }
)


def require(name: str) -> Library:
    """The library `name`, once it is known that it can be imported.

    Raises:
        LibraryMissingError: it, or something that it imports, is not installed.
    """
    library = LIBRARIES[name]
    # Most of them import torchvision, which may need its operators declared first.
    vision.torchvision_models()
    try:
        importlib.import_module(library.module)
    except ImportError as error:
        command = f"pip install --no-deps {' '.join(library.packages)}"
        raise LibraryMissingError(f"{name} cannot be imported ({error}); install it by: {command}") from error
    return library


def available(name: str) -> bool:
    """Whether the models of library `name` can be built here."""
    if not vision.available():
        return False
    try:
        require(name)
    except LibraryMissingError:
        return False
    return True


__all__ = ["LIBRARIES", "Case", "Library", "LibraryMissingError", "available", "require"]
