"""Torch-Pruning: a copy is pruned, and what was done to it becomes masks of the model."""

from __future__ import annotations

import copy

import torch

from speedup import apply_masks, masks_from_torch_pruning, materialize, plan_speedup
from speedup.demo.networks import ResNet18
from speedup.recipes.made import Made


def prune_with_torch_pruning() -> Made:
    """A ResNet-18 and a pruner's history -> the small model, with the masked one to compare or train."""
    import torch_pruning as tp

    model, x = ResNet18().eval(), torch.randn(1, 3, 224, 224)
    pruned = copy.deepcopy(model)
    pruner = tp.pruner.MagnitudePruner(
        pruned, x, tp.importance.MagnitudeImportance(p=1), pruning_ratio=0.5, ignored_layers=[pruned.fc]
    )
    pruner.step()

    masks = masks_from_torch_pruning(model, x, pruner)
    plan = plan_speedup(model, x, masks)
    small = materialize(plan)

    with torch.no_grad():
        return Made(plan, apply_masks(model, masks)(x), small(x))
