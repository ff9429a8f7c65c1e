"""Layers with zeros in their weights, and sparse layers made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from attrs import evolve
from torch import nn

from speedup import Choices, Plan, materialize
from speedup.measuring.tuning import candidates_for
from speedup.sparse.applying import matrix_of, pattern_of, sparse_capable, unpacked_model, weight_of
from speedup.sparse.layers import sparse_class_of
from speedup.sparse.machine import this_machine
from speedup.sparse.measured import LayerChoice, Measured
from speedup.sparse.weight import SparseModule
from tests.support.attention_models import transformers

L = TypeVar("L", bound=nn.Module)


def conv1d(inputs: int, outputs: int) -> nn.Module:
    """The layer of transformers that GPT-2 is made of."""
    pytest.importorskip("transformers", exc_type=ImportError)
    made: nn.Module = transformers().pytorch_utils.Conv1D(outputs, inputs)
    nn.init.normal_(made.get_parameter("bias"))
    return made


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
    """Choices in which each layer takes the last of its candidates, as if these had been measured."""
    return choices_of(plan, lambda count: count - 1)


def choices_of(plan: Plan, pick: Callable[[int], int]) -> Choices:
    """Choices in which each layer takes one of its candidates: of so many that which `pick` says, -1 none."""
    layers = []
    dtype = ""
    for path, layer in sparse_capable(unpacked_model(materialize(plan, verify="none"))):
        weight = weight_of(layer)
        dtype = str(weight.dtype).removeprefix("torch.")
        candidates = tuple(evolve(one, seconds=_SECOND) for one in candidates_for(matrix_of(layer)))
        taken = pick(len(candidates)) if candidates and (weight == 0).any() else -1
        zeros = 1.0 - int(torch.count_nonzero(weight)) / weight.numel()
        layers.append(
            LayerChoice(
                path=path,
                layer=type(layer).__name__,
                shape=tuple(weight.shape),
                zeros=zeros,
                pattern=pattern_of(weight),
                calls=1,
                dense=_SECOND,
                candidates=candidates,
                taken=None if taken < 0 else taken,
            )
        )
    machine = this_machine(torch.device("cpu"))
    return Choices(plan.model_name, machine, 1, dtype, ((1,),), 2, tuple(layers))


_SECOND = Measured(1.0, 1.0, 1.0)
