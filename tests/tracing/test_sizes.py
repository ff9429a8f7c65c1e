"""What a forward does with sizes: whatever the example's batch, and whatever the sizes become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedup import apply_masks, materialize, plan_speedup
from speedup.ir.inputs import leaves_of


class Between(nn.Module):
    """Two linear layers with a function of the hidden tensor between them or around them."""

    def __init__(self, function: Callable[[Between, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second, self.function = nn.Linear(8, 6), nn.Linear(6, 5), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, self.first(x))


def _drop_first_and_last(with_bias: bool) -> dict[str, Tensor]:
    keep = torch.ones(6)
    keep[[0, 5]] = 0
    masks = {"first.weight": keep.reshape(-1, 1)}
    return {**masks, "first.bias": keep} if with_bias else masks


def _largest_error(model: nn.Module, masks: dict[str, Tensor], example: Tensor, batch: int) -> float:
    small = materialize(plan_speedup(model, example, masks), verify="none")
    x = torch.randn(batch, 8, dtype=torch.float64)
    want, have = list(leaves_of(apply_masks(model, masks)(x))), list(leaves_of(small(x)))
    assert [place for place, _ in want] == [place for place, _ in have]
    errors = [0.0]
    for (_, a), (_, b) in zip(want, have, strict=True):
        if not isinstance(a, Tensor):
            assert a == b
        elif a.numel():
            errors.append(float((a - b).detach().abs().max()))
    return max(errors)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("example_batch", [1, 2])
@pytest.mark.parametrize(
    "function",
    [
        lambda s, h: s.second(h / h.shape[0]),
        lambda s, h: s.second(h * h.size(0) + h.shape[0]),
        lambda s, h: s.second(h.softmax(0)),
        lambda s, h: s.second(h.log_softmax(0)),
        lambda s, h: s.second(h.cumsum(0)),
        lambda s, h: s.second(h.sum(0, keepdim=True)),
        lambda s, h: s.second(h.mean(0, keepdim=True)),
        lambda s, h: s.second(h.std(0, keepdim=True, unbiased=False)),
        lambda s, h: s.second(h.logsumexp(0, keepdim=True)),
        lambda s, h: s.second(torch.ones(h.shape[0], h.shape[0], dtype=h.dtype).tril() @ h),
        lambda s, h: s.second(h + torch.arange(h.shape[0], dtype=h.dtype)[:, None]),
        lambda s, h: s.second(h.new_zeros(h.shape[0], 6) + h),
        lambda s, h: s.second(F.pad(h, (0, 0, 1, 0))[:-1]),
    ],
)
def test_plan_holds_at_other_batch_sizes(function: Any, example_batch: int, with_bias: bool) -> None:
    model = Between(function).double().eval()
    example = torch.randn(example_batch, 8, dtype=torch.float64)
    assert _largest_error(model, _drop_first_and_last(with_bias), example, 3) < 1e-12


@pytest.mark.parametrize(
    "function",
    [
        lambda s, h: (s.second(h), h.shape[1]),
        lambda s, h: {"out": s.second(h), "width": h.shape[-1] // 2},
        lambda s, h: (s.second(h), f"{h.shape[1]} wide"),
        lambda s, h: s.second(h) * (h.shape[1] >> 1),
        lambda s, h: s.second(h) * (h.shape[1] & 7),
        lambda s, h: s.second(h) * divmod(h.shape[1], 4)[0],
        lambda s, h: s.second(h) * (2.0 if h.shape[1] % 4 else 3.0),
        lambda s, h: s.second(h) * h.shape[1] ** -0.5,
        lambda s, h: s.second(h) * (3.0 if h.shape[1] == 6 else 1.0),
        lambda s, h: s.second(h) * float(h.shape[1]),
        lambda s, h: s.second(h) * max(h.shape[1], 5),
    ],
)
def test_what_depends_on_a_size_stays_what_it_was(function: Any) -> None:
    model = Between(function).double().eval()
    example = torch.randn(2, 8, dtype=torch.float64)
    assert _largest_error(model, _drop_first_and_last(True), example, 3) < 1e-12


def test_sizes_that_only_shape_tensors_do_not_hold_anything_back() -> None:
    def split_in_pairs(net: Between, hidden: Tensor) -> Tensor:
        pairs = hidden.view(hidden.shape[0], hidden.shape[1] // 2, 2)
        return net.second(F.relu(pairs).reshape(hidden.shape[0], hidden.shape[1]))

    model = Between(split_in_pairs).double().eval()
    keep = torch.ones(6)
    keep[[2, 3]] = 0
    masks = {"first.weight": keep.reshape(-1, 1), "first.bias": keep}
    plan = plan_speedup(model, torch.randn(2, 8, dtype=torch.float64), masks)
    assert materialize(plan).get_submodule("first").out_features == 4
