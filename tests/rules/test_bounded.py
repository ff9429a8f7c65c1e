"""Results lie within the bounds that rules tell of them, and 0 over what cannot be 0 is 0."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from attrs import evolve
from torch import Tensor
from torch.nn import functional as F

from speedup.engine.bounds import OPEN, Bounds
from speedup.engine.lattice import unknown
from speedup.rules import STANDARD, Operator
from speedup.rules.rule import no_bounds
from tests.support.between import CHANNELS, LEFT, channels_left
from tests.support.example_calls import calls_of
from tests.support.ruled import UNCALLABLE, UNDEFINED, own_overloads
from tests.support.soundness import Case

_BOUNDS = (OPEN, Bounds(0, float("inf")), Bounds(0.25, 3), Bounds(-2, 1), Bounds(-3, -0.5), Bounds(-1, 0))
_DRAWS = 24
BOUNDED = [key for key, rule in STANDARD.items() if rule.bounds is not no_bounds]


@cache
def examples(key: Operator | str) -> tuple[Case, ...]:
    callable_ = [o for o in own_overloads(key) if str(o) not in UNCALLABLE and str(o) not in UNDEFINED]
    return tuple(one for overload in callable_ for one in calls_of(overload))


@pytest.mark.parametrize("key", BOUNDED, ids=str)
def test_results_lie_within_their_bounds(key: Operator | str) -> None:
    for one in examples(key):
        for seed in range(_DRAWS):
            _check(key, one, torch.Generator().manual_seed(seed))


def _check(key: Operator | str, one: Case, generator: torch.Generator) -> None:
    chosen = torch.randint(len(_BOUNDS), (len(one.operands),), generator=generator).tolist()
    drawn = [t.sampler(t.shape, generator) for t in one.operands]
    bounds = [_BOUNDS[n] if t.dtype is torch.float64 else OPEN for n, t in zip(chosen, drawn, strict=True)]
    tensors = [_within(t, b) for t, b in zip(drawn, bounds, strict=True)]
    facts = [
        evolve(unknown(v.ndim, v.dtype), stated=bounds[n])
        for v, n in zip(one.op.operands, one.order, strict=True)
    ]
    for result, found in zip(one.run(tensors), STANDARD[key].bounds(one.op, facts), strict=True):
        finite = result[torch.isfinite(result)] if result.is_floating_point() else result.new_zeros(0)
        if not found.is_open and finite.numel():
            margin = 1e-9 * float(finite.abs().max())
            assert found.low - margin <= float(finite.min()), (one.op.target, bounds, found)
            assert float(finite.max()) <= found.high + margin, (one.op.target, bounds, found)


def _within(tensor: Tensor, bounds: Bounds) -> Tensor:
    if bounds.is_open:
        return tensor
    return tensor.clamp(bounds.low, min(bounds.high, 1e6))


NONZERO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "normalized": lambda y, z: F.normalize(y, dim=1),
    "over a norm": lambda y, z: y / (y.pow(2).sum(1, keepdim=True).sqrt() + 1e-10),
    "over a sum of squares": lambda y, z: y / ((y * y).sum(1, keepdim=True) + 1e-6) ** 0.5,
    "over a sum by hand": lambda y, z: y / (y.square().sum((2, 3), keepdim=True) / y.size(2) + 1e-3).sqrt(),
    "over what is no less than a number": lambda y, z: y / y.abs().sum(1, keepdim=True).clamp(min=1e-6),
    "over an exponential": lambda y, z: y / (1 + z.exp()),
    "softsign": lambda y, z: F.softsign(y),
    "over an average": lambda y, z: y / (F.avg_pool2d(z.abs(), 3, 1, 1) + 1),
    "over what is chosen": lambda y, z: y / torch.where(z > 0, z.abs() + 1, 2.0),
    "what is left": lambda y, z: torch.remainder(y, z.abs() + 1),
    "in place": lambda y, z: y.clone().div_(z.square().add(0.5)),
    "over the largest": lambda y, z: y / (y.amax(1, keepdim=True) + 1e-6),
    "a gate of the largest": lambda y, z: y * torch.sigmoid(y.max(1, keepdim=True)[0]),
}
PERHAPS_0: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "over anything": lambda y, z: y / z,
    "over what vanishes": lambda y, z: y / (-z).exp(),
    "over what may cross 0": lambda y, z: y / (z.abs() - 1),
    "over a product of two": lambda y, z: y / (1 + z * z.roll(1, 2)),
    "over what overshoots": lambda y, z: y / (F.interpolate(z.abs(), scale_factor=1.0, mode="bicubic") + 1),
    "a gate of the largest of both signs": lambda y, z: y * torch.sigmoid((y - 1).amax(1, keepdim=True)),
    "a gate of the largest of sines": lambda y, z: y * torch.sigmoid(y.sin().amax(1, keepdim=True)),
    "a gate of the place of the largest": lambda y, z: y * y.max(1, keepdim=True)[1],
}


def _with_another(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`function` of the channels and of a number of any sign at each position."""
    return lambda y: function(y, y.sum(1, keepdim=True) - 3)


@pytest.mark.parametrize("name", NONZERO)
def test_zeros_over_what_cannot_be_0_go(name: str) -> None:
    assert channels_left(_with_another(NONZERO[name])) == LEFT


@pytest.mark.parametrize("name", PERHAPS_0)
def test_zeros_over_what_may_be_0_stay(name: str) -> None:
    assert channels_left(_with_another(PERHAPS_0[name])) == CHANNELS
