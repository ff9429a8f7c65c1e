from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedup import Plan, materialize, plan_speedup
from tests.support.contract import require_as_masked
from tests.support.drawn import doubles, images
from tests.support.masking import rows
from tests.support.reports import reasons

features = doubles(8)
sequences = doubles(5, 8)

Masks = Mapping[str, Mapping[str, Tensor]]


def require_exact(model: nn.Module, plan: Plan, masks: Masks, make: Callable[[int], Tensor] = images) -> Any:
    """The small model, which at batch sizes that the plan did not see equals the masked one."""
    small = materialize(plan, verify="none").eval()
    require_as_masked(model, small, masks, make)
    return small


class Net(nn.Module):
    """A convolution, what `between` makes of it, and a linear layer.

    The function lies in a tuple, so that its source stays as it is.
    """

    def __init__(self, between: Callable[[Tensor], Tensor], features: int, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.head = nn.Linear(features, 5)
        self.between = (between,)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between[0](self.conv(x)))


def test_literal_size_keeps_the_channels_and_says_so() -> None:
    model = Net(lambda x: x.view(-1, 144), 144)
    masks = {"conv": rows(model.conv, 0, 2)}
    plan = plan_speedup(model, images(2), masks)
    assert "states this size as a number that cannot follow" in reasons(plan, "conv")
    assert [(b.path, b.count, b.of) for b in plan.blocked] == [("conv", 2, 4)]
    small = require_exact(model, plan, masks)
    assert small.conv.out_channels == 4


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x.view(x.shape[0], -1),
        lambda x: x.view(x.size(0), x.size(1) * x.size(2) * x.size(3)),
        lambda x: x.reshape(-1, x.shape[1] * x.shape[2] * x.shape[3]),
        lambda x: x.reshape(len(x), -1),
        lambda x: x.flatten(1),
        lambda x: torch.cat([one.flatten(1) for one in x.split(x.shape[1] // 2, 1)], 1),
    ],
    ids=["view(b, -1)", "view(size)", "reshape(-1, c*h*w)", "reshape(len)", "flatten", "split"],
)
def test_sizes_from_the_input_follow_the_channels(between: Callable[[Tensor], Tensor]) -> None:
    model = Net(between, 144)
    masks = {"conv": rows(model.conv, 1, 3)}
    plan = plan_speedup(model, images(2), masks)
    assert plan.blocked == ()
    small = require_exact(model, plan, masks)
    assert (small.conv.out_channels, small.head.in_features) == (2, 72)


def test_comparison_that_would_come_out_otherwise_keeps_its_size() -> None:
    model = Net(lambda x: (x if x.shape[1] >= 4 else -x).flatten(1), 144)
    masks = {"conv": rows(model.conv, 0)}
    plan = plan_speedup(model, images(2), masks)
    assert "take another branch" in reasons(plan, "conv")
    assert require_exact(model, plan, masks).conv.out_channels == 4


def test_comparison_that_comes_out_alike_keeps_nothing() -> None:
    model = Net(lambda x: (x if x.shape[1] >= 3 else -x).flatten(1), 144)
    masks = {"conv": rows(model.conv, 0)}
    plan = plan_speedup(model, images(2), masks)
    assert require_exact(model, plan, masks).conv.out_channels == 3


def test_size_that_leaves_the_sight_of_the_trace_stays() -> None:
    model = Net(lambda x: (x / float(x.shape[1])).flatten(1), 144)
    masks = {"conv": rows(model.conv, 0, 1)}
    plan = plan_speedup(model, images(2), masks)
    assert "out of sight" in reasons(plan, "conv")
    assert require_exact(model, plan, masks).conv.out_channels == 4


def test_number_that_would_change_the_function_stays() -> None:
    """Dividing by the number of channels is no size: its value is part of the function."""
    model = Net(lambda x: (x / x.shape[1]).flatten(1), 144)
    masks = {"conv": rows(model.conv, 0, 1)}
    plan = plan_speedup(model, images(2), masks)
    assert require_exact(model, plan, masks).conv.out_channels == 4


def gated(x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return torch.cat([torch.tanh(first), second], 1).flatten(1)


def test_chunks_that_would_come_out_uneven_are_filled_up() -> None:
    """One channel of the first half and two of the second: chunk would cut them the other way round."""
    model = Net(gated, 144)
    masks = {"conv": rows(model.conv, 0)}
    plan = plan_speedup(model, images(2), masks)
    assert require_exact(model, plan, masks).conv.out_channels == 4
    assert [(b.path, b.count) for b in plan.blocked] == [("conv", 1)]


def test_chunks_lose_as_many_channels_as_the_one_that_can_spare_least() -> None:
    model = Net(gated, 288, channels=8)
    masks = {"conv": rows(model.conv, 0, 1, 6)}
    plan = plan_speedup(model, images(2), masks)
    assert require_exact(model, plan, masks).conv.out_channels == 6


def test_even_chunks_shrink() -> None:
    model = Net(gated, 144)
    masks = {"conv": rows(model.conv, 0, 3)}
    plan = plan_speedup(model, images(2), masks)
    assert require_exact(model, plan, masks).conv.out_channels == 2


class Chain(nn.Module):
    """Three convolutions, one of them two modules down."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.block = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3)})
        self.last = nn.Conv2d(4, 5, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.block["conv"](torch.relu(self.stem(x)))))


def chain_masks(model: Chain) -> Masks:
    return {"stem": rows(model.stem, 0), "block.conv": rows(model.block["conv"], 1, 2)}


@pytest.mark.parametrize("named", ["block.conv", "block"])
def test_kept_module_keeps_its_tensors_and_those_inside(named: str) -> None:
    model = Chain()
    plan = plan_speedup(model, images(2), chain_masks(model), keep=[named])
    small = require_exact(model, plan, chain_masks(model))
    assert small.block["conv"].weight.shape == (4, 4, 3, 3)
    assert f"keep={named!r} was asked for" in reasons(plan, "block.conv")


def test_module_whose_name_only_begins_like_a_kept_one_shrinks() -> None:
    layers = {"layer1": nn.Linear(8, 6), "layer10": nn.Linear(6, 6), "layer2": nn.Linear(6, 5)}
    model: Any = nn.Sequential(OrderedDict(layers)).double()
    masks = {"layer1": rows(model.layer1, 0), "layer10": rows(model.layer10, 1, 2)}
    plan = plan_speedup(model, features(2), masks, keep=["layer1"])
    small = require_exact(model, plan, masks, features)
    assert (small.layer1.out_features, small.layer10.out_features) == (6, 4)


def test_kept_module_leaves_alone_what_it_does_not_touch() -> None:
    model = Chain()
    masks = chain_masks(model)
    small = require_exact(model, plan_speedup(model, images(2), masks, keep=["stem"]), masks)
    assert (small.stem.out_channels, small.block["conv"].out_channels) == (4, 2)


def test_without_keep_all_of_it_shrinks() -> None:
    model = Chain()
    masks = chain_masks(model)
    small = require_exact(model, plan_speedup(model, images(2), masks), masks)
    assert (small.stem.out_channels, small.block["conv"].out_channels) == (3, 2)


class Attention(nn.Module):
    """Two heads of four, written with sizes of the input and the head size as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim = 4
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.out = nn.Linear(8, 8)
        self.double()

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        return x.view(batch, length, -1, self.head_dim).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._heads(self.q(x)), self._heads(self.k(x)), self._heads(self.v(x))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


def attention_masks(model: Attention) -> Masks:
    """The second head goes: what it would add is zero."""
    return {name: rows(model.get_submodule(name), 4, 5, 6, 7) for name in ("q", "k", "v")}


def test_head_that_nothing_reads_goes() -> None:
    model = Attention()
    masks = attention_masks(model)
    small = require_exact(model, plan_speedup(model, sequences(2), masks), masks, sequences)
    assert [small.get_submodule(n).out_features for n in ("q", "k", "v")] == [4, 4, 4]
    assert small.out.in_features == 4


class ScaledByHand(Attention):
    """The scale is a Python number made from the head size."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._heads(self.q(x)), self._heads(self.k(x)), self._heads(self.v(x))
        scores = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), -1)
        return self.out((scores @ v).transpose(1, 2).flatten(2))


class SplitByLiteral(ScaledByHand):
    """Two heads, whatever their size is, so that the head size may be asked to shrink."""

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], 2, -1).transpose(1, 2)


def test_escaped_head_size_stays_in_queries_and_keys() -> None:
    model = SplitByLiteral()
    masks = {name: rows(model.get_submodule(name), 3, 7) for name in ("q", "k", "v")}
    plan = plan_speedup(model, sequences(2), masks)
    small = require_exact(model, plan, masks, sequences)
    assert {b.path for b in plan.blocked} == {"q", "k"}
    assert (small.q.out_features, small.k.out_features) == (8, 8)


def test_head_size_of_the_values_shrinks_beside_an_escaped_one() -> None:
    model = SplitByLiteral()
    masks = {"v": rows(model.v, 3, 7)}
    plan = plan_speedup(model, sequences(2), masks)
    assert require_exact(model, plan, masks, sequences).v.out_features == 6


def test_heads_go_although_the_head_size_has_escaped() -> None:
    model = ScaledByHand()
    masks = attention_masks(model)
    small = require_exact(model, plan_speedup(model, sequences(2), masks), masks, sequences)
    assert small.q.out_features == 4


class Shuffle(nn.Module):
    """A channel shuffle between two convolutions, its sizes read from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 5, 3, padding=1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)
        return self.second(x)


def shuffle_masks(model: Shuffle) -> Masks:
    return {"first": rows(model.first, 1, 5), "norm": rows(model.norm, 1, 5)}


def test_channels_go_through_a_shuffle() -> None:
    model = Shuffle()
    masks = shuffle_masks(model)
    small = require_exact(model, plan_speedup(model, images(2), masks), masks)
    assert (small.first.out_channels, small.second.in_channels) == (6, 6)


@pytest.mark.parametrize(
    ("kind", "masks_of", "make"),
    [(Chain, chain_masks, images), (Attention, attention_masks, sequences), (Shuffle, shuffle_masks, images)],
    ids=["convolutions", "attention", "shuffle"],
)
def test_batch_size_of_the_example_does_not_change_the_edits(
    kind: type[nn.Module], masks_of: Callable[[nn.Module], Masks], make: Callable[[int], Tensor]
) -> None:
    model = kind()
    plans = [plan_speedup(model, make(batch), masks_of(model)) for batch in (1, 2, 3)]
    assert plans[0].edits
    assert plans[0].edits == plans[1].edits == plans[2].edits


def test_channel_that_carries_constants_is_not_joined_by_another_for_the_count() -> None:
    """Groups want any channel, a padded constant the largest: that one does for both."""
    model: Any = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Conv2d(4, 2, 1)
    ).double()
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([0.01, 2.0, 0.0, 0.0]))
    masks = {
        "0": {"weight": torch.zeros(4, 3, 1, 1)},
        "2": {"weight": torch.tensor([1.0, 1, 0, 0])[None, :, None, None]},
    }
    small = require_exact(model, plan_speedup(model, images(2), masks), masks)
    assert (small[0].out_channels, small[1].out_channels) == (1, 2)


class Offset(nn.Module):
    """Adds numbers that it keeps in no parameter and no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 3)
        self.offset = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) + self.offset)


def test_tensor_that_is_no_parameter_keeps_its_channels() -> None:
    model = Offset()
    masks = {"first": rows(model.first, 0, 1)}
    small = require_exact(model, plan_speedup(model, features(2), masks), masks, features)
    assert small.first.out_features == 6
