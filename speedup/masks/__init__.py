"""Masks: which elements of which parameters to keep, and where they can come from."""

from speedup.masks.found import masks_from_file, masks_from_prune, masks_from_zeros
from speedup.masks.heads import masks_from_heads
from speedup.masks.problems import MaskProblem
from speedup.masks.resolving import MaskSource, apply_masks, check_masks, resolve_masks
from speedup.masks.value import Masks

__all__ = [
    "MaskProblem",
    "MaskSource",
    "Masks",
    "apply_masks",
    "check_masks",
    "masks_from_file",
    "masks_from_heads",
    "masks_from_prune",
    "masks_from_zeros",
    "resolve_masks",
]
