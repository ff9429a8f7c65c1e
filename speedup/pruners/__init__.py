"""Simple mask makers: scores of channels, and masks of those of least score."""

from speedup.pruners.channels import Layer
from speedup.pruners.making import make_masks
from speedup.pruners.measured import ActiveShare, TaylorOutput, TaylorWeight
from speedup.pruners.scoring import GeometricMedian, Norm, Normalized, Random, Scores, Slimming

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
]
