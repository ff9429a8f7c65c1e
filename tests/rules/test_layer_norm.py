"""LayerNorm and RMSNorm over features of which some are constant."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from tests.support.contract import dropped, shrunk
from tests.support.drawn import doubles

vectors = doubles(4)

GONE = (0, 3, 7)


def normed(norm: nn.Module, *, bias: bool = True) -> nn.Sequential:
    """A norm with lively parameters between two linear layers."""
    model = nn.Sequential(nn.Linear(4, 12, bias=bias), norm, nn.Linear(12, 3)).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    return model


def without_rows(model: nn.Sequential, which: Sequence[int], constant: bool) -> dict[str, dict[str, Tensor]]:
    """Masks of rows that become 0, or else their biases, and of what scales them in the norm."""
    masks = dropped(model, {"0": which})
    if constant:
        del masks["0"]["bias"]
    weight = torch.ones(12)
    weight[list(which)] = 0
    return {**masks, "1": {"weight": weight}}


NORMS = {
    "layer norm": lambda: nn.LayerNorm(12),
    "layer norm without bias": lambda: nn.LayerNorm(12, bias=False, eps=1e-2),
    "rms norm": lambda: nn.RMSNorm(12),
    "rms norm with epsilon": lambda: nn.RMSNorm(12, eps=1e-2),
}


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_constant_features_go_and_their_statistics_stay(name: str, constant: bool) -> None:
    model = normed(NORMS[name]())
    _, small = shrunk(model, vectors, masks=without_rows(model, GONE, constant))
    assert (small[0].out_features, tuple(small[1].weight.shape)) == (9, (9,))
    assert tuple(small[1].normalized_shape) == (9,)


@pytest.mark.parametrize("name", NORMS)
def test_features_that_the_norm_makes_differ_stay(name: str) -> None:
    """Zeros that are centred and scaled by a live weight are not the same for every input."""
    model = normed(nn.LayerNorm(12) if "layer" in name else NORMS[name](), bias="layer" in name)
    _, small = shrunk(model, vectors, {"0": GONE})
    assert small[0].out_features == (12 if "layer" in name else 9)


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_shrinks_twice(name: str) -> None:
    model = normed(NORMS[name]())
    _, small = shrunk(model, vectors, masks=without_rows(model, GONE, True))
    masks = {k: {n: m[:9] for n, m in own.items()} for k, own in without_rows(model, (1, 2), True).items()}
    _, smaller = shrunk(small, vectors, masks=masks)
    assert smaller[0].out_features in (7, 9)


def test_a_norm_over_two_dimensions_keeps_them() -> None:
    norm = nn.LayerNorm([3, 4])
    model = nn.Sequential(nn.Linear(4, 12), nn.Unflatten(1, (3, 4)), norm, nn.Flatten(), nn.Linear(12, 3))
    _, small = shrunk(model, vectors, {"0": (0, 1, 2, 3)})
    assert small[0].out_features == 12


def test_features_that_differ_between_positions_stay() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.head = nn.Linear(4, 12), nn.LayerNorm(12), nn.Linear(12, 3)
            self.register_buffer("table", torch.randn(5, 12))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.first(x) + self.table))

    model = Shifted()
    weight = torch.ones(12)
    weight[list(GONE)] = 0
    masks = {**dropped(model, {"first": GONE}), "norm": {"weight": weight}}

    def make(batch: int) -> Tensor:
        return torch.randn(batch, 5, 4, dtype=torch.float64)

    _, small = shrunk(model, make, masks=masks, importable=False)
    assert small.first.out_features == 12


class CalledTwice(nn.Module):
    """One norm for two streams, of which only one has features that are gone."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 12), nn.Linear(4, 12)
        self.norm, self.leave = norm, nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.norm(self.left(x)) * torch.sigmoid(self.norm(self.right(x))))


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_that_is_called_twice_stays_exact(name: str) -> None:
    model = CalledTwice(NORMS[name]())
    shrunk(model, vectors, {"left": GONE, "right": GONE}, importable=False)


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_that_nothing_reads_keeps_no_features(name: str) -> None:
    """The weight of 0 leaves a bias, so that neither features nor statistics count."""
    model = normed(NORMS[name]())
    masks = {"1": {"weight": torch.zeros(12)}, **dropped(model, {"0": (0,)})}
    _, small = shrunk(model, vectors, masks=masks)
    assert small[0].out_features == 1
