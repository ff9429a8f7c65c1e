"""ultralytics YOLOv8n: half of the channels of every BatchNorm."""

from __future__ import annotations

import torch
from torch import nn

from speedup import apply_masks, materialize, plan_speedup
from speedup.recipes.made import Made


def shrink_yolo() -> Made:
    """A YOLOv8n from its YAML -> the small detector, of the same class."""
    from ultralytics.nn.tasks import DetectionModel

    model, x = DetectionModel("yolov8n.yaml", verbose=False), torch.rand(1, 3, 640, 640)
    _settle(model)  # yours is trained: YOLO("yolov8n.pt").model
    masks = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):  # each scale with its shift: the channel is zero
            keep = torch.ones(module.num_features)
            keep[torch.randperm(module.num_features)[: module.num_features // 2]] = 0
            masks[path] = {"weight": keep, "bias": keep}
    plan = plan_speedup(model, x, masks)
    small = materialize(plan)

    with torch.no_grad():
        return Made(plan, apply_masks(model, masks)(x)[0], small(x)[0])


def _settle(model: nn.Module) -> None:
    """Give a fresh model statistics under which a signal comes through, and leave it in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.rand(2, 3, 320, 320))
    model.eval()
