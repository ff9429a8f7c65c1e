"""Quantisation comes after: a model is made small in floating point, and then its weights become int8."""

from __future__ import annotations

import io

import torch
from torch import nn

from speedup import apply_masks, make_masks, materialize, plan_speedup
from speedup.pruners import Norm
from speedup.recipes.made import Made


def quantise_after() -> Made:
    """A network of linear layers -> the small one with int8 weights, and the sizes of both files."""
    model = nn.Sequential(
        nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    )
    model, x = model.eval(), torch.randn(4, 64)
    masks = make_masks(model, x, Norm(), 0.5)
    plan = plan_speedup(model, x, masks)
    small = materialize(plan)

    quantised = torch.ao.quantization.quantize_dynamic(small, {nn.Linear}, dtype=torch.qint8)

    sizes = _saved_size(model), _saved_size(quantised)
    with torch.no_grad():
        return Made(plan, apply_masks(model, masks)(x), quantised(x), sizes, tolerance=0.05)


def _saved_size(model: nn.Module) -> float:
    """The size of a saved state dict in 10^6 bytes."""
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    return len(saved.getvalue()) / 1e6
