"""Layers with zeros in their weights, and sparse layers made of them."""

from __future__ import annotations

from typing import TypeVar

import torch
from attrs import evolve
from torch import nn

from speedup import Choices, Plan, tune
from speedup.sparse.layers import sparse_class_of
from speedup.sparse.weight import SparseModule

L = TypeVar("L", bound=nn.Module)


def thinned(layer: L, share: float) -> L:
    """The layer, with this share of its weight zero: elements, anywhere."""
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    with torch.no_grad():
        places = torch.randperm(weight.numel())[: round(share * weight.numel())]
        weight.view(-1)[places] = 0
    return layer


def blocky(layer: L, side: int, period: int = 3) -> L:
    """The layer, with all but one in `period` blocks of its weight zero, in an order that nobody sees."""
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    rows, columns = weight.shape[:2]
    down, across = torch.arange(rows // side), torch.arange(columns // side)
    stays = (down[:, None] + across) % period == 0
    mask = stays.repeat_interleave(side, 0).repeat_interleave(side, 1)
    mask = mask[torch.randperm(rows)][:, torch.randperm(columns)]
    with torch.no_grad():
        weight.mul_(mask.reshape(weight.shape))
    return layer


def sparse_layer(layer: nn.Module, kernel: str, side: int = 1, is_ordered: bool = False) -> SparseModule:
    """The layer with a sparse weight."""
    kind = sparse_class_of(layer)
    assert kind is not None
    return kind.made_from(layer, kernel, side, is_ordered)


def chosen_everywhere(plan: Plan) -> Choices:
    """Choices in which each layer takes the last of its candidates, whatever it gains."""
    choices = tune(plan, rounds=2, seconds=1e-5)
    layers = (
        evolve(layer, taken=len(layer.candidates) - 1) if layer.candidates else layer
        for layer in choices.layers
    )
    return evolve(choices, layers=tuple(layers), whole=None)
