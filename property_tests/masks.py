"""The strategy `masks(network)`: which values of which parameters are zero, as a short value.

Each parameter-owning module draws one of a few habits of pruning tools (rows, rows with the bias,
columns, single weights, whole layers, ...). Masks that conflict at a residual add, or that cut
through a group or a head, come about by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from property_tests.grammar.site import pick
from property_tests.networks import Network, parameter_shapes

Sizes = tuple[int, ...]
MaskArgument = Mapping[str, Tensor] | Mapping[str, Mapping[str, Tensor]] | None


@attrs.frozen
class Slices:
    """The slices `indices` of a parameter along `dim` are masked: rows for 0, columns for 1."""

    parameter: str
    dim: int
    indices: tuple[int, ...]

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


@attrs.frozen
class Masks:
    """The cuts, which add up where they hit one parameter, and how they are told to the library.

    by name: `{"conv.weight": mask}`; by module, NNI's way: `{"conv": {"weight": mask}}`; baked:
    no masks are passed, the model's weights are zero already. A compact mask is as small as
    broadcasting allows.
    """

    cuts: tuple[Cut, ...]
    style: Literal["by name", "by module", "baked"] = "by name"
    dtype: Literal["float32", "bool"] = "float32"
    compact: bool = False


def mask_tensors(masks: Masks, model: nn.Module) -> dict[str, Tensor]:
    """Parameter name -> mask, for the parameters that are cut."""
    sizes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for cut in masks.cuts:
        mask = cut.mask(sizes[cut.parameter])
        tensors[cut.parameter] = tensors[cut.parameter] * mask if cut.parameter in tensors else mask
    dtype: torch.dtype = getattr(torch, masks.dtype)
    return {
        name: (mask if masks.compact else mask.expand(sizes[name]).contiguous()).to(dtype)
        for name, mask in tensors.items()
    }


def mask_argument(masks: Masks, model: nn.Module) -> MaskArgument:
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


def write_masks(masks: Masks, model: nn.Module) -> None:
    """Zero what is masked, in place; a product would leave negative zeros behind."""
    with torch.no_grad():
        for name, mask in mask_tensors(masks, model).items():
            model.get_parameter(name).masked_fill_(mask == 0, 0.0)


@st.composite
def masks(draw: st.DrawFn, network: Network) -> Masks:
    """Masks for the parameters of a network, from none at all to all of them."""
    # Cuts that follow one pattern agree along residual streams, so that much can go; others do not.
    pattern = draw(st.integers(1, 254))
    habits = pick(draw, _EAGER, _EAGER, _EAGER, _CAREFUL, _HARSH)
    cuts: list[Cut] = []
    for parameters in _by_owner(network):
        cuts.extend(pick(draw, *habits)(draw, parameters, pattern))
    return Masks(
        tuple(cuts),
        style=pick(draw, "by name", "by module", "baked"),
        dtype=pick(draw, "float32", "bool"),
        compact=pick(draw, False, False, True),
    )


Parameters = tuple[tuple[str, Sizes], ...]
Habit = Callable[[st.DrawFn, Parameters, int], list[Cut]]


def _by_owner(network: Network) -> list[Parameters]:
    """The parameters of each module that owns any, in order.

    Not the directions of weight_norm: where one is all zero, the masked model gives NaN.
    """
    owners: dict[str, list[tuple[str, Sizes]]] = {}
    for name, sizes in parameter_shapes(network):
        if not name.endswith(".original1"):
            owners.setdefault(name.rpartition(".")[0], []).append((name, sizes))
    return [tuple(parameters) for parameters in owners.values()]


def _nothing(draw: st.DrawFn, parameters: Parameters, pattern: int) -> list[Cut]:
    return []


def _rows(draw: st.DrawFn, parameters: Parameters, pattern: int) -> list[Cut]:
    """Random rows of the module's first parameter; a bias keeps its values."""
    name, sizes = parameters[0]
    dim = _first_dim(sizes)
    return _slices(name, dim, _chosen(draw, sizes[dim]))


def _rows_and_bias(draw: st.DrawFn, parameters: Parameters, pattern: int) -> list[Cut]:
    """The same random rows of every parameter of the module that has so many."""
    dim = _first_dim(parameters[0][1])
    size = parameters[0][1][dim]
    return _everywhere(parameters, size, _chosen(draw, size))


def _units(draw: st.DrawFn, parameters: Parameters, pattern: int) -> list[Cut]:
    """The same random units of every gate, in a recurrent layer; else rows and bias."""
    hidden = next((sizes[1] for name, sizes in parameters if "weight_hh" in name), None)
    if hidden is None:
        return _rows_and_bias(draw, parameters, pattern)
    chosen = _chosen(draw, hidden)
    cuts: list[Cut] = []
    for name, sizes in parameters:
        cuts += _slices(name, 0, tuple(row for row in range(sizes[0]) if row % hidden in chosen))
    return cuts


def _patterned(draw: st.DrawFn, parameters: Parameters, pattern: int) -> list[Cut]:
    """The rows that the network's common pattern names, of all parameters or the first alone."""
    dim = _first_dim(parameters[0][1])
    size = parameters[0][1][dim]
    indices = tuple(index for index in range(size) if pattern >> (index % 8) & 1)
    hit = pick(draw, parameters, parameters[:1])
    return _everywhere(hit, size, indices)


def _columns(draw: st.DrawFn, parameters: Parameters, pattern: int) -> list[Cut]:
    name, sizes = parameters[0]
    if len(sizes) < 2:
        return []
    return _slices(name, 1, _chosen(draw, sizes[1]))


def _slab(draw: st.DrawFn, parameters: Parameters, pattern: int) -> list[Cut]:
    """A run of neighbouring rows of every parameter, such as a head or a group."""
    size = parameters[0][1][_first_dim(parameters[0][1])]
    parts = pick(draw, 2, 3, 4)
    width = max(1, size // parts)
    start = width * draw(st.integers(0, parts - 1))
    return _everywhere(parameters, size, tuple(range(min(start, size), min(start + width, size))))


def _all_but_one(draw: st.DrawFn, parameters: Parameters, pattern: int) -> list[Cut]:
    size = parameters[0][1][_first_dim(parameters[0][1])]
    survivor = draw(st.integers(0, size - 1))
    return _everywhere(parameters, size, tuple(index for index in range(size) if index != survivor))


def _scattered(draw: st.DrawFn, parameters: Parameters, pattern: int) -> list[Cut]:
    name, _ = draw(st.sampled_from(parameters))
    return [Scattered(name, pick(draw, 50, 90), draw(st.integers(0, 99)))]


def _whole(draw: st.DrawFn, parameters: Parameters, pattern: int) -> list[Cut]:
    hit = pick(draw, parameters[:1], parameters, parameters[-1:])
    return [Whole(name) for name, _ in hit]


def _chosen(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    """A random subset of range(size), but not all of it: that is what `_whole` is for."""
    bits = draw(st.integers(0, max(0, 2**size - 2)))
    return tuple(index for index in range(size) if bits >> index & 1)


def _everywhere(parameters: Parameters, size: int, indices: tuple[int, ...]) -> list[Cut]:
    """The cut of every parameter that has `size` rows."""
    cuts: list[Cut] = []
    for name, sizes in parameters:
        dim = _first_dim(sizes)
        if sizes[dim] == size:
            cuts += _slices(name, dim, indices)
    return cuts


def _slices(name: str, dim: int, indices: tuple[int, ...]) -> list[Cut]:
    return [Slices(name, dim, indices)] if indices else []


def _first_dim(sizes: Sizes) -> int:
    """The first dimension that has more than one slice."""
    return next((dim for dim, size in enumerate(sizes) if size > 1), 0)


_EAGER: tuple[Habit, ...] = (
    _nothing,
    _nothing,
    _rows,
    _rows,
    _rows_and_bias,
    _rows_and_bias,
    _units,
    _patterned,
    _patterned,
    _patterned,
    _columns,
    _slab,
    _scattered,
)
_CAREFUL: tuple[Habit, ...] = (_nothing,) * 8 + _EAGER
# A few of these in a row leave a network that does not depend on its input any more.
_HARSH: tuple[Habit, ...] = (*_EAGER, _all_but_one, _whole)
