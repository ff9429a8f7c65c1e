"""What Torch-Pruning removed in place, step by step, is what is masked in the model as it was before."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import (
    MaskTargetError,
    MaskValueError,
    UnknownNameError,
    masks_from_torch_pruning,
    materialize,
    plan_speedup,
)
from tests.support.untouched import differences, snapshot

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class _Net(nn.Module):
    """A residual stream that a linear layer reads flattened, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 5, 1)
        self.back = nn.Conv2d(5, 6, 1)
        self.fc = nn.Linear(6 * 4, 7)
        self.head = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = x + self.back(torch.relu(self.inner(x)))
        x = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.head(torch.relu(self.fc(x)))


def _gone(masks: dict[str, Tensor], name: str) -> list[int]:
    return (~masks[name].flatten()).nonzero().flatten().tolist()


def test_indices_count_what_was_left_by_then() -> None:
    history = [["stem", True, [0, 2]], ["back", True, [0, 2]], ["bn", True, [1]]]
    masks = masks_from_torch_pruning(_Net(), X, history)
    # Of 1, 3, 4, 5 go 1 and 4; of 3 and 5 goes 5.
    for name in ("stem.weight", "stem.bias", "bn.weight", "bn.bias", "back.weight", "back.bias"):
        assert _gone(masks, name) == [0, 1, 2, 4, 5]


def test_input_channels_are_those_of_the_layer_before() -> None:
    masks = masks_from_torch_pruning(
        _Net(), X, [("back", False, [1]), ("head", False, (0, 6)), ("inner", True, [1])]
    )
    assert _gone(masks, "inner.weight") == [1, 2]
    assert _gone(masks, "fc.bias") == [0, 6]


def test_a_flattened_channel_goes_with_all_its_features() -> None:
    masks = masks_from_torch_pruning(_Net(), X, [("fc", False, [8, 9, 10, 11])])
    assert _gone(masks, "stem.weight") == _gone(masks, "back.bias") == [2]


def test_an_empty_history_masks_nothing() -> None:
    assert masks_from_torch_pruning(_Net(), X, []) == {}


@pytest.mark.parametrize(
    ("entry", "kind", "says"),
    [
        (("stm", True, [0]), UnknownNameError, "'stm', which the model does not have"),
        (("", True, [0]), MaskTargetError, "no channels"),
        (("stem", True, [6]), MaskValueError, "channel 6 of 'stem', of which 6 are left"),
        (("stem", True, [-1]), MaskValueError, "channel -1"),
        (("head", True, [0]), MaskTargetError, "have to stay"),
        (("stem", False, [0]), MaskTargetError, "have to stay"),
    ],
)
def test_what_cannot_have_been_pruned_is_refused(entry: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught:
        masks_from_torch_pruning(_Net(), X, [entry])
    assert says in str(caught.value)


def test_the_model_is_left_as_it_was() -> None:
    model = _Net()
    before = snapshot(model)
    masks_from_torch_pruning(model, X, [("stem", True, [0])])
    assert differences(before, snapshot(model)) == ()


@pytest.mark.skipif(importlib.util.find_spec("torch_pruning") is None, reason="needs torch_pruning")
def test_a_small_model_has_the_shapes_that_torch_pruning_left() -> None:
    tp: Any = importlib.import_module("torch_pruning")
    model = _Net().eval()
    pruned = copy.deepcopy(model)
    importance = tp.importance.MagnitudeImportance(p=1)
    pruner = tp.pruner.MagnitudePruner(
        pruned, X, importance=importance, pruning_ratio=0.5, iterative_steps=2, ignored_layers=[pruned.head]
    )
    pruner.step()
    pruner.step()

    masks = masks_from_torch_pruning(model, X, pruner.pruning_history())

    small = materialize(plan_speedup(model, X, masks))
    left = {name: parameter.shape for name, parameter in pruned.named_parameters()}
    assert {name: parameter.shape for name, parameter in small.named_parameters()} == left
    assert left["stem.weight"] == (3, 3, 3, 3)
