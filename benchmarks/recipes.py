"""Which channels are masked: each layer's own choice, that of the published examples, or one that agrees."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.insight import dropped_parameters
from tests.support.masking import Masks, l1_half_masks, random_row_masks

# First linear layers of feed-forward parts in ViT, Swin, ConvNeXt and BERT.
_FEED_FORWARD = re.compile(r"(mlp\.0|block\.3|intermediate\.dense)$")
_BERT_HEAD = re.compile(r"attention\.self\.(query|key|value)$")
# The convolutions that the published VGG-16 examples prune.
_PRUNED = tuple(f"feature.{n}" for n in (0, 24, 27, 30, 34, 37))
_SLIM_SPARSITY = 0.7


def half_of_each(model: nn.Module, example: Any = None) -> Masks:
    """Half the filters of each convolution by L1 norm; half the hidden rows of feed-forward parts.

    In BERT also a quarter of the heads, with their biases.
    """
    masks = l1_half_masks(model)
    masks |= random_row_masks(model, 0.5, 0, _is_hidden_layer)
    for path, module in model.named_modules():
        if _BERT_HEAD.search(path):
            keep = torch.ones(12, len(module.weight) // 12)
            keep[::4] = 0
            masks[path] = {"weight": keep.reshape(-1, 1).expand_as(module.weight), "bias": keep.reshape(-1)}
    return masks


def half_of_all_rows(model: nn.Module, example: Any = None) -> Masks:
    """Half the rows of every convolution that is not grouped and of every linear layer, each on its own."""
    return random_row_masks(model, 0.5, 0, _is_dense)


def _is_dense(path: str, module: nn.Module) -> bool:
    return not isinstance(module, nn.Conv2d) or module.groups == 1


def slim(model: nn.Module, example: Any = None) -> Masks:
    """Network slimming: of all BatchNorm scales together the smallest 70 %, with their shifts."""
    norms = {path: m for path, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    scales = torch.cat([norm.weight.detach().abs() for norm in norms.values()])
    threshold = torch.quantile(scales, _SLIM_SPARSITY)
    masks: Masks = {}
    for path, norm in norms.items():
        keep = norm.weight.detach().abs() > threshold
        # A layer with nothing left would cut the network in two.
        keep[norm.weight.detach().abs().argmax()] = True
        masks[path] = {"weight": keep.float(), "bias": keep.float()}
    return masks


def fpgm(model: nn.Module, example: Any = None) -> Masks:
    """Half the filters of each convolution: those with the least sum of distances to the others."""

    def distances(path: str, conv: nn.Conv2d) -> Tensor:
        rows = conv.weight.detach().flatten(1)
        return torch.cdist(rows, rows).sum(1)

    return _by_score(model, distances)


def least_l1(model: nn.Module, example: Any = None) -> Masks:
    """Half the filters of the convolutions that the published example prunes, by L1 norm."""
    scores = {
        path: model.get_parameter(f"{path}.weight").detach().abs().flatten(1).sum(1) for path in _PRUNED
    }
    return _by_score(model, lambda path, conv: scores.get(path))


def apoz(model: nn.Module, example: Tensor) -> Masks:
    """Half the filters of the same convolutions: those whose activations are most often zero."""
    active: dict[str, Tensor] = {}

    def record(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            active[path] = (output > 0).double().mean((0, 2, 3))

        return hook

    relu_of = {path: f"feature.{int(path.rpartition('.')[2]) + 2}" for path in _PRUNED}
    handles = [model.get_submodule(r).register_forward_hook(record(p)) for p, r in relu_of.items()]
    parameter = next(model.parameters())
    with torch.no_grad():
        model(example.to(parameter.dtype))
    for handle in handles:
        handle.remove()
    return _by_score(model, lambda path, conv: active.get(path))


def agreeing(model: nn.Module, example: Any) -> Masks:
    """Masks on every parameter along a channel that goes: half the channels wherever all couplings allow.

    The first half of the filters of every convolution and feed-forward part is kept, BatchNorm and biases
    included; what planning then finds to go is masked in all parameters that it is part of.
    """
    masks: Masks = {}
    for name, dim, gone in dropped_parameters(model, example, _first_halves(model)):
        path, _, local = name.rpartition(".")
        parameter = model.get_parameter(name).detach()
        masks.setdefault(path, {}).setdefault(local, torch.ones_like(parameter)).index_fill_(dim, gone, 0.0)
    return masks


def _first_halves(model: nn.Module) -> Masks:
    masks: Masks = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d) or _is_hidden_layer(path, module):
            for name, parameter in module.named_parameters(recurse=False):
                mask = torch.ones_like(parameter.detach())
                mask[(len(mask) + 1) // 2 :] = 0
                masks.setdefault(path, {})[name] = mask
    return masks


def _by_score(model: nn.Module, score: Callable[[str, nn.Conv2d], Tensor | None]) -> Masks:
    masks: Masks = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and (scores := score(path, module)) is not None:
            mask = torch.ones_like(module.weight.detach())
            mask[scores.argsort()[: len(scores) // 2]] = 0
            masks[path] = {"weight": mask}
    return masks


def _is_hidden_layer(path: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and bool(_FEED_FORWARD.search(path))
