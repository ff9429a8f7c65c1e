"""torch.nn.utils.prune: half of the filters of every convolution, with the hooks still on."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import prune

from speedup import materialize, plan_speedup
from speedup.demo.networks import ResNet18
from speedup.recipes.made import Made


def prune_with_torch() -> Made:
    """A ResNet-18 under `ln_structured` hooks -> a small one with plain weights."""
    model, x = ResNet18().eval(), torch.randn(1, 3, 224, 224)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            prune.ln_structured(module, "weight", amount=0.5, n=1, dim=0)

    plan = plan_speedup(model, x)  # no masks to pass: they are in the model, before and after `prune.remove`
    small = materialize(plan)

    with torch.no_grad():
        return Made(plan, model(x), small(x))
