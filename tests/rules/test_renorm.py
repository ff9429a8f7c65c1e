"""`renorm` scales slices by their norms, in which zeros do not count (the weights of EEGNet and its kin)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedup import apply_masks, materialize, plan_speedup

Step: TypeAlias = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """Two convolutions; the second one's weight may be scaled, or what lies between them."""

    def __init__(self, between: Step, after: Step) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 8, 3, padding=1), nn.Conv1d(8, 6, 1)
        self.between, self.after = between, after
        self.double().eval()

    def forward(self, x: Tensor) -> Any:
        return self.after(self, self.between(self, self.first(x).relu()))


def as_given(self: Net, y: Tensor) -> Tensor:
    return y


def convolved(self: Net, y: Tensor) -> Tensor:
    return self.second(y)


FORMS: dict[str, tuple[Step, Step, int]] = {
    "rows of a weight": (
        as_given,
        lambda s, y: F.conv1d(y, torch.renorm(s.second.weight, 2, 0, 0.5), s.second.bias),
        8,
    ),
    "columns of a weight": (as_given, lambda s, y: F.conv1d(y, s.second.weight.renorm(2, 1, 0.3)), 5),
    "channels": (lambda s, y: y.renorm(2, 1, 0.5), convolved, 5),
    "samples": (lambda s, y: y.renorm(1, 0, 2.0), convolved, 5),
    "positions": (lambda s, y: torch.renorm(y, p=3, dim=2, maxnorm=0.7), convolved, 5),
    "by the largest": (lambda s, y: torch.renorm(y, float("inf"), -1, 0.7), convolved, 5),
    "samples with constants": (lambda s, y: (y + 0.5).renorm(2, 0, 2.0), convolved, 8),
}


@pytest.mark.parametrize("name", FORMS)
def test_masked_channels_go_through_renorm(name: str) -> None:
    """But for those whose columns count among the norms of a weight's rows."""
    between, after, kept = FORMS[name]
    torch.manual_seed(0)
    model = Net(between, after)
    keep = torch.tensor([0.0, 0, 1, 1, 1, 0, 1, 1])
    masks = {"first": {"weight": keep.view(8, 1, 1), "bias": keep}}

    small: Any = materialize(plan_speedup(model, torch.randn(2, 3, 7).double(), masks))

    assert small.second.weight.shape[1] == kept
    for shape in ((1, 3, 7), (4, 3, 12)):
        x = torch.randn(shape).double()
        assert torch.allclose(apply_masks(model, masks)(x), small(x), rtol=0, atol=1e-12)


def test_columns_that_are_masked_too_do_not_count() -> None:
    between, after, _ = FORMS["rows of a weight"]
    model = Net(between, after)
    keep = torch.tensor([0.0, 0, 1, 1, 1, 0, 1, 1])
    masks = {
        "first": {"weight": keep.view(8, 1, 1), "bias": keep},
        "second": {"weight": keep.view(1, 8, 1)},
    }
    x = torch.randn(2, 3, 7).double()

    small: Any = materialize(plan_speedup(model, x, masks))

    assert small.second.weight.shape[1] == 5
    assert torch.allclose(apply_masks(model, masks)(x), small(x), rtol=0, atol=1e-12)
