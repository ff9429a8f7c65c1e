"""What does not depend on a number that follows the inputs' sizes is known whatever that number is."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.support.between import CHANNELS, IMAGES, LEFT, channels_left

STAYS_ZERO: dict[str, Callable[[Tensor], Tensor]] = {
    "pooled over windows of a size": lambda y: F.avg_pool2d(y, (y.size(2), y.size(3))).flatten(1),
    "largest of windows of a size": lambda y: F.max_pool2d(y, (y.size(2) // 2, 1)),
    "pooled to a size": lambda y: F.adaptive_avg_pool2d(y, (y.size(2) // 2, y.size(3) - 1)),
    "resized to a size": lambda y: F.interpolate(F.avg_pool2d(y, 2), size=y.shape[-2:], mode="nearest"),
    "resized by hand": lambda y: F.interpolate(y, size=(2 * y.size(2), y.size(3)), mode="bilinear"),
    "resized bicubically": lambda y: F.interpolate(y, size=(y.size(2) + 1, 7), mode="bicubic"),
    "divided": lambda y: y / y.size(2),
    "averaged by hand": lambda y: y.sum((2, 3)) / (y.size(2) * y.size(3)),
    "scaled": lambda y: y * (1 / math.sqrt(y.size(2) * y.size(3))),
    "bounded": lambda y: y.clamp(-y.size(2), y.size(3)),
    "a slope": lambda y: F.leaky_relu(y, 1 / y.size(3)),
    "mixed": lambda y: torch.lerp(y, y * y, 1 / y.size(2)),
    "chosen": lambda y: torch.where(y > y.size(2), y, y / y.size(3)),
    "normed over positions": lambda y: F.layer_norm(y, y.shape[2:]),
    "root mean square over positions": lambda y: F.rms_norm(y, [y.size(2), y.size(3)], eps=1e-3),
    "batched product": lambda y: torch.baddbmm(
        y.flatten(2), y.flatten(2), torch.eye(y[0, 0].numel()).to(y).repeat(len(y), 1, 1), alpha=1 / y.size(2)
    ).view_as(y),
    "largest of positions": lambda y: y.flatten(2).topk(y.size(2), dim=2)[0].mean(2),
    "sampled": lambda y: F.grid_sample(
        y,
        F.affine_grid(torch.eye(2, 3).to(y).expand(len(y), 2, 3), list(y.size()), align_corners=False),
        align_corners=False,
    ),
}
# Of these the masked channels come out as a number that follows the size, or as none at some size.
DEPENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "moved": lambda y: y + y.size(2),
    "bounded from below": lambda y: y.clamp(min=y.size(2) - 6),
    "divided by what may be 0": lambda y: y / (y.size(2) - 4.5 + y.size(3) * 0.5),
    "compared": lambda y: (y == y.size(2) - 6).to(y) + y,
    "filled": lambda y: y + torch.full_like(y, y.size(2)),
}


@pytest.mark.filterwarnings("ignore:Since version 1.3.0")
@pytest.mark.parametrize("name", STAYS_ZERO)
def test_zeros_go_through_what_depends_on_a_size(name: str) -> None:
    assert channels_left(STAYS_ZERO[name]) == LEFT


@pytest.mark.parametrize("name", DEPENDS)
def test_what_is_another_number_at_another_size_is_kept(name: str) -> None:
    assert channels_left(DEPENDS[name]) == CHANNELS


def test_a_constant_that_no_bound_reaches_goes() -> None:
    assert channels_left(lambda y: (y + 0.5).clamp(max=y.size(2))) == LEFT


def test_a_constant_that_a_bound_reaches_at_some_size_is_kept() -> None:
    assert channels_left(lambda y: (y + 5).clamp(max=y.size(2)), IMAGES[:1] * 2 + IMAGES[1:]) == CHANNELS


@pytest.mark.parametrize("batch", [1, 2])
def test_how_many_ones_add_up_is_not_told_by_a_batch_of_one(batch: int) -> None:
    def counted(y: Tensor) -> Tensor:
        return y + torch.ones_like(y[:, 0, 0, 0]).sum()

    assert channels_left(counted, [(batch, 3, 6, 6), (1, 3, 6, 6), (3, 3, 6, 6)]) == CHANNELS


def test_padding_that_only_other_sizes_have_mixes_zeros_into_constants() -> None:
    def padded(y: Tensor) -> Tensor:
        return F.avg_pool2d(y + 0.5, 2, padding=y.size(2) // 9)

    assert channels_left(padded) == CHANNELS
