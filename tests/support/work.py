"""What the layers of a model have to multiply, counted on what really runs.

No knowledge of the library goes in: a layer is a product with a parameter, seen as it is dispatched. Rows
of a weight that are zero need nothing, nor do columns that meet data which are the same for two inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from speedup.modules.isolation import unfused
from tests.support.lively import Inputs, call

_ATEN = torch.ops.aten
# Data, and the weight as (columns, rows).
_MATRIX_PRODUCTS = {_ATEN.mm.default: (0, 1), _ATEN.addmm.default: (1, 2)}
# Data that differ by less, in parts of the largest, are the same but for rounding.
_SAME = 1e-9


@frozen(eq=False)
class Product:
    """A call of a layer: its data as (channels, positions), its weight as (groups, rows, columns, taps)."""

    data: Tensor
    weight: Tensor
    macs: int


@frozen
class Work:
    """Multiply-accumulates of the layers of one call.

    `before` of the masked model, `needed` by its living rows of columns that vary, `after` of the small one
    """

    before: int
    needed: int
    after: int

    @property
    def kept(self) -> float:
        """What the small model's layers do, over what the masked model's do."""
        return self.after / max(self.before, 1)

    @property
    def allowed(self) -> float:
        """What the masks leave to the layers, each on its own, over what they do."""
        return self.needed / max(self.before, 1)


def layers_work(masked: nn.Module, small: nn.Module, one: Inputs, other: Inputs) -> Work:
    """What masks allow and what was made of it; the inputs are two of the same sizes."""
    first, second = _products(masked, one), _products(masked, other)
    if len(first) != len(second):
        raise AssertionError(f"{len(first)} layers are called for one input, {len(second)} for another")
    pairs = zip(first, second, strict=True)
    return Work(
        before=sum(product.macs for product in first),
        needed=sum(_needed(product, again) for product, again in pairs),
        after=sum(product.macs for product in _products(small, one)),
    )


def _needed(product: Product, again: Product) -> int:
    """The multiplications of `product` whose row has a weight that meets a column which varies."""
    change = (product.data - again.data).abs().amax(1)
    varies = change > _SAME * product.data.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    groups, _, columns, _ = product.weight.shape
    living = product.weight.ne(0).any(3) & varies.reshape(groups, 1, columns)
    kernels = living.any(2).sum(1) * living.any(1).sum(1)
    return round(product.macs * float(kernels.sum()) / living.numel())


def _products(model: nn.Module, inputs: Inputs) -> list[Product]:
    recorder = _Recorder({p.untyped_storage().data_ptr() for p in model.parameters()})
    with torch.no_grad(), unfused(), recorder:
        call(model, inputs)
    return recorder.found


class _Recorder(TorchDispatchMode):
    def __init__(self, parameters: set[int]) -> None:
        super().__init__()
        self.found: list[Product] = []
        self._parameters = parameters

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is _ATEN.convolution.default:
            self.found.append(_convolution(args[0], args[1], result, args[6], args[8]))
        elif func in _MATRIX_PRODUCTS:
            data, weight = (args[at] for at in _MATRIX_PRODUCTS[func])
            if weight.untyped_storage().data_ptr() in self._parameters:
                self.found.append(
                    Product(
                        data.T.clone(), weight.T[None, :, :, None].clone(), data.shape[0] * weight.numel()
                    )
                )
        return result


def _convolution(data: Tensor, weight: Tensor, result: Tensor, transposed: bool, groups: int) -> Product:
    positions = (data if transposed else result)[:, 0].numel()
    grouped = weight.flatten(2).unflatten(0, (groups, -1))
    if transposed:
        grouped = grouped.transpose(1, 2)
    return Product(data.transpose(0, 1).flatten(1).clone(), grouped.clone(), positions * weight.numel())
