"""Masks as short values: which slices, or which share of single values, of which parameters are zero.

The repr of such a value is the expression that makes it, without what is at its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import attrs
import torch
from torch import Tensor, nn

from speedup.testing.source import expression

if TYPE_CHECKING:
    from hypothesis.vendor.pretty import RepresentationPrinter

Sizes = tuple[int, ...]
MaskArgument = Mapping[str, Tensor] | Mapping[str, Mapping[str, Tensor]] | None


@attrs.frozen
class Slices:
    """The slices `indices` of a parameter along `dim` are masked: rows for 0, columns for 1."""

    parameter: str
    dim: int
    indices: tuple[int, ...] | range

    def mask(self, sizes: Sizes) -> Tensor:
        """Ones and zeros that broadcast to `sizes`."""
        along = torch.ones(sizes[self.dim])
        along[list(self.indices)] = 0.0
        return along.view([-1 if dim == self.dim else 1 for dim in range(len(sizes))])


@attrs.frozen
class Scattered:
    """Single values are masked at random, so many percent of them."""

    parameter: str
    percent: int
    seed: int

    def mask(self, sizes: Sizes) -> Tensor:
        """Ones and zeros of shape `sizes`."""
        generator = torch.Generator().manual_seed(self.seed)
        return (torch.rand(sizes, generator=generator) >= self.percent / 100).float()


@attrs.frozen
class Whole:
    """All of the parameter is masked."""

    parameter: str

    def mask(self, sizes: Sizes) -> Tensor:
        """Zeros of shape `sizes`."""
        return torch.zeros(sizes)


Cut = Slices | Scattered | Whole


@attrs.frozen(repr=False)
class MaskSpec:
    """The cuts, which add up where they hit one parameter, and how they are told to the library.

    by name: `{"conv.weight": mask}`; by module, NNI's way: `{"conv": {"weight": mask}}`; baked:
    no masks are passed, the model's weights are zero already. A compact mask is as small as
    broadcasting allows.
    """

    cuts: tuple[Cut, ...]
    style: Literal["by name", "by module", "baked"] = "by name"
    dtype: Literal["float32", "bool"] = "float32"
    compact: bool = False

    def __repr__(self) -> str:
        return expression(self)

    def _repr_pretty_(self, printer: RepresentationPrinter, cycle: bool) -> None:
        printer.text(repr(self))


def mask_tensors(masks: MaskSpec, model: nn.Module) -> dict[str, Tensor]:
    """Parameter name -> mask, for the parameters that are cut."""
    parameters = dict(model.named_parameters())
    sizes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    tensors: dict[str, Tensor] = {}
    for cut in masks.cuts:
        mask = cut.mask(sizes[cut.parameter])
        tensors[cut.parameter] = tensors[cut.parameter] * mask if cut.parameter in tensors else mask
    dtype: torch.dtype = getattr(torch, masks.dtype)
    return {
        name: (mask if masks.compact else mask.expand(sizes[name]).contiguous()).to(
            parameters[name].device, dtype
        )
        for name, mask in tensors.items()
    }


def mask_argument(masks: MaskSpec, model: nn.Module) -> MaskArgument:
    """The masks in the form in which they are passed to the library."""
    tensors = mask_tensors(masks, model)
    match masks.style:
        case "by name":
            return tensors
        case "by module":
            nested: dict[str, dict[str, Tensor]] = {}
            for name, mask in tensors.items():
                module, _, local = name.rpartition(".")
                nested.setdefault(module, {})[local] = mask
            return nested
        case "baked":
            return None


def write_masks(masks: MaskSpec, model: nn.Module) -> None:
    """Zero what is masked, in place; a product would leave negative zeros behind."""
    with torch.no_grad():
        for name, mask in mask_tensors(masks, model).items():
            model.get_parameter(name).masked_fill_(mask == 0, 0.0)
