"""Masks of channels that go together: those of least score, or those that another pruner removed."""

from speedup.pruners.channels import ScoredLayer as Layer
from speedup.pruners.making import make_masks
from speedup.pruners.measured import ActiveShare, TaylorOutput, TaylorWeight
from speedup.pruners.scoring import GeometricMedian, Norm, Normalized, Random, Scores, Slimming
from speedup.pruners.torch_pruning import masks_from_torch_pruning

__all__ = [
    "ActiveShare",
    "GeometricMedian",
    "Layer",
    "Norm",
    "Normalized",
    "Random",
    "Scores",
    "Slimming",
    "TaylorOutput",
    "TaylorWeight",
    "make_masks",
    "masks_from_torch_pruning",
]
