"""This library, under the same conditions as the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

COMPUTES_WEIGHTS = True


def convert(model: nn.Module, x: Any, masks: dict[str, dict[str, torch.Tensor]]) -> nn.Module:
    """A new model."""
    from speedup import materialize, plan_speedup

    return materialize(plan_speedup(model, x, masks), verify="none").eval()
