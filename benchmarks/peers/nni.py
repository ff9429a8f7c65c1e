"""NNI 3.0: its `ModelSpeedup`, given a trace by `torch.fx`, as its own needs an older torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

COMPUTES_WEIGHTS = False


def convert(model: nn.Module, x: Any, masks: dict[str, dict[str, torch.Tensor]]) -> nn.Module:
    """The model, edited in place."""
    from nni.compression.speedup import ModelSpeedup

    traced = torch.fx.symbolic_trace(model)
    # It adds masks for targets that have none, and edits what it is given.
    given = {path: dict(own) for path, own in masks.items()}
    ModelSpeedup(model, x, given, graph_module=traced).speedup_model()
    return model.eval()
