"""Of the ways that a rule offers to carry an op, planning takes the cheapest that the source can state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from speedup import STANDARD, apply_masks, materialize, plan_speedup
from speedup.engine.constraints import Pinned
from speedup.engine.keepsets import KeepSets
from speedup.ir.edits import RewriteForward
from speedup.ir.graph import Op
from speedup.lowerings import LOWERINGS, Alternative, Lowering, MeanOfTotal
from speedup.lowerings.lowering import Written
from speedup.lowerings.syntax import Change, end_of
from speedup.rules.rule import Alternatives, Sizes
from speedup.rules.site import Site

MEAN = torch.ops.aten.mean.dim


class Net(nn.Module):
    """A mean over features of which some are zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)).mean(1, keepdim=True))


@frozen
class Scaled(Lowering):
    """The mean of what is left, times its share."""

    share: float
    can_be_written: bool = True

    def compute(self, op: Op, arguments: Mapping[str, Any], operands: Sequence[Tensor]) -> Sequence[Tensor]:
        return [operands[0].mean(op["dim"], op["keepdim"]) * self.share]

    def rewrite(self, written: Written) -> tuple[Change, ...] | None:
        end = end_of(written.node)
        return (Change(end, end, f" * {self.share}"),) if self.can_be_written else None


def source_with(*offers: Alternatives) -> str:
    """The source that the net's forward gets when the mean's rule offers these; it is exact."""

    def all_of_them(site: Site, sizes: Sizes, kept: KeepSets) -> Iterable[Alternative]:
        return [one for offer in offers for one in offer(site, sizes, kept)]

    rules = {**STANDARD, MEAN: evolve(STANDARD[MEAN.overloadpacket], alternatives=all_of_them)}
    torch.manual_seed(0)
    model, x = Net().double(), torch.randn(3, 4, dtype=torch.float64)
    rows = torch.arange(8) > 2
    masks = {"first.weight": rows[:, None].expand(8, 4), "first.bias": rows}
    plan = plan_speedup(model, x, masks, rules=rules)
    small, masked = materialize(plan), apply_masks(model, masks)
    for batch in (1, 5):
        given = torch.randn(batch, 4, dtype=torch.float64)
        torch.testing.assert_close(small(given), masked(given), rtol=1e-12, atol=1e-12)
    found = [edit.functions[0].source for edit in plan.edits if isinstance(edit, RewriteForward)]
    assert isinstance(small, Net) and (small.first.out_features == 8) == (not found)
    return found[0] if found else ""


def total(cost: int) -> Alternatives:
    return lambda site, sizes, kept: [Alternative(MeanOfTotal(8), cost=cost)]


def scaled(cost: int, can_be_written: bool = True, constraints: tuple[Pinned, ...] = ()) -> Alternatives:
    def offer(site: Site, sizes: Sizes, kept: KeepSets) -> Iterable[Alternative]:
        share = sizes(site.op.operands[0])[1] / 8
        yield Alternative(Scaled(share, can_be_written), constraints, cost)

    return offer


def test_the_cheapest_is_taken_whatever_the_order() -> None:
    assert "/ 8" in source_with(total(1), scaled(2))
    assert "* 0.625" in source_with(total(3), scaled(2))


def test_what_cannot_be_written_gives_way_to_the_next() -> None:
    assert "/ 8" in source_with(scaled(0, can_be_written=False), total(7))
    assert source_with(scaled(0, can_be_written=False)) == ""


def test_a_way_under_constraints_is_taken_once_they_are_granted() -> None:
    def pinned(site: Site, sizes: Sizes, kept: KeepSets) -> Iterable[Alternative]:
        data = site.op.operands[0].index
        first = Pinned((data, 1), site.because("the test asks for it"), torch.arange(8) >= 2)
        return scaled(0, constraints=(first,))(site, sizes, kept)

    assert "* 0.75" in source_with(pinned)


@pytest.mark.parametrize("kind", LOWERINGS)
def test_a_lowering_says_what_it_computes_writes_and_borrows(kind: type[Lowering]) -> None:
    assert kind.compute.__doc__ and kind.rewrite.__doc__
    known = {"torch", "partial_layer_norm", "select_indices", "add_rows", "fill_rows", "gate_rows"}
    assert set(kind.helpers) <= known | {"add_border"}
