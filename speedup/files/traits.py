"""What a model's tensors do not tell about it: its flags, and how the tensors lie in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import MappingProxyType

import cattrs
import torch
from attrs import frozen
from torch import nn

from speedup.ir.graph import Shape
from speedup.text.json_values import add_values


@frozen
class Strides:
    """How the tensor `name` lies in memory, where that is not in the order of its elements."""

    name: str
    strides: Shape


@frozen
class Traits:
    """Paths of the modules in training mode, names of the parameters that require gradients, and layouts.

    The layout of its weights decides by which kernel a convolution is computed, and so its last bits.
    """

    training: tuple[str, ...]
    trainable: tuple[str, ...]
    layouts: tuple[Strides, ...]

    @property
    def strides(self) -> Mapping[str, Shape]:
        return MappingProxyType({one.name: one.strides for one in self.layouts})

    def fault(self, shapes: Mapping[str, Shape]) -> str | None:
        """What does not fit tensors of these shapes, in words."""
        unfit = (one for one in self.layouts if not dense(shapes.get(one.name, ()), one.strides))
        found = next(unfit, None)
        return None if found is None else f"tensor {found.name!r} cannot have strides {found.strides}"

    def give(self, model: nn.Module) -> None:
        """Set the flags of `model`, in place."""
        training, trainable = set(self.training), set(self.trainable)
        for path, module in model.named_modules():
            module.training = path in training
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trainable)


def traits_of(model: nn.Module) -> Traits:
    """The traits of a model."""
    held = (*model.named_parameters(), *model.named_buffers())
    return Traits(
        tuple(path for path, module in model.named_modules() if module.training),
        tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad),
        tuple(
            Strides(name, tensor.stride())
            for name, tensor in held
            if tensor.stride() != _in_order(tensor.shape) and dense(tensor.shape, tensor.stride())
        ),
    )


def traits_text(traits: Traits) -> str:
    """The traits as JSON text."""
    return json.dumps(_converter().unstructure(traits))


def traits_from_text(text: str) -> Traits:
    """The traits that `traits_text` wrote.

    Raises:
        ValueError: it says something else.
    """
    try:
        return _converter().structure(json.loads(text), Traits)
    except Exception as error:  # a converter raises what the constructors do
        raise ValueError(f"its flags cannot be read ({error})") from error


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    add_values(converter)
    return converter


def _in_order(shape: Iterable[int]) -> Shape:
    return torch.empty(tuple(shape), device="meta").stride()


def dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements so laid out fill their memory, each in a place of its own."""
    if len(shape) != len(strides):
        return False
    room = 1
    for stride, extent in sorted((s, n) for s, n in zip(strides, shape, strict=True) if n != 1):
        if stride != room:
            return False
        room *= extent
    return True
