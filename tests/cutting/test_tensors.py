"""Tensors that are changed a few rows at a time are those that are changed as a whole, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from speedup.cutting.blocks import changed_blocks
from speedup.cutting.tensors import TensorChange, apply_edits, changes_of
from speedup.ir.edits import AddToParameter, CombineColumns, ConstantTensor, MergeColumns, Slice, SliceGroups
from speedup.ir.graph import Shape
from tests.support.cut_cases import CASES, planned_once


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


FACTORS = tuple(drawn(4, seed=5).tolist())
CHANGES: Mapping[str, tuple[Shape, TensorChange]] = {
    "nothing": ((6, 4), TensorChange()),
    "a number": ((), TensorChange(None, (AddToParameter("", ConstantTensor(torch.tensor(0.3)), ""),))),
    "a vector": ((9,), TensorChange(None, (Slice("", 0, (0, 3, 4, 8)),))),
    "no rows at all": ((0, 3), TensorChange(None, (Slice("", 1, (0, 2)),))),
    "a mask by row": ((6, 4), TensorChange(drawn(6, 1) > 0, (Slice("", 1, (1, 3)),))),
    "a mask by column": ((6, 4), TensorChange(drawn(1, 4) > 0, (Slice("", 0, (1, 3)),))),
    "another order": ((7, 4), TensorChange(drawn(7, 4) > 0, (Slice("", 0, (5, 1, 2, 0)),))),
    "one after another": ((7, 4), TensorChange(None, (Slice("", 0, (1, 3, 5)), Slice("", 0, (0, 2))))),
    "all dimensions": (
        (7, 6, 5, 4),
        TensorChange(None, tuple(Slice("", dim, (0, 2, 3)) for dim in range(4))),
    ),
    "added": (
        (8, 3),
        TensorChange(
            None, (AddToParameter("", ConstantTensor(drawn(8, 3).double()), ""), Slice("", 0, (2, 7)))
        ),
    ),
    "one column": (
        (9, 12, 3),
        TensorChange(
            drawn(9, 12, 3, seed=4) > -1,
            (MergeColumns("", 1, 2, (0, 5, 6, 11), FACTORS, None, ""), Slice("", 0, (1, 2, 7, 8))),
        ),
    ),
    "one column of a group's rows": (
        (9, 12),
        TensorChange(
            None, (MergeColumns("", 1, 2, (0, 5, 6, 11), FACTORS, (3, 8), ""), Slice("", 0, (2, 4, 8)))
        ),
    ),
    "some columns": (
        (9, 8, 2, 2),
        TensorChange(
            None,
            (
                CombineColumns(
                    "", 1, (1, 4, 6), (0, 2, 3, 7), ConstantTensor(drawn(4, 3).double()), None, ""
                ),
                Slice("", 1, (1, 4, 5, 6)),
                Slice("", 0, (0, 8)),
            ),
        ),
    ),
    "rows into a row": (
        (12, 5),
        TensorChange(
            None, (MergeColumns("", 0, 2, (0, 5, 6, 11), FACTORS, None, ""), Slice("", 0, (1, 2, 3)))
        ),
    ),
    "each group its columns": (
        (8, 4, 3),
        TensorChange(None, (SliceGroups("", (0, 2, 5, 6), ((0, 1), (0, 1), (2, 3), (1, 3))),)),
    ),
}
each_change = pytest.mark.parametrize("name", CHANGES)


class Counted:
    """A tensor that notes which of its rows are read."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.shape, self.dtype = tensor, tuple(tensor.shape), tensor.dtype
        self.spans: list[tuple[int, int]] = []

    def read(self, start: int, stop: int) -> Tensor:
        self.spans.append((start, stop))
        return self.tensor[start:stop] if self.shape else self.tensor


@each_change
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("most", [1, 40, 200, 1 << 20])
def test_pieces_are_the_whole(name: str, dtype: torch.dtype, most: int) -> None:
    shape, change = CHANGES[name]
    tensor = drawn(*shape, seed=1).to(dtype)
    before, whole = tensor.clone(), change.whole(tensor)
    assert tuple(whole.shape) == change.shape(shape) and whole.dtype is dtype and whole.is_contiguous()
    pieces = [*changed_blocks(change, Counted(tensor), most)]
    found = torch.cat(pieces) if shape and pieces else (pieces or [whole])[0]
    assert torch.equal(found, whole) and torch.equal(tensor, before)
    assert whole.data_ptr() != tensor.data_ptr() or not whole.numel()


def test_multiples_of_columns_are_added_to_the_rows_of_one_group_alone() -> None:
    tensor, factors = drawn(6, 4), ConstantTensor(torch.tensor([[2.0]]))
    found = TensorChange(None, (CombineColumns("", 1, (0,), (2,), factors, (2, 5), ""),)).whole(tensor)
    wanted = tensor.clone()
    wanted[2:5, 0] += 2 * tensor[2:5, 2]
    assert torch.equal(found, wanted)


@each_change
def test_no_more_is_read_at_once_than_asked_for(name: str) -> None:
    shape, change = CHANGES[name]
    source = Counted(drawn(*shape))
    row = max(source.tensor[:1].nbytes, 1) if shape else 4
    for most in (1, 2 * row, 5 * row):
        source.spans.clear()
        assert sum(len(piece) if shape else 1 for piece in changed_blocks(change, source, most)) >= 0
        if not change.needs_all_rows:
            assert all((stop - start) * row <= max(most, row) for start, stop in source.spans)


def test_rows_that_go_are_not_read() -> None:
    wide = Counted(torch.zeros(100, 1 << 15))  # two rows are a gap
    change = TensorChange(None, (Slice("", 0, (3, 4, 6, 40, 41, 99)),))
    assert len(torch.cat([*changed_blocks(change, wide, 1 << 30)])) == 6
    assert wide.spans == [(3, 5), (6, 7), (40, 42), (99, 100)]


def test_rows_close_to_one_another_are_read_together() -> None:
    narrow = Counted(torch.arange(1000.0))
    change = TensorChange(None, (Slice("", 0, tuple(range(0, 1000, 3))),))
    assert torch.equal(torch.cat([*changed_blocks(change, narrow, 1 << 20)]), torch.arange(0.0, 1000.0, 3))
    assert narrow.spans == [(0, 1000)]


def test_sums_follow_the_order_of_the_columns() -> None:
    tensor = drawn(5, 6, seed=2).double()
    (merged,) = apply_edits(
        {"w": tensor}, {}, [MergeColumns("w", 1, 1, (0, 3, 5), FACTORS[:3], None, "")]
    ).values()
    carried = torch.zeros(5, dtype=torch.float64)
    for factor, column in zip(FACTORS, (0, 3, 5), strict=False):
        carried = carried + tensor[:, column] * factor
    assert torch.equal(merged[:, 1], tensor[:, 1] + carried)


def test_moments_are_sliced_and_masked_and_nothing_is_added_to_them() -> None:
    _, change = CHANGES["one column"]
    tensor, slices = drawn(9, 12, 3), change.slices
    assert torch.equal(slices.whole(tensor), torch.where(change.mask, tensor, 0)[[1, 2, 7, 8]])  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_edit_is_in_some_case(case: str) -> None:
    kinds = {type(e) for c in CASES for e in planned_once(c)[1].edits} if case == "sliced" else set()
    assert case != "sliced" or {Slice, SliceGroups, AddToParameter, MergeColumns, CombineColumns} <= kinds
    model, plan = planned_once(case)
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, change in changes_of(plan.subject.masks, plan.edits).items():
        tensor = held[name].detach()
        found = torch.cat([*changed_blocks(change, Counted(tensor), 64)])
        assert torch.equal(found, change.whole(tensor))
