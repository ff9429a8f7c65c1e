"""Channels that a forward selects by a list of numbers: what is left of them is selected by other numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import apply_masks, materialize, plan_speedup


class Selecting(nn.Module):
    """A convolution, a selection of its channels, and what reads them."""

    order: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 10, 3, padding=1), nn.Conv1d(count, 4, 1)
        self.register_buffer("order", torch.tensor([9, 0, 3, 4, 3]))
        self.double().eval()


class Listed(Selecting):
    def forward(self, x: Tensor) -> Any:
        return self.second(self.first(x)[:, [0, 2, 4, 6, 8]])


class Turned(Selecting):
    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        return self.second(y[:, list(range(9, -1, -1)), :])


class Counted(Selecting):
    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        chosen = torch.tensor([-1, 4, 5, -3])
        return self.second(y[:, chosen])


class Held(Selecting):
    def forward(self, x: Tensor) -> Any:
        return self.second(self.first(x).relu()[:, self.order])


class Last(Selecting):
    def forward(self, x: Tensor) -> Any:
        y = self.first(x).transpose(1, 2)
        return self.second(y[..., [1, 0, 5, 7]].transpose(1, 2))


class Twice(Selecting):
    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        return self.second(y[:, [0, 1, 2, 3, 4]] + y[:, [9, 8, 7, 6, 5]])


class Apart(Selecting):
    """Where the numbers stand, no other numbers can stand: the selection keeps all that it is about."""

    def forward(self, x: Tensor) -> Any:
        return self.second(torch.Tensor.__getitem__(self.first(x), (slice(None), [0, 2, 4, 6, 8])))


Kind = Callable[[int], Selecting]
FORMS: dict[str, tuple[Kind, int, int, int]] = {
    "a list": (Listed, 5, 3, 3),
    "turned round": (Turned, 10, 7, 7),
    "counted from the end": (Counted, 4, 2, 2),
    "a buffer, one number twice": (Held, 5, 2, 3),
    "the last dimension": (Last, 4, 2, 2),
    "two that are added": (Twice, 5, 8, 4),
    "not in a subscript": (Apart, 5, 10, 5),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("has_constants", [False, True], ids=["zeros", "constants"])
def test_a_selection_takes_what_is_left(name: str, has_constants: bool) -> None:
    kind, count, made, read = FORMS[name]
    torch.manual_seed(0)
    model = kind(count)
    keep = torch.tensor([float(i not in (0, 4, 5)) for i in range(10)])
    masks = {"first": {"weight": keep.view(10, 1, 1)} | ({} if has_constants else {"bias": keep})}

    small: Any = materialize(plan_speedup(model, torch.randn(2, 3, 7).double(), masks))

    assert (small.first.out_channels, small.second.in_channels) == (made, read)
    oracle = apply_masks(model, masks)
    for shape in ((1, 3, 7), (4, 3, 12), (3, 3, 5)):
        x = torch.randn(shape).double()
        assert torch.allclose(oracle(x), small(x), rtol=0, atol=1e-12)
