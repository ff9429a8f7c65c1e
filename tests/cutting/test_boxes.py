"""A box of a new tensor is the same piece of the whole new tensor, bit for bit."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from speedup.cutting.boxes import BoxChange
from speedup.cutting.planned import PlannedTensors
from tests.support.cut_cases import each_case, planned_once


def halves_of(extent: int) -> list[slice]:
    """All that begins and ends at a few places of a dimension, nothing too."""
    ends = sorted({0, 1, extent // 2, extent})
    return [slice(a, b) for a, b in combinations(ends, 2)] + [slice(extent, extent)]


def boxes_of(tensor: Tensor) -> list[tuple[slice, ...]]:
    """One dimension is cut after the other."""
    whole = tuple(slice(0, extent) for extent in tensor.shape)
    cut = [
        (*whole[:dim], span, *whole[dim + 1 :])
        for dim, extent in enumerate(tensor.shape)
        for span in halves_of(extent)
    ]
    return [whole, *cut]


@each_case
def test_boxes_are_those_of_the_whole(case: str) -> None:
    model, plan = planned_once(case)
    planned = PlannedTensors(plan)
    for name, tensor in model.state_dict().items():
        for change in (planned.change(name, tensor.shape, tensor.dtype), planned.slices(name)):
            whole = change.whole(tensor)
            for box in boxes_of(whole):
                part = BoxChange(change, tuple(tensor.shape), box)
                assert torch.equal(part.made_of(tensor[part.source].clone()), whole[box]), (name, box)


def test_no_more_is_read_than_what_lies_between_the_first_and_the_last() -> None:
    model, plan = planned_once("with_bias_masks")
    weight = model.get_parameter("2.weight")
    change = PlannedTensors(plan).change("2.weight", weight.shape, weight.dtype)
    # Rows 0, 1, 3, 4, 5 and columns 0, 2, 3, 5, 6, 7 stay.
    box = (slice(1, 3), slice(2, 5))
    assert BoxChange(change, (6, 8), box).source == (slice(1, 4), slice(3, 7))
    assert BoxChange(change, (6, 8), box, needs_whole=True).source == (slice(0, 6), slice(0, 8))
    assert BoxChange(change, (6, 8), (slice(0, 0), slice(0, 6))).source[0] == slice(0, 0)
