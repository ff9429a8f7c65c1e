"""What is known of a tensor near the ends of its axes, at every size at once.

Behind a window that reaches over the ends of an axis into zeros, a constant is no longer the same at every
position: some of the window's taps fall outside. Which ones do is all that tells positions apart, so there
are *classes* of them, few and the same at every length of the axis. A `Bordered` fact says what is known in
each class: its tensors have the extent of the classes where those of a `Fact` have that of the positions.

Averages over positions mix classes, in shares that depend on the length. What they are is not known then, but
channels that were multiples and sums of one another still are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from attrs import frozen
from torch import Tensor

from speedup.engine.lattice import Fact, all_over, uniform_fact

OUTSIDE = -1


@frozen
class Window:
    """Along one axis: `size` taps, `dilation` apart, moved by `stride`; `padding` zeros at either end."""

    size: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dilation: int = 1

    @property
    def reach(self) -> int:
        """Over how many positions the taps extend."""
        return self.dilation * (self.size - 1) + 1

    @property
    def is_plain(self) -> bool:
        """Whether it looks at one position, and at each, so that it tells none apart."""
        return (self.size, self.stride, self.padding) == (1, 1, (0, 0))


@frozen
class PositionClasses:
    """The classes of positions along an axis of any length, which `windows` made one after the other.

    Where it is mixed each position holds an average over classes, the same one in all channels.
    """

    windows: tuple[Window, ...] = ()
    is_mixed: bool = False

    @property
    def count(self) -> int:
        """How many classes there are."""
        return len(_classes(self))

    @property
    def margin(self) -> int | None:
        """Up to which distance from either end positions differ, where these distances tell their classes.

        None where they do not: what a stride skips at the end follows the length before it.
        """
        if self.is_mixed or any(window.stride != 1 for window in self.windows):
            return None
        return sum(max(window.padding) for window in self.windows)

    def by_distance(self) -> Tensor:
        """The class at each pair of distances from the ends, by the number of `pair_of`."""
        margin = self.margin
        assert margin is not None, "distances from the ends tell the classes"
        found = torch.zeros((margin + 1) ** 2, dtype=torch.int64)
        for line in _lines(self, _lengths(self)):
            for place, number in enumerate(line):
                found[pair_of(place, len(line), margin)] = number
        return found


def pair_of(place: int, length: int, margin: int) -> int:
    """The number of a position's pair of distances, from the first and the last, each up to `margin`."""
    return min(place, margin) * (margin + 1) + min(length - 1 - place, margin)


def classes_behind(axis: PositionClasses | None, window: Window) -> PositionClasses | None:
    """The axis that `window` makes of `axis`; None stands for positions that are all alike."""
    if window.is_plain:
        return axis
    made = PositionClasses((*(axis or PositionClasses()).windows, window))
    return made if made.count > 1 else None


def reads_of(axis: PositionClasses | None, window: Window) -> Tensor:
    """(classes behind `window`, taps, classes of `axis`) 1 where that tap reads that class, in float64."""
    behind = classes_behind(axis, window)
    if behind is None:
        return torch.ones(1, window.size, 1).double()
    classes = 1 if axis is None else axis.count
    if behind == axis:
        return torch.eye(classes).double()[:, None]
    return (torch.tensor(_classes(behind))[:, :, None] == torch.arange(classes)).double()


# Along which dimensions of a tensor there are classes, and which; None where positions are all alike.
Axes = tuple[PositionClasses | None, ...]


def margins_of(axes: Axes) -> tuple[int, ...] | None:
    """The margin of each axis, 0 where positions are all alike; None where one has none."""
    margins = [0 if axis is None else axis.margin for axis in axes]
    return tuple(m for m in margins if m is not None) if None not in margins else None


def by_distances(numbers: Tensor, axes: Axes) -> Tensor:
    """`numbers`, (rows, classes of each axis), by pairs of distances from the ends of each axis instead."""
    for dim, axis in enumerate(axes, 1):
        if axis is not None:
            numbers = numbers.index_select(dim, axis.by_distance())
    return numbers


@lru_cache(maxsize=256)
def _classes(axis: PositionClasses) -> tuple[tuple[int, ...], ...]:
    """The classes of an axis, each as what the taps of the last window read there."""
    if not axis.windows:
        return ((OUTSIDE,),)
    numbers: dict[tuple[int, ...], int] = {}
    for line in _lines(PositionClasses(axis.windows[:-1]), _lengths(axis)):
        _pass(axis.windows[-1], line, numbers)
    return tuple(numbers)


def _lines(axis: PositionClasses, lengths: int) -> tuple[tuple[int, ...], ...]:
    """The classes of the positions of `axis`, when it is made of axes of 1, 2, ... `lengths` positions."""
    lines = tuple((0,) * length for length in range(1, lengths + 1))
    for number in range(1, len(axis.windows) + 1):
        made = PositionClasses(axis.windows[:number])
        known = {reads: n for n, reads in enumerate(_classes(made))}
        lines = tuple(_pass(made.windows[-1], line, known) for line in lines)
    return lines


def _lengths(axis: PositionClasses) -> int:
    """Up to which length every class has been seen.

    By then both ends are out of each other's sight, and strides have come round.
    """
    stride, reach = 1, 1
    for window in axis.windows:
        reach += stride * (window.reach - 1 + sum(window.padding))
        stride *= window.stride
    return 2 * reach + stride


def _pass(window: Window, line: Sequence[int], numbers: dict[tuple[int, ...], int]) -> tuple[int, ...]:
    """The classes of the positions that `window` makes of an axis whose positions have the classes `line`."""
    before, after = window.padding
    count = (len(line) + before + after - window.reach) // window.stride + 1
    made = []
    for place in range(max(count, 0)):
        first = place * window.stride - before
        taps = (first + window.dilation * tap for tap in range(window.size))
        reads = tuple(line[t] if 0 <= t < len(line) else OUTSIDE for t in taps)
        made.append(numbers.setdefault(reads, len(numbers)))
    return tuple(made)


@frozen(eq=False)
class Bordered:
    """What is known of a tensor class by class: along dimension d there are those of `axes[d]`."""

    fact: Fact
    axes: Axes

    def is_known(self) -> Tensor:
        """Bool, compressed: what is known in every class."""
        return all_over(self.fact.known, self._dims)

    def constants(self, dim: int, extent: int) -> Tensor:
        """(extent, classes) the constants of the indices of `dim`, in all classes of positions."""
        shape = [1 if axis is None else axis.count for axis in self.axes]
        shape[dim] = extent
        return self.fact.value.expand(shape).movedim(dim, 0).reshape(extent, -1)

    @property
    def is_mixed(self) -> bool:
        """Whether positions hold averages over classes."""
        return any(axis.is_mixed for axis in self.axes if axis is not None)

    @property
    def _dims(self) -> tuple[int, ...]:
        return tuple(d for d, axis in enumerate(self.axes) if axis is not None)


def aligned(found: Sequence[Bordered | Fact], ndim: int) -> tuple[tuple[Fact, ...], Axes] | None:
    """Facts that broadcast to a tensor of `ndim` dimensions with one another, and its axes.

    What varies over positions that fall into classes elsewhere counts as Unknown there. None where two
    operands have classes of different kinds along one dimension, or one mixes them.
    """
    if any(isinstance(one, Bordered) and one.is_mixed for one in found):
        return None
    axes: list[PositionClasses | None] = [None] * ndim
    for one in found:
        if isinstance(one, Bordered):
            offset = ndim - one.fact.ndim
            for dim, axis in enumerate(one.axes, offset):
                if axis is not None and axes[dim] not in (None, axis):
                    return None
                axes[dim] = axis or axes[dim]
    varying = [d for d, axis in enumerate(axes) if axis is not None]
    facts = (
        one.fact
        if isinstance(one, Bordered)
        else uniform_fact(one, [d - ndim + one.ndim for d in varying if d >= ndim - one.ndim])
        for one in found
    )
    return tuple(facts), tuple(axes)


def sum_over_taps(products: Tensor, reads: Sequence[Tensor]) -> Tensor:
    """What windows add up in each class of positions.

    `products` is (rows, taps along each axis, classes along each axis): what a tap makes of what it reads;
    `reads` are those of `reads_of` along each axis. The result is (rows, classes along each axis
    behind them).
    """
    total = products.double()
    for number, one in enumerate(reads):
        # Always the first axis that is left: its sum becomes the last dimension.
        ends = total.movedim((1, 1 + len(reads) - number), (-2, -1))
        total = torch.tensordot(ends, one, ([-2, -1], [1, 2]))
    return total
