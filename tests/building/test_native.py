from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import Plan, apply_masks, materialize, plan_speedup
from speedup.ir.graph import Op
from speedup.ir.inputs import example_from
from speedup.rules import STANDARD, rule_of
from speedup.rules.weights import WeightRule
from speedup.tracing.trace import trace_call
from tests.support.masking import rows
from tests.support.measure import relative_error

Masks = Mapping[str, Mapping[str, Tensor]]
CONVOLUTIONS = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
TRANSPOSED = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]


def layer_of(op: Op) -> WeightRule:
    """What the standard rule of an op says of it as a layer."""
    return rule_of(op, STANDARD).weight


def images(dims: int, channels: int = 3) -> Callable[[int], Tensor]:
    return lambda batch: torch.randn(batch, channels, *[6] * dims, dtype=torch.float64)


def shrunk(
    model: nn.Module, masks: Masks, make: Callable[[int], Tensor], keep: tuple[str, ...] = ()
) -> tuple[Plan, Any]:
    """The plan and the small model, which is exact at batch sizes 1 and 3."""
    plan = plan_speedup(model, make(2), masks, keep=keep)
    small = materialize(plan, verify="none").eval()
    masked = apply_masks(model, masks).eval()
    for batch in (1, 3):
        assert relative_error(masked, small, [make(batch) for _ in range(3)]) < 1e-10
    return plan, small


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_channels_of_convolutions_match_their_weights(kind: Any) -> None:
    model: Any = nn.Sequential(kind(3, 6, 3), nn.ReLU(), kind(6, 5, 3)).double()
    _, small = shrunk(model, {"0": rows(model[0], 0, 1)}, images(CONVOLUTIONS.index(kind) + 1))
    for layer, channels in ((small[0], (3, 4)), (small[2], (4, 5))):
        assert (layer.in_channels, layer.out_channels) == channels
        assert tuple(layer.weight.shape[:2]) == channels[::-1]
        assert repr(layer).startswith(f"{kind.__name__}({channels[0]}, {channels[1]}, ")


@pytest.mark.parametrize("kind", TRANSPOSED)
def test_channels_of_transposed_convolutions_match_their_weights(kind: Any) -> None:
    model: Any = nn.Sequential(kind(3, 6, 3), nn.ReLU(), kind(6, 5, 3)).double()
    _, small = shrunk(model, {"0": rows(model[0], 2, dim=1)}, images(TRANSPOSED.index(kind) + 1))
    for layer, channels in ((small[0], (3, 5)), (small[2], (5, 5))):
        assert (layer.in_channels, layer.out_channels) == channels
        assert tuple(layer.weight.shape[:2]) == channels
        assert repr(layer).startswith(f"{kind.__name__}({channels[0]}, {channels[1]}, ")


def test_groups_of_a_depthwise_convolution_are_its_channels() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 5, 1)
    ).double()
    masks = {"0": rows(model[0], 0, 5), "1": rows(model[1], 0, 5)}
    _, small = shrunk(model, masks, images(2))
    assert (small[1].in_channels, small[1].out_channels, small[1].groups) == (4, 4, 4)
    assert small[1].weight.shape == (4, 1, 3, 3)
    assert "Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1), groups=4)" in repr(small)


def test_groups_of_a_grouped_convolution_go_as_a_whole() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 9, 3, groups=3), nn.ReLU(), nn.Conv2d(9, 5, 1)
    ).double()
    masks = {"0": rows(model[0], 2, 3), "1": rows(model[1], 3, 4, 5)}
    _, small = shrunk(model, masks, images(2))
    assert (small[1].in_channels, small[1].out_channels, small[1].groups) == (4, 6, 2)
    assert small[1].weight.shape == (6, 2, 3, 3)
    assert "Conv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), groups=2)" in repr(small)


def test_features_of_linear_layers_match_their_weights() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5)).double()
    _, small = shrunk(model, {"0": rows(model[0], 1, 4, 5)}, lambda b: torch.randn(b, 8).double())
    assert (small[0].in_features, small[0].out_features) == tuple(small[0].weight.shape[::-1]) == (8, 3)
    assert (small[2].in_features, small[2].out_features) == tuple(small[2].weight.shape[::-1]) == (3, 5)
    assert "Linear(in_features=8, out_features=3, bias=True)" in repr(small)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_features_of_batch_norm_match_its_tensors(dims: int) -> None:
    conv, norm = CONVOLUTIONS[dims - 1], [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d][dims - 1]
    model = nn.Sequential(conv(3, 6, 3), norm(6), nn.ReLU(), conv(6, 5, 3)).double()
    _, small = shrunk(model, {"0": rows(model[0], 2), "1": rows(model[1], 2)}, images(dims))
    assert small[1].num_features == 5
    tensors = (small[1].weight, small[1].bias, small[1].running_mean, small[1].running_var)
    assert [tuple(t.shape) for t in tensors] == [(5,)] * 4
    assert f"{norm.__name__}(5, eps" in repr(small)


@pytest.mark.parametrize("affine", [True, False])
def test_features_of_instance_norm_match_its_tensors(affine: bool) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=affine), nn.ReLU(), nn.Conv2d(6, 5, 3)
    ).double()
    masks = {"0": rows(model[0], 2)} | ({"1": rows(model[1], 2)} if affine else {})
    _, small = shrunk(model, masks, images(2))
    assert small[1].num_features == 5
    assert [tuple(p.shape) for p in small[1].parameters()] == [(5,)] * (2 * affine)
    assert "InstanceNorm2d(5, eps" in repr(small)


def test_group_norm_loses_whole_groups() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6), nn.ReLU(), nn.Conv2d(6, 5, 3)).double()
    masks = {"0": rows(model[0], 2, 3, 4), "1": rows(model[1], 2, 3)}
    _, small = shrunk(model, masks, images(2))
    assert (small[1].num_groups, small[1].num_channels) == (2, 4)
    assert small[1].weight.shape == small[1].bias.shape == (4,)
    assert "GroupNorm(2, 4, eps" in repr(small)


@pytest.mark.parametrize(("kind", "left"), [(nn.LayerNorm, 6), (nn.RMSNorm, 5)])
def test_normalized_shape_matches_the_features_that_stay(kind: type[nn.Module], left: int) -> None:
    """LayerNorm makes a feature that is 0 differ between inputs, RMSNorm leaves it 0."""
    model = nn.Sequential(nn.Linear(8, 6), kind(6), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 5)).double()
    masks = {"0": rows(model[0], 0), "2": rows(model[2], 0)}
    _, small = shrunk(model, masks, lambda b: torch.randn(b, 8).double())
    assert small[1].normalized_shape == (left,)
    assert small[1].weight.shape == (left,)
    assert small[2].out_features == 3
    assert f"{kind.__name__}(({left},), eps" in repr(small)


def test_embedding_dim_matches_the_table_and_all_rows_stay() -> None:
    model = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 5)).double()
    masks = {"0": rows(model[0], 1, 2, dim=1)}
    _, small = shrunk(model, masks, lambda b: torch.randint(10, (b, 4)))
    assert (small[0].num_embeddings, small[0].embedding_dim) == tuple(small[0].weight.shape) == (10, 4)
    assert "Embedding(10, 4)" in repr(small)


def test_parameters_of_prelu_match_its_slopes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Conv2d(6, 5, 3)).double()
    _, small = shrunk(model, {"0": rows(model[0], 0, 3)}, images(2))
    assert small[1].num_parameters == len(small[1].weight) == 4
    assert "PReLU(num_parameters=4)" in repr(small)


def test_single_slope_of_prelu_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(), nn.Conv2d(6, 5, 3)).double()
    _, small = shrunk(model, {"0": rows(model[0], 0, 3)}, images(2))
    assert small[1].num_parameters == len(small[1].weight) == 1
    assert small[0].out_channels == 4


class Attended(nn.Module):
    """Attention between two layers, one behind it that can shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.middle = nn.Linear(8, 6)
        self.after = nn.Linear(6, 5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.after(torch.relu(self.middle(mixed)))


def test_inputs_and_heads_of_multihead_attention_go_and_the_embedding_stays() -> None:
    model = Attended()
    masks = {"before": rows(model.before, 0), "middle": rows(model.middle, 0, 1)}
    masks["attention"] = {"in_proj_weight": torch.ones(24, 8), "in_proj_bias": torch.ones(24)}
    for mask in masks["attention"].values():
        mask[[0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19]] = 0
    _, small = shrunk(model, masks, lambda b: torch.randn(b, 3, 8).double())
    assert small.attention.in_proj_weight.shape == (12, 7)
    assert small.attention.out_proj.weight.shape == (8, 4)
    assert (small.attention.num_heads, small.attention.head_dim) == (1, 4)
    assert (small.before.out_features, small.middle.out_features) == (7, 4)


def test_multihead_attention_that_does_not_shrink_keeps_its_class() -> None:
    model = Attended()
    _, small = shrunk(model, {"middle": rows(model.middle, 0)}, lambda b: torch.randn(b, 3, 8).double())
    assert type(small.attention) is nn.MultiheadAttention


class Counting(nn.Linear):
    """A linear layer with a forward of its own, which knows nothing of a bias made later."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t()


def test_only_an_argument_that_a_payment_sets_is_settable() -> None:
    """Others that modules keep are followed by provenance."""
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.GroupNorm(2, 4), nn.RMSNorm(6))
    traced = trace_call(model, example_from(torch.randn(1, 4, 8, 8)))
    found = {op.owner.path: layer_of(op).settable_of(op) for op in traced.graph.ops if op.owner.path}
    assert found == {"0": frozenset(), "1": frozenset(), "2": {"eps"}}


def test_function_called_by_a_module_of_another_kind_has_no_hyperparameters() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 8))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight)

    traced = trace_call(Functional(), example_from(torch.randn(2, 8)))
    (op,) = [op for op in traced.graph.ops if "linear" in str(op.target)]
    assert layer_of(op).attributes_of(op, lambda v: v.shape) == {}
    assert layer_of(op).settable_of(op) == frozenset()
    assert not layer_of(op).takes_bias(op)


def test_bias_is_only_given_to_a_class_whose_forward_uses_one() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), Counting(8, 8, bias=False))
    traced = trace_call(model, example_from(torch.randn(2, 8)))
    found = {op.owner.path: layer_of(op).takes_bias(op) for op in traced.graph.ops}
    assert found == {"0": True, "1": False}
