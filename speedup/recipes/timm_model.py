"""timm: a third of all channels of a network, those of least norm, that go together."""

from __future__ import annotations

import torch

from speedup import apply_masks, make_masks, materialize, plan_speedup
from speedup.pruners import Norm
from speedup.recipes.made import Made


def shrink_timm() -> Made:
    """A MobileNetV3 without a pruner -> masks, then the small model with widths that kernels like."""
    import timm

    model, x = timm.create_model("mobilenetv3_large_100").eval(), torch.randn(1, 3, 224, 224)
    masks = make_masks(model, x, Norm(), 0.3, round_to=8)
    plan = plan_speedup(model, x, masks)
    small = materialize(plan)

    with torch.no_grad():
        return Made(plan, apply_masks(model, masks)(x), small(x))
