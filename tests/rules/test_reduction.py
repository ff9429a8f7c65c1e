"""Rules of reductions, scans, pools and interpolation against the operators they speak for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from speedup.engine.lattice import constant
from speedup.rules import STANDARD, rule_for
from tests.support.other_batch import check_known_at_another_batch
from tests.support.soundness import SEEDS, Case, Tensors, blank, case, dead_claims, known_claims, made_once

DATA = (2, 3, 4)
IMAGE = (2, 3, 4, 4)
CASES: dict[str, Callable[[], Case]] = {
    "mean": lambda: case(lambda x: x.mean(1), DATA),
    "mean_keeping_dims": lambda: case(lambda x: x.mean((-1, 0), keepdim=True), DATA),
    "mean_of_all": lambda: case(lambda x: x.mean(), DATA),
    "sum": lambda: case(lambda x: x.sum(-1), DATA),
    "sum_of_two": lambda: case(lambda x: x.sum((0, 2)), DATA),
    "amax": lambda: case(lambda x: x.amax(1), DATA),
    "amin": lambda: case(lambda x: x.amin((1, 2), keepdim=True), DATA),
    "max_with_indices": lambda: case(lambda x: x.max(1), DATA),
    "max_of_all": lambda: case(lambda x: x.max(), DATA),
    "argmax": lambda: case(lambda x: x.argmax(1), DATA),
    "var": lambda: case(lambda x: x.var(2, unbiased=False), DATA),
    "var_mean": lambda: case(lambda x: torch.var_mean(x, 1), DATA),
    "logsumexp": lambda: case(lambda x: x.logsumexp(1), DATA),
    "any": lambda: case(lambda x: x.any(1), DATA),
    "vector_norm": lambda: case(lambda x: torch.linalg.vector_norm(x, dim=1), DATA),
    "vector_norm_of_all": lambda: case(lambda x: torch.linalg.vector_norm(x, ord=3), DATA),
    "softmax": lambda: case(lambda x: F.softmax(x, 1), DATA),
    "log_softmax": lambda: case(lambda x: F.log_softmax(x, -1), DATA),
    "cumsum": lambda: case(lambda x: x.cumsum(1), DATA),
    "sort": lambda: case(lambda x: x.sort(dim=1, stable=True), DATA),
    "topk": lambda: case(lambda x: x.topk(2, dim=2), DATA),
    "glu": lambda: case(lambda x: F.glu(x, 1), (2, 6, 3)),
    "glu_last": lambda: case(F.glu, (2, 3, 4)),
    "max_pool": lambda: case(lambda x: F.max_pool2d(x, 3, stride=2, padding=1), IMAGE),
    "max_pool_ceil": lambda: case(lambda x: F.max_pool2d(x, 3, stride=2, ceil_mode=True), IMAGE),
    "max_pool1d": lambda: case(lambda x: F.max_pool1d(x, 2, padding=1), DATA),
    "avg_pool_of_zeros": lambda: case(lambda x: F.avg_pool2d(x, 3, padding=1), Tensors(IMAGE, blank)),
    "avg_pool": lambda: case(lambda x: F.avg_pool2d(x, 2), IMAGE),
    "avg_pool_padded": lambda: case(lambda x: F.avg_pool2d(x, 3, stride=1, padding=1), IMAGE),
    "avg_pool_inside_only": lambda: case(
        lambda x: F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False), IMAGE
    ),
    "avg_pool_ceil": lambda: case(lambda x: F.avg_pool2d(x, 3, stride=2, ceil_mode=True), IMAGE),
    "avg_pool_ceil_padded": lambda: case(
        lambda x: F.avg_pool2d(x, 3, stride=2, padding=1, ceil_mode=True), (2, 3, 5, 4)
    ),
    "avg_pool_divisor": lambda: case(lambda x: F.avg_pool2d(x, 2, divisor_override=3), IMAGE),
    "avg_pool1d": lambda: case(lambda x: F.avg_pool1d(x, 2, padding=1), DATA),
    "adaptive_avg_pool": lambda: case(lambda x: F.adaptive_avg_pool2d(x, (3, 1)), IMAGE),
    "adaptive_avg_pool1d": lambda: case(lambda x: F.adaptive_avg_pool1d(x, 3), DATA),
    "adaptive_max_pool": lambda: case(lambda x: torch.ops.aten.adaptive_max_pool2d(x, [2, 3]), IMAGE),
    "nearest": lambda: case(lambda x: F.interpolate(x, scale_factor=2), IMAGE),
    "nearest_to_size": lambda: case(lambda x: F.interpolate(x, size=(3, 7)), IMAGE),
    "bilinear": lambda: case(
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), IMAGE
    ),
    "bicubic": lambda: case(
        lambda x: F.interpolate(x, size=(5, 7), mode="bicubic", align_corners=True), IMAGE
    ),
    "linear": lambda: case(lambda x: F.interpolate(x, size=7, mode="linear"), DATA),
}


# What these give depends on how many elements there are; they are sure to claim whole constants only.
COUNTING = {"sum", "sum_of_two", "var", "var_mean", "logsumexp", "vector_norm", "vector_norm_of_all"}


# What these give depends on how many elements there are, so a part of them says nothing.
NEEDS_EVERY_ELEMENT = {"var", "var_mean", "logsumexp", "vector_norm_of_all"}

built = made_once(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_known_is_that_constant_for_every_input(name: str) -> None:
    claims = known_claims(built(name))
    assert claims > 0 or name in COUNTING


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_known_is_so_at_other_batch_sizes(name: str) -> None:
    for seed in range(SEEDS):
        check_known_at_another_batch(built(name), seed)


@pytest.mark.parametrize("name", sorted(COUNTING))
def test_what_counts_elements_is_known_of_a_tensor_that_is_constant_as_a_whole(name: str) -> None:
    one = built(name)
    data = torch.randn(DATA, dtype=torch.float64)
    found = rule_for(one.op.target, STANDARD).known(one.op, [constant(data)])
    for claimed, result in zip(found, one.run([data]), strict=True):
        assert claimed.is_all_known()
        torch.testing.assert_close(claimed.value.expand(result.shape), result)


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_dead_does_not_change_live_results(name: str) -> None:
    assert dead_claims(built(name)) > 0


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("max_pool", True),
        ("avg_pool", True),
        ("avg_pool_inside_only", True),
        ("avg_pool_padded", False),
        ("avg_pool_divisor", False),
        ("adaptive_avg_pool", True),
        ("bilinear", True),
    ],
)
def test_a_constant_image_stays_that_constant_unless_borders_are_counted(name: str, kept: bool) -> None:
    op = built(name).op
    two = constant(torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64))
    (found,) = rule_for(op.target, STANDARD).known(op, [two])
    assert found.is_all_known() is kept
    assert not kept or found.value.unique().tolist() == [2.0]
