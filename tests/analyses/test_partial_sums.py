"""Which sums have an operand with rows that are constants, and what that says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup.analyses.constants import find_constants
from speedup.analyses.partial_sums import PartialSum, find_partial_sums
from speedup.engine.constraints import Equal
from speedup.ir.inputs import example_from
from speedup.masks import resolve_masks
from speedup.rules import STANDARD
from speedup.tracing.islands import survey


class Branch(nn.Module):
    """Two branches that are put together by what the test says."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(4, 6)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.first(x), self.second(x))


def gone(*rows: int) -> Tensor:
    mask = torch.ones(6, 4)
    mask[list(rows)] = 0
    return mask


def sums_of(model: nn.Module, x: Any, masks: dict[str, Any]) -> tuple[PartialSum, ...]:
    with torch.no_grad():
        trace = survey(model, (example_from(x, None),)).trace
    facts = find_constants(trace.graph, trace.tensors, resolve_masks(model, masks), STANDARD)
    return find_partial_sums(trace.graph, facts, STANDARD)


def test_rows_that_are_one_constant_each_are_spare() -> None:
    model = Branch(lambda a, b: a + b)
    (one,) = sums_of(model, torch.randn(3, 4), {"second": {"weight": gone(1, 4)}})
    assert (one.operand, one.dim) == (1, 1)
    assert one.spare.tolist() == [False, True, False, False, True, False]
    bias = model.second.bias.detach()
    assert torch.equal(one.constants, torch.where(one.spare, bias, 0))
    assert one.stream is one.op.operands[0] and one.rows is one.op.operands[1]


def test_rows_and_stream_go_together_along_the_other_dimensions() -> None:
    (one,) = sums_of(Branch(lambda a, b: a + b), torch.randn(3, 5, 4), {"second": {"weight": gone(1, 4)}})
    values = (one.stream, one.op.result, one.rows)
    tied = [set(c.dims) for c in one.couple() if isinstance(c, Equal)]
    for dim in (0, 1):
        assert any({(value.index, dim) for value in values} <= dims for dims in tied)
    assert any({(one.stream.index, 2), (one.op.result.index, 2)} <= dims for dims in tied)
    assert not any((one.rows.index, 2) in dims for dims in tied)


@pytest.mark.parametrize(("first", "second", "operand"), [((0,), (), 0), ((), (0,), 1)])
def test_either_operand_may_have_them(first: tuple[int, ...], second: tuple[int, ...], operand: int) -> None:
    masks = {"first": {"weight": gone(*first)}, "second": {"weight": gone(*second)}}
    (one,) = sums_of(Branch(lambda a, b: a + b), torch.randn(3, 4), masks)
    assert one.operand == operand


def test_of_two_the_dearer_one_is_to_have_fewer_rows() -> None:
    model = Branch(lambda a, b: a + b)
    model.first = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(1, 6))  # type: ignore[assignment]
    mask = torch.ones(6, 1)
    mask[:3] = 0
    masks = {"first.2": {"weight": mask}, "second": {"weight": gone(4)}}
    (one,) = sums_of(model, torch.randn(3, 4), masks)
    assert one.operand == 1


@pytest.mark.parametrize(
    "join",
    [
        lambda a, b: a - b,
        lambda a, b: a * b,
        lambda a, b: torch.add(a, b, alpha=3),
        lambda a, b: a + b[:1],
        lambda a, b: a + b[:, None],
        lambda a, b: b + 1,
        lambda a, b: b + b,
        lambda a, b: a + b.double(),
    ],
)
def test_other_ops_have_none(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert sums_of(Branch(join), torch.randn(3, 4), {"second": {"weight": gone(1, 4)}}) == ()


def test_rows_that_differ_from_place_to_place_are_not_spare() -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3)
            self.place = nn.Parameter(torch.randn(4, 6))

        def forward(self, x: Tensor) -> Tensor:
            return x[..., :6] + (self.conv(x) + self.place)

    mask = torch.ones(4, 4, 3)
    mask[1] = 0
    assert sums_of(Placed(), torch.randn(2, 4, 8), {"conv": {"weight": mask}}) == ()


def test_nothing_is_spare_where_nothing_is_known_or_all_is_one_constant() -> None:
    assert sums_of(Branch(lambda a, b: a + b), torch.randn(3, 4), {}) == ()
    every = {"second": {"weight": gone(*range(6)), "bias": torch.zeros(6)}}
    assert sums_of(Branch(lambda a, b: a + b), torch.randn(3, 4), every) == ()
    some = {**every, "first": {"weight": gone(1, 4)}}
    assert sums_of(Branch(lambda a, b: a + b), torch.randn(3, 4), some) == ()


def test_all_rows_are_spare_of_what_is_a_constant_in_each() -> None:
    every = {"second": {"weight": gone(*range(6))}, "first": {"weight": gone(1, 4)}}
    (found,) = sums_of(Branch(lambda a, b: a + b), torch.randn(3, 4), every)
    assert found.operand == 1 and bool(found.spare.all())
