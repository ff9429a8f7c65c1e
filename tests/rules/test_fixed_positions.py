"""Constants that differ from place to place: a bias takes none of them, multiples share one carrier."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from speedup import apply_masks, materialize, plan_speedup
from tests.support.contract import dropped, require_exact


class Positioned(nn.Module):
    """Six tokens of eight features, to which a table of as many places is added."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.table = nn.Parameter(table)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.first(x) + self.table)
        return result


def _table(kind: str) -> Tensor:
    table = torch.randn(6, 8, dtype=torch.float64)
    match kind:
        case "multiples":
            table[:, 4] = -2 * table[:, 1]
        case "of one peak":
            table[:, [1, 4]] = table[:, [1, 4]] / table[:, [1, 4]].abs().amax(0) / 2
            table[3, 1], table[3, 4] = 1.0, 2.0
        case "the same everywhere":
            table[:, [1, 4]] = table[0, [1, 4]].clone()
    return table


@pytest.mark.parametrize(
    ("kind", "kept"),
    [("no multiples", 8), ("of one peak", 8), ("multiples", 7), ("the same everywhere", 6)],
)
def test_features_that_are_constant_by_place_go_into_what_can_take_them(kind: str, kept: int) -> None:
    torch.manual_seed(0)
    model = Positioned(_table(kind)).double().eval()
    masks = dropped(model, {"first": (1, 4)})
    small = materialize(plan_speedup(model, torch.randn(3, 6, 5, dtype=torch.float64), masks)).eval()
    assert small.get_submodule("last").in_features == kept
    masked = apply_masks(model, masks).eval()
    require_exact(masked, small, lambda batch: torch.randn(batch, 6, 5, dtype=torch.float64))
