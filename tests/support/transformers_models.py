"""Models of transformers, one per class and tiny, with random weights.

transformers imports torchvision for its image models, which `tests.support.vision` makes importable on any
build of torch.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from types import ModuleType

import torch
from torch import nn

from tests.support import vision
from tests.support.transformers_cases import Call, Case, Sample
from tests.support.transformers_media import MEDIA_CASES
from tests.support.transformers_text import TEXT_CASES

_CASES: Mapping[str, Case] = {**TEXT_CASES, **MEDIA_CASES}


def _transformers() -> ModuleType:
    # First, because transformers gives up on image models for good where torchvision does not import.
    vision.torchvision_models()
    return importlib.import_module("transformers")


@functools.cache
def available() -> bool:
    """Whether transformers' models can be built here."""
    if not vision.available():
        return False
    try:
        _transformers()
    except ImportError:
        return False
    return True


def classes() -> tuple[str, ...]:
    """Names of all classes, in alphabetical order."""
    return tuple(sorted(_CASES))


def build(name: str) -> nn.Module:
    """A tiny model of class `name` in eval mode, its weights random but always the same."""
    transformers, case = _transformers(), _CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, name)(getattr(transformers, case.config)(**case.options))
    assert isinstance(model, nn.Module)
    return model.eval()


def size(name: str) -> int:
    """Sequence length, or height and width in pixels, at which `name` is checked."""
    return _CASES[name].size


def other_size(name: str) -> int | None:
    """A second size that the same model must also be exact at; None where the architecture fixes the size."""
    return _CASES[name].other


def inputs(name: str, size: int, batch: int, seed: int, dtype: torch.dtype = torch.float32) -> Call:
    """Keyword arguments of a call of `name` with `batch` random samples of `size`."""
    return _CASES[name].call(Sample(batch, size, seed, dtype))


def output_dims() -> Mapping[type[nn.Module], int]:
    """Layers that only transformers has, with the dimension of their weight that holds the outputs."""
    _transformers()
    return {importlib.import_module("transformers.pytorch_utils").Conv1D: 1}
