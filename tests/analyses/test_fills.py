"""Where constants are computed since an op needs all rows, and what that says."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup.analyses.analysis import Analysis
from speedup.analyses.fills import Gap, find_gaps
from speedup.engine.constraints import Equal, Subset
from speedup.ir.inputs import example_from
from speedup.ir.inserting import insert_copies
from speedup.masks import resolve_masks
from speedup.modules.reparametrized import Plain
from speedup.planning.planner import Request, find_solution
from speedup.rules import STANDARD

ROWS = 6


class Reading(nn.Module):
    """A layer whose rows are read by what the test says."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(4, ROWS)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.first(x))


def gone(*rows: int) -> Tensor:
    mask = torch.ones(ROWS, 4)
    mask[list(rows)] = 0
    return mask


def analysis_of(model: nn.Module, masks: dict[str, Any], x: Tensor) -> Analysis:
    """What planning without lowerings finds."""
    example = example_from(x, None)
    plain, resolved = Plain(model), resolve_masks(model, masks)
    request = Request(model, plain, (example,), resolved, STANDARD, (), None, frozenset())
    with torch.no_grad():
        return find_solution(request).analysis


def gaps_of(
    model: nn.Module, masks: dict[str, Any], x: Tensor | None = None, apart: Collection[str] = ()
) -> tuple[Gap, ...]:
    """The gaps of a model, but for those of operators named `apart`."""
    analysis = analysis_of(model, masks, torch.randn(3, 4) if x is None else x)
    return find_gaps(analysis, {op.index for op in analysis.graph.ops if op.name in apart})


def test_rows_that_are_one_constant_each_make_a_gap() -> None:
    model = Reading(lambda y: torch.softmax(y, -1))
    (gap,) = gaps_of(model, {"first": {"weight": gone(1, 4)}})
    assert (gap.reader.name, gap.dim, gap.source.name) == ("softmax", 1, "linear")
    assert gap.spare.tolist() == [False, True, False, False, True, False]
    assert torch.equal(gap.constants, torch.where(gap.spare, model.first.bias.detach(), 0))


def test_the_gap_is_before_the_last_op_that_knows_of_the_constants() -> None:
    model = Reading(lambda y: torch.softmax(torch.relu(y) * 2, -1))
    (gap,) = gaps_of(model, {"first": {"weight": gone(1, 4)}})
    assert gap.reader.name == "softmax"
    assert torch.equal(gap.constants, torch.where(gap.spare, model.first.bias.detach().relu() * 2, 0))


@pytest.mark.parametrize(
    ("read", "why"),
    [
        (lambda y: torch.relu(y).sum(-1), "rows go"),
        (lambda y: torch.softmax(y.t(), -1), "rows stand along another dimension"),
        (lambda y: y.cumsum_(-1), "it is written to where it stands"),
        (lambda y: y @ torch.ones(ROWS, ROWS).triu(), "a product needs no zeros"),
    ],
)
def test_what_makes_no_gap(read: Callable[[Tensor], Tensor], why: str) -> None:
    masks = {"first": {"weight": gone(1, 4), "bias": gone(1, 4)[:, 0]}}
    assert [g for g in gaps_of(Reading(read), masks) if g.dim == 1] == [], why


def test_an_extent_that_follows_the_input_has_no_gap() -> None:
    """Rows along the batch are constants too, for this batch."""
    model = Reading(lambda y: torch.softmax(y.t(), 0))
    gaps = gaps_of(model, {"first": {"weight": gone(*range(ROWS))}}, torch.randn(3, 4))
    assert gaps == ()
    assert [
        g.dim for g in gaps_of(Reading(lambda y: torch.softmax(y.t(), 0)), {"first": {"weight": gone(1)}})
    ] == [0]


def test_a_batch_with_constants_in_it_has_no_gap() -> None:
    """The first two of whatever is given are replaced: another batch has others behind them."""

    def padded(y: Tensor) -> Tensor:
        return torch.softmax(torch.cat([torch.zeros(2, ROWS), y * y]), 0)

    assert all(gap.dim != 0 for gap in gaps_of(Reading(padded), {"first": {"weight": gone(1, 4)}}))


def test_ops_that_are_carried_in_other_ways_have_none() -> None:
    model = Reading(lambda y: torch.softmax(y, -1))
    assert gaps_of(model, {"first": {"weight": gone(1, 4)}}, apart={"softmax"}) == ()


def test_rows_that_nobody_needs_make_none() -> None:
    assert gaps_of(Reading(lambda y: torch.softmax(y, -1)), {}) == ()
    assert gaps_of(Reading(lambda y: torch.softmax(y, -1)), {"first": {"weight": gone(*range(ROWS))}}) == ()


def test_a_copy_lets_the_rows_go_and_holds_the_rest_together() -> None:
    model = Reading(lambda y: torch.softmax(y, -1))
    analysis = analysis_of(model, {"first": {"weight": gone(1, 4)}}, torch.randn(3, 5, 4))
    (gap,) = find_gaps(analysis, ())
    inserted = insert_copies(analysis.graph, {(gap.reader.index, gap.argument)})
    fill = gap.filled(inserted)
    assert fill.reader is inserted.op(gap.reader) and fill.restated is fill.reader
    assert fill.source is inserted.op(gap.source)
    rows, whole = fill.copy.operands[0].index, fill.copy.result.index
    assert (fill.part, fill.whole) == ((rows, 2), (whole, 2))
    tied = [set(c.dims) for c in fill.couple() if isinstance(c, Equal)]
    assert tied == [{(rows, 0), (whole, 0)}, {(rows, 1), (whole, 1)}]
    (subset,) = (c for c in fill.couple() if isinstance(c, Subset))
    assert (subset.part, subset.whole) == (fill.part, fill.whole)
    assert torch.equal(subset.spare, gap.spare)
