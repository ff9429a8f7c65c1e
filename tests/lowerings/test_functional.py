"""Functions that rewritten forwards call, against those of torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from speedup.lowerings.partial_layer_norm import partial_layer_norm


@pytest.mark.parametrize("affine", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("value", [0.0, 2.5, 1e3])
def test_partial_layer_norm_is_the_norm_with_the_constants_put_back(
    value: float, affine: tuple[bool, bool]
) -> None:
    whole = torch.randn(3, 5, 12, dtype=torch.float64)
    whole[..., [1, 7, 8]] = torch.tensor([value, -1.0, value / 3], dtype=torch.float64)
    left = torch.tensor([0, 2, 3, 4, 5, 6, 9, 10, 11])
    weight, bias = (torch.randn(12, dtype=torch.float64) if given else None for given in affine)
    want = F.layer_norm(whole, (12,), weight, bias, 1e-3)[..., left]
    gone = whole[0, 0, [1, 7, 8]]
    weight, bias = (None if t is None else t[left] for t in (weight, bias))
    total, squares = float(gone.sum()), float(gone.square().sum())
    have = partial_layer_norm(
        whole[..., left],
        [9],
        weight,
        bias,
        eps=1e-3,
        dropped=3,
        total=12,
        dropped_sum=total,
        dropped_squares=squares,
    )
    torch.testing.assert_close(have, want, rtol=1e-9, atol=1e-9)


def test_partial_layer_norm_of_everything_is_the_norm() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    have = partial_layer_norm(x, [3, 4], dropped=0, total=12, dropped_sum=0.0, dropped_squares=0.0)
    torch.testing.assert_close(have, F.layer_norm(x, (3, 4)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_partial_layer_norm_counts_in_float32_and_returns_what_it_got(dtype: torch.dtype) -> None:
    x = (torch.randn(4, 64) * 200).to(dtype)
    have = partial_layer_norm(x, [64], dropped=64, total=128, dropped_sum=0.0, dropped_squares=0.0)
    want = F.layer_norm(torch.cat([x.float(), torch.zeros(4, 64)], 1), (128,))[:, :64]
    assert have.dtype == dtype
    torch.testing.assert_close(have.float(), want, rtol=2e-2, atol=2e-2)
