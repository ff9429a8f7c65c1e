"""Torch-Pruning 1.6.1: its `DependencyGraph`. It takes no masks, so each masked row is pruned as an index.

A group takes what is coupled with the pruned rows along, whether the masks of those layers agree or not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

COMPUTES_WEIGHTS = False


def convert(model: nn.Module, x: Any, masks: dict[str, dict[str, torch.Tensor]]) -> nn.Module:
    """The model, edited in place."""
    import torch_pruning as tp

    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    modules = dict(model.named_modules())
    paths = {module: path for path, module in modules.items()}
    left = {path: list(range(len(own["weight"]))) for path, own in masks.items() if "weight" in own}
    for path, positions in left.items():
        rows = (
            masks[path]["weight"].flatten(1)
            if masks[path]["weight"].ndim > 1
            else masks[path]["weight"][:, None]
        ).any(1)
        indices = [at for at, row in enumerate(positions) if not rows[row]]
        prune = _prune_function(tp, modules[path])
        if not indices or prune is None or len(indices) == len(positions):
            continue
        group = graph.get_pruning_group(modules[path], prune, idxs=indices)
        if graph.check_pruning_group(group):
            _forget(group, graph, paths, left)
            group.prune()
    return model.eval()


def _forget(group: Any, graph: Any, paths: dict[nn.Module, str], left: dict[str, list[int]]) -> None:
    """Cross off, in the masked layers of a group, the rows that are going to be pruned."""
    for dependency, indices in group:
        path = paths.get(dependency.target.module)
        if path in left and graph.is_out_channel_pruning_fn(dependency.handler):
            gone = set(indices)
            left[path][:] = [row for at, row in enumerate(left[path]) if at not in gone]


def _prune_function(tp: Any, module: nn.Module) -> Any:
    match module:
        case nn.Conv2d() if module.groups == module.out_channels > 1:
            return tp.prune_depthwise_conv_out_channels
        case nn.Conv2d():
            return tp.prune_conv_out_channels
        case nn.Linear():
            return tp.prune_linear_out_channels
        case nn.BatchNorm2d():
            return tp.prune_batchnorm_out_channels
        case _:
            return None
