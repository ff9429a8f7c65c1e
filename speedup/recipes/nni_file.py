"""NNI: the mask file that its pruners write, without NNI installed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from speedup import apply_masks, masks_from_file, materialize, plan_speedup
from speedup.demo.networks import ResNet18
from speedup.recipes.made import Made


def read_nni_masks() -> Made:
    """A file of masks by module -> the small model."""
    model, x = ResNet18().eval(), torch.randn(1, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "masks.pth"
        torch.save(_masks_of_a_pruner(model), path)  # what `pruner.compress()` returned, saved by you

        masks = masks_from_file(path)
    plan = plan_speedup(model, x, masks)
    small = materialize(plan)

    with torch.no_grad():
        return Made(plan, apply_masks(model, masks)(x), small(x))


def _masks_of_a_pruner(model: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """The filters of least L1 norm of each convolution, in the form that NNI gives them."""
    masks = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            norms = module.weight.detach().abs().sum((1, 2, 3))
            keep = (norms > norms.median()).float()
            masks[path] = {"weight": keep[:, None, None, None].expand_as(module.weight).clone()}
    return masks
