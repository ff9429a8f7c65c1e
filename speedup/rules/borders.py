"""What operators do with constants that differ near the ends of an axis: the ways of `Rule.at_borders`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from attrs import evolve
from torch import Tensor

from speedup.engine.borders import (
    Axes,
    Bordered,
    Window,
    aligned,
    by_distances,
    classes_behind,
    reads_of,
    sum_over_taps,
)
from speedup.engine.lattice import Fact, any_along, broadcast, fact
from speedup.ir.graph import Op
from speedup.rules.contraction import Contraction, channel_state, describe_contraction, pattern, rows_where
from speedup.rules.rule import AtBorders, Known


def element_by_element(known: Known) -> AtBorders:
    """An operator that works element by element does so class by class."""

    def at_borders(op: Op, found: Sequence[Bordered | Fact]) -> Bordered | None:
        together = aligned(found, op.result.ndim)
        if together is None or not any(together[1]):
            return None
        facts, axes = together
        return Bordered(known(op, facts)[0], axes)

    return at_borders


def channel_by_channel(known: Known) -> AtBorders:
    """An operator that treats every position of its first operand alike, with numbers for each channel."""

    def at_borders(op: Op, found: Sequence[Bordered | Fact]) -> Bordered | None:
        first, *others = found
        facts = [one for one in others if isinstance(one, Fact)]
        if not isinstance(first, Bordered) or first.is_mixed or len(facts) < len(others):
            return None
        return Bordered(known(op, (first.fact, *facts))[0], first.axes)

    return at_borders


def average(space: Callable[[Op], Iterable[int]]) -> AtBorders:
    """An operator that averages over positions along the dimensions `space`, which its result has too."""

    def at_borders(op: Op, found: Sequence[Bordered | Fact]) -> Bordered | None:
        data, dims = found[0], set(space(op))
        if not isinstance(data, Bordered) or len(found) > 1 or op.result.ndim != data.fact.ndim:
            return None
        extents = broadcast(data.fact.known, data.fact.value)[0].shape
        if any(data.axes[dim] is None and extents[dim] != 1 for dim in dims):
            return None
        return Bordered(data.fact, tuple(axis and evolve(axis, is_mixed=True) for axis in data.axes))

    return at_borders


def convolve(op: Op, found: Sequence[Bordered | Fact]) -> Bordered | None:
    """Of a convolution, the rows that read nothing but constants, with what zero padding makes of them."""
    shape = describe_contraction(op)
    windows = windows_of(op, shape)
    data, weight = (found[op.operands.index(value)] for value in (shape.data, shape.weight))
    bias = None if shape.bias is None else found[op.operands.index(shape.bias)]
    if windows is None or isinstance(weight, Bordered) or isinstance(bias, Bordered):
        return None
    if not weight.is_all_known() or weight.raw.is_complex():
        return None
    if isinstance(data, Bordered) and data.is_mixed:
        return None
    # Rows that read constants alone, of data that is not constant altogether, are too few to look for.
    if shape.groups == 1 and not (data.fact if isinstance(data, Bordered) else data).is_all_known():
        return None
    before = data.axes[shape.axis + 1 :] if isinstance(data, Bordered) else (None,) * len(windows)
    axes = [classes_behind(axis, window) for axis, window in zip(before, windows, strict=True)]
    if not any(axes):
        return None
    settled, constants = _channels(shape, data)
    if not bool((settled & (constants != 0).flatten(1).any(1)).any()):
        return None
    blocked = ~settled.reshape(shape.groups, 1, -1)
    rows = ~rows_where(shape, pattern(shape, weight) & blocked)
    if bias is not None:
        rows = rows & bias.known.expand(shape.rows)
    value = torch.zeros(shape.rows, *(1 if axis is None else axis.count for axis in axes)).double()
    value[rows] = _sums(shape, weight, constants, rows, before, windows)
    if bias is not None:
        value = value + bias.value.double().expand(shape.rows).reshape(-1, *(1,) * len(axes))
    lead = (1,) * shape.result_axis
    known = rows.reshape(*lead, -1, *(1,) * len(axes))
    return Bordered(fact(known, value.reshape(*lead, *value.shape)), (*(None,) * (len(lead) + 1), *axes))


def axes_behind(op: Op, data: Bordered) -> Axes | None:
    """The classes of the positions of what a convolution makes of `data`, along each axis of space."""
    shape = describe_contraction(op)
    windows = windows_of(op, shape)
    if windows is None or data.is_mixed:
        return None
    return tuple(map(classes_behind, data.axes[shape.axis + 1 :], windows))


def border_map(op: Op, data: Bordered, weight: Fact, members: Tensor, rows: Tensor) -> Tensor:
    """(rows that are asked about, pairs of distances from the ends of each axis) what a convolution makes of
    those channels of `data` that are `members`, which are constants; see `by_distances`.
    """
    shape = describe_contraction(op)
    windows, axes = windows_of(op, shape), axes_behind(op, data)
    assert windows is not None and axes is not None, "there are windows"
    constants = _channels(shape, data)[1]
    constants = torch.where(members.reshape(-1, *(1,) * len(axes)), constants, 0)
    return by_distances(_sums(shape, weight, constants, rows, data.axes[shape.axis + 1 :], windows), axes)


def _sums(
    shape: Contraction, weight: Fact, constants: Tensor, rows: Tensor, before: Axes, windows: Sequence[Window]
) -> Tensor:
    """(rows asked about, classes along each axis behind the windows) the sums over `constants`."""
    reads = [reads_of(axis, window) for axis, window in zip(before, windows, strict=True)]
    return sum_over_taps(_products(shape, weight, constants, rows), reads)


def windows_of(op: Op, shape: Contraction) -> tuple[Window, ...] | None:
    """The windows of a convolution over each axis; None where it has none, or they follow the inputs."""
    sizes = shape.weight.shape[2:]
    if not sizes or shape.transposed or op.follows_sizes():
        return None
    stride, dilation = (_per_axis(op[name], len(sizes)) for name in ("stride", "dilation"))
    given = op["padding"]
    if given == "same":
        totals = [spread * (size - 1) for spread, size in zip(dilation, sizes, strict=True)]
        padding = [(total // 2, total - total // 2) for total in totals]
    else:
        amounts = (0,) * len(sizes) if given == "valid" else _per_axis(given, len(sizes))
        padding = [(amount, amount) for amount in amounts]
    return tuple(map(Window, sizes, stride, padding, dilation))


def _per_axis(given: int | Sequence[int], count: int) -> tuple[int, ...]:
    numbers = (given,) if isinstance(given, int) else tuple(given)
    return numbers * count if len(numbers) == 1 else numbers


def _channels(shape: Contraction, data: Bordered | Fact) -> tuple[Tensor, Tensor]:
    """Which channels of the data are constant in every class of positions, and (channels, classes of each
    axis) their constants, 0 elsewhere, in double precision.
    """
    extent, space = shape.data.shape[shape.axis], shape.data.ndim - shape.axis - 1
    if isinstance(data, Fact):
        known, uniform, value = channel_state(shape, data)
        settled, constants = known & uniform, value.reshape(-1, *(1,) * space)
    else:
        settled = ~any_along(~data.is_known(), shape.axis, extent)
        if any(n != 1 for n in data.fact.value.shape[: shape.axis]):
            settled = torch.zeros_like(settled)
        constants = data.fact.value[(0,) * shape.axis].expand(extent, *(-1,) * space)
    zero = torch.zeros((), dtype=torch.float64)
    return settled, torch.where(settled.reshape(-1, *(1,) * space), constants.double(), zero)


def _products(shape: Contraction, weight: Fact, constants: Tensor, rows: Tensor) -> Tensor:
    """(rows asked about, taps of each axis, classes of each axis) what each tap makes of each class."""
    taps, classes = shape.weight.shape[2:], constants.shape[1:]
    if shape.groups == 1:
        kernel = weight.pick(shape.weight.shape, {0: rows.nonzero().reshape(-1)}).double().flatten(2)
        products = torch.einsum("rct,cs->rts", kernel, constants.flatten(1))
    else:
        kernel = weight.value.expand(shape.weight.shape).double().flatten(2)
        grouped = kernel.reshape(shape.groups, -1, *kernel.shape[1:])
        data = constants.reshape(shape.groups, grouped.shape[2], -1)
        products = torch.einsum("grct,gcs->grts", grouped, data).flatten(0, 1)[rows]
    return products.reshape(-1, *taps, *classes)
