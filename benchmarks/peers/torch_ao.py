"""torch.ao.pruning, part of torch: its structured pruner with the given rows in place of a ranking.

It removes rows of the linear layers and convolutions whose surroundings match one of its patterns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.ao.pruning._experimental.pruner.base_structured_sparsifier import BaseStructuredSparsifier

COMPUTES_WEIGHTS = False


def convert(model: nn.Module, x: Any, masks: dict[str, dict[str, torch.Tensor]]) -> nn.Module:
    """A new model traced by torch.fx."""
    modules = dict(model.named_modules())
    rows = {
        path: own["weight"].flatten(1).any(1)
        for path, own in masks.items()
        if "weight" in own and isinstance(modules[path], nn.Linear | nn.Conv2d)
    }
    pruner = _Given(rows)
    pruner.prepare(model, [{"tensor_fqn": f"{path}.weight"} for path in rows])
    pruner.enable_mask_update = True
    pruner.step()
    # Annotated as if it returned nothing.
    pruned: Any = pruner.prune()  # type: ignore[func-returns-value]
    return pruned.eval()


class _Given(BaseStructuredSparsifier):
    """Prunes the rows it was told to."""

    def __init__(self, rows: dict[str, torch.Tensor]) -> None:
        super().__init__(defaults={})
        self._rows = rows

    def update_mask(self, module: nn.Module, tensor_name: str, **kwargs: Any) -> None:
        """Set the mask of the rows of one layer."""
        parametrization = getattr(module.parametrizations, tensor_name)[0]
        parametrization.mask.data = self._rows[kwargs["module_fqn"]].clone()
