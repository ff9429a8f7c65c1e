"""What layers have to multiply is counted on what runs, and what masks leave of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.drawn import doubles, images
from tests.support.work import Work, layers_work

torch_seed = pytest.fixture(autouse=True)(lambda: torch.manual_seed(0))


def without_rows(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, *gone: int, dim: int = 0) -> None:
    with torch.no_grad():
        layer.weight.index_fill_(dim, torch.tensor(gone), 0)
        if layer.bias is not None and dim == 0:
            layer.bias[list(gone)] = 0


def test_columns_that_meet_constants_need_nothing() -> None:
    first, second = nn.Linear(4, 6), nn.Linear(6, 3)
    masked = nn.Sequential(first, nn.ReLU(), second).double()
    without_rows(first, 0, 1)
    work = layers_work(masked, masked, doubles(4)(5), doubles(4)(5))
    assert work == Work(before=5 * (24 + 18), needed=5 * (16 + 12), after=5 * (24 + 18))
    assert work.kept == 1
    assert work.allowed == pytest.approx(28 / 42)


def test_small_model_is_counted_as_it_runs() -> None:
    masked, small = nn.Linear(4, 6).double(), nn.Linear(4, 2).double()
    x = doubles(4)(3)
    assert layers_work(masked, small, x, 2 * x).after == 3 * 8


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_count_by_position_and_group(groups: int) -> None:
    widen = nn.Conv2d(3, 4, 1)
    conv = nn.Conv2d(4, 4, 3, padding=1, groups=groups)
    masked = nn.Sequential(widen, conv).double()
    without_rows(widen, 0)
    without_rows(conv, 0)
    x = images(2, 5)
    work = layers_work(masked, masked, x, images(2, 5))
    assert work.before == 2 * 25 * (12 + 9 * 16 // groups)
    # In two groups, one keeps a column for a row, the other all.
    assert work.needed == 2 * 25 * (9 + 9 * (9 if groups == 1 else 1 + 4))


def test_transposed_convolutions_count_by_what_they_read() -> None:
    conv = nn.ConvTranspose2d(3, 4, 2, stride=2).double()
    without_rows(conv, 1, dim=1)
    work = layers_work(conv, conv, images(2, 5), images(2, 5))
    assert work == Work(before=2 * 25 * 48, needed=2 * 25 * 36, after=2 * 25 * 48)


class Products(nn.Module):
    """One product with a weight, one of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight).softmax(-1) @ (x.T @ x).new_ones(5, 2) + F.linear(x, x)[:, :2]


def test_products_of_activations_are_no_layers() -> None:
    model = Products().double()
    assert layers_work(model, model, doubles(4)(3), doubles(4)(3)).before == 3 * 20
