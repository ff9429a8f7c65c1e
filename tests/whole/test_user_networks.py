"""Networks as users write them (literal sizes, chunks, bare parameters) at any batch, in train mode too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from speedup import apply_masks, materialize, plan_speedup
from tests.support.measure import relative_error
from tests.support.small_networks import NETWORKS

AS_USERS_WRITE = ("LeNet with literal sizes", "C2f", "bare parameters")


@pytest.mark.parametrize("name", AS_USERS_WRITE)
def test_small_network_is_exact_at_any_batch_before_and_after_train(name: str) -> None:
    torch.manual_seed(0)
    masked = NETWORKS[name]()
    plan = plan_speedup(masked.model, masked.make_inputs(2, 0), masked.masks)
    small, oracle = materialize(plan), apply_masks(masked.model, masked.masks)
    assert plan.parameters_after < plan.parameters_before
    for mode in (False, True, False):
        for batch in (1, 3, 7):
            inputs = [masked.make_inputs(batch, seed) for seed in range(3)]
            assert relative_error(oracle.train(mode), small.train(mode), inputs) < 1e-9


def shape_of(model: nn.Module, name: str) -> tuple[int, ...]:
    return tuple(model.get_parameter(name).shape)


def small_of(name: str) -> Any:
    torch.manual_seed(0)
    masked = NETWORKS[name]()
    return materialize(plan_speedup(masked.model, masked.make_inputs(2, 0), masked.masks))


def test_literal_of_a_flattened_image_follows_the_filters() -> None:
    small = small_of("LeNet with literal sizes")
    assert shape_of(small, "fc1.weight") == (120, 8 * 5 * 5)


def test_chunks_become_unequal() -> None:
    small = small_of("C2f")
    assert shape_of(small, "cv1.weight")[0] == 12
    assert shape_of(small, "m.0.weight")[1] == 7


def test_rewritten_network_prints_as_before_with_other_sizes() -> None:
    assert repr(small_of("C2f")).splitlines()[0] == "C2f("
    assert "(cv1): Conv2d(3, 12, kernel_size=(1, 1), stride=(1, 1))" in repr(small_of("C2f"))
