"""What `speedup prune` names: scores by a word each, and the mask file that it writes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from speedup.cli.options import SCORE_NAMES
from speedup.errors import PruningError
from speedup.pruners import GeometricMedian, Norm, Random, Scores, Slimming
from speedup.writing import replacing

SCORES: Mapping[str, Scores] = MappingProxyType(
    dict(zip(SCORE_NAMES, (Norm(1), Norm(2), GeometricMedian(), Slimming(), Random()), strict=True))
)
"""Those that need no data. Others are for `make_masks`."""


def scores_of(name: str) -> Scores:
    """The scores of this name.

    Raises:
        PruningError: there are none.
    """
    if name not in SCORES:
        raise PruningError(f"--score {name!r} is not known; choose one of {', '.join(SCORES)}")
    return SCORES[name]


def save_masks(masks: Mapping[str, Tensor], path: Path) -> None:
    """Write masks as `masks_from_file` reads them: by `torch.save`, or as .safetensors.

    Raises:
        FileWriteError: the folder is missing or cannot be written to.
    """
    tensors = {name: mask.cpu().contiguous() for name, mask in masks.items()}
    with replacing(path) as written:
        if path.suffix.lower() == ".safetensors":
            importlib.import_module("safetensors.torch").save_file(tensors, written)
        else:
            torch.save(tensors, written)
