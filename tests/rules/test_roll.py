"""Rolling by a number that nobody can rewrite: what wraps around stays, and the rest goes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from speedup import apply_masks, materialize, plan_speedup
from tests.support.contract import dropped, require_exact

_OPAQUE: dict[str, Callable[..., Tensor]] = {"roll": torch.roll}


class Rolled(nn.Module):
    """Eight features that are rolled by a function which the forward looks up, so that its call stays."""

    def __init__(self, shifts: int | tuple[int, ...], dims: int | tuple[int, ...] | None) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.rolled = shifts, dims

    def forward(self, x: Tensor) -> Tensor:
        arguments = self.rolled
        return self.last(_OPAQUE["roll"](torch.relu(self.first(x)), *arguments))


@pytest.mark.parametrize(
    ("shifts", "dims", "gone", "kept"),
    [
        pytest.param(1, -1, (3, 5), 6, id="what wraps is not masked"),
        pytest.param(1, -1, (3, 5, 7), 6, id="what wraps is masked"),
        pytest.param(-2, 1, (0, 3, 5), 6, id="backwards"),
        pytest.param(0, -1, (5, 7), 6, id="by nothing"),
        pytest.param(8, -1, (5,), 8, id="all the way round"),
        pytest.param(11, -1, (1, 2), 8, id="further than round"),
        pytest.param((2, 1), (0, 1), (1, 2, 7), 6, id="two dimensions"),
        pytest.param((1, 1), (1, -1), (1, 7), 8, id="one dimension twice"),
    ],
)
def test_only_what_wraps_around_must_stay(
    shifts: int | tuple[int, ...], dims: int | tuple[int, ...], gone: tuple[int, ...], kept: int
) -> None:
    torch.manual_seed(0)
    model = Rolled(shifts, dims).double().eval()
    masks = dropped(model, {"first": gone})
    small = materialize(plan_speedup(model, torch.randn(3, 4, dtype=torch.float64), masks))
    assert small.get_submodule("first").out_features == kept
    require_exact(apply_masks(model, masks), small, lambda batch: torch.randn(batch, 4, dtype=torch.float64))
