from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from speedup.engine.borders import (
    Bordered,
    PositionClasses,
    Window,
    aligned,
    by_distances,
    classes_behind,
    margins_of,
    pair_of,
    reads_of,
    sum_over_taps,
)
from speedup.engine.lattice import constant, fact, unknown

THREE = Window(3, padding=(1, 1))
FIVE = Window(5, padding=(2, 2))
HALVING = Window(3, stride=2, padding=(1, 1))


@pytest.mark.parametrize(
    ("window", "classes"),
    [
        (THREE, 4),
        (HALVING, 4),
        (FIVE, 9),
        (Window(5, stride=2, padding=(2, 2)), 6),
        (Window(7, padding=(3, 3)), 16),
        (Window(2, padding=(0, 1)), 2),
        (Window(3), 1),
    ],
)
def test_each_way_to_reach_over_the_ends_is_a_class(window: Window, classes: int) -> None:
    assert PositionClasses((window,)).count == classes


def test_positions_that_are_all_alike_make_no_axis() -> None:
    assert classes_behind(None, Window(3)) is None
    assert classes_behind(None, Window(1, stride=2)) is None
    assert classes_behind(None, THREE) == PositionClasses((THREE,))
    assert classes_behind(PositionClasses((THREE,)), Window(1)) == PositionClasses((THREE,))
    assert classes_behind(PositionClasses((THREE,)), HALVING) == PositionClasses((THREE, HALVING))


CHAINS = [
    (THREE,),
    (HALVING,),
    (FIVE, THREE),
    (THREE, HALVING),
    (HALVING, THREE),
    (HALVING, HALVING, FIVE),
    (Window(2, padding=(0, 1)), THREE),
    (Window(3, padding=(2, 2), dilation=2), HALVING),
    (Window(3, stride=3, padding=(1, 1)), Window(4, padding=(1, 2))),
    (THREE, Window(3)),
    (THREE, Window(1), HALVING, Window(1)),
]


@pytest.mark.parametrize("windows", CHAINS, ids=str)
def test_classes_tell_what_windows_make_of_a_constant_at_every_length(windows: tuple[Window, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    kernels = [torch.randn(window.size, generator=generator).double() for window in windows]
    axis: PositionClasses | None = None
    table = torch.ones(1, 1).double()
    for window, kernel in zip(windows, kernels, strict=True):
        table = sum_over_taps(kernel[None, :, None] * table[:, None], [reads_of(axis, window)])
        axis = classes_behind(axis, window)
    seen: set[int] = set()
    for length in range(1, 60):
        line: Tensor | None = torch.ones(1, 1, length).double()
        for window, kernel in zip(windows, kernels, strict=True):
            line = convolved(line, window, kernel)
        if line is not None:
            apart = (line.reshape(-1, 1) - table).abs()
            assert bool((apart.amin(1) < 1e-12).all()), f"length {length}"
            seen |= set(apart.argmin(1).tolist())
    assert seen == set(range(table.shape[1]))


def convolved(line: Tensor | None, window: Window, kernel: Tensor) -> Tensor | None:
    """What torch makes of it; None where the axis is too short for the window."""
    if line is None or line.shape[-1] + sum(window.padding) < window.reach:
        return None
    wide = F.pad(line, window.padding)
    return F.conv1d(wide, kernel[None, None], stride=window.stride, dilation=window.dilation)


def test_taps_of_several_axes_add_up_like_a_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    windows = (THREE, Window(3, stride=2, padding=(2, 2)))
    reads = [reads_of(None, window) for window in windows]
    kernel, value = (
        torch.randn(4, 3, 3, generator=generator).double(),
        torch.tensor([1.0, -2, 0.5, 3]).double(),
    )
    table = sum_over_taps((kernel * value[:, None, None])[..., None, None], reads)
    assert table.shape == (4, *(PositionClasses((window,)).count for window in windows))
    for height, width in product((1, 2, 5, 8), (1, 3, 6)):
        data = value.reshape(1, 4, 1, 1).expand(1, 4, height, width)
        found = F.conv2d(data, kernel[:, None], stride=(1, 2), padding=(1, 2), groups=4)[0]
        for channel in range(4):
            apart = found[channel].reshape(-1, 1) - table[channel].reshape(1, -1)
            assert bool((apart.abs().amin(1) < 1e-12).all())


def bordered(windows: tuple[Window, ...] = (THREE,), *, is_mixed: bool = False) -> Bordered:
    axis = PositionClasses(windows, is_mixed)
    known = torch.tensor([True, False]).reshape(1, 2, 1)
    value = torch.arange(2 * axis.count).reshape(1, 2, axis.count).double()
    return Bordered(fact(known, value), (None, None, axis))


def test_constants_are_listed_class_by_class() -> None:
    one = bordered()
    assert one.is_known().reshape(-1).tolist() == [True, False]
    assert one.constants(1, 2).tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]


def test_operands_with_the_same_classes_go_together() -> None:
    one, other = bordered(), constant(torch.ones(2, 1).double())
    found = aligned([one, other], 3)
    assert found is not None and found[1] == one.axes


@pytest.mark.parametrize("other", [bordered((FIVE,)), bordered(is_mixed=True)])
def test_operands_with_other_classes_do_not(other: Bordered) -> None:
    assert aligned([bordered(), other], 3) is None


def test_what_varies_by_position_is_unknown_beside_classes() -> None:
    by_position = constant(torch.arange(7).reshape(1, 1, 7).double())
    found = aligned([bordered(), by_position, unknown(3, torch.float64)], 3)
    assert found is not None
    assert [one.known.shape for one in found[0]] == [(1, 2, 1), (1, 1, 1), (1, 1, 1)]
    assert not bool(found[0][1].known.any())


NEAR = [chain for chain in CHAINS if all(window.stride == 1 for window in chain)]


@pytest.mark.parametrize("windows", NEAR)
def test_distances_from_the_ends_tell_classes_where_nothing_is_skipped(windows: tuple[Window, ...]) -> None:
    axis = PositionClasses(windows)
    (margin,) = margins_of((axis,)) or ()
    numbers = by_distances(torch.arange(axis.count)[None], (axis,))[0]
    for length in range(1, 24):
        line = torch.zeros(length, dtype=torch.int64)
        known = PositionClasses()
        for window in windows:
            behind = PositionClasses((*known.windows, window))
            reads = {
                tuple(int(r.int().argmax()) if r.any() else -1 for r in one): n
                for n, one in enumerate(reads_of(known if known.windows else None, window).bool())
            }
            line = torch.tensor([reads[one] for one in _read(window, line)], dtype=torch.int64)
            known = behind
        found = [int(numbers[pair_of(place, len(line), margin)]) for place in range(len(line))]
        assert found == line.tolist()


def _read(window: Window, line: Tensor) -> list[tuple[int, ...]]:
    """What each position behind the window reads, -1 outside."""
    padded = F.pad(line, window.padding, value=-1)
    taps = (
        padded[None]
        if len(padded) < window.reach
        else padded.unfold(0, window.reach, 1)[:, :: window.dilation]
    )
    return [] if len(padded) < window.reach else [tuple(one) for one in taps.tolist()]


def test_strides_and_averages_have_no_margin() -> None:
    assert margins_of((None, PositionClasses((FIVE, THREE)))) == (0, 3)
    assert margins_of((PositionClasses((THREE, HALVING)),)) is None
    assert margins_of((PositionClasses((THREE,), is_mixed=True),)) is None
