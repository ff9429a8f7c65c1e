"""Masks made from scores: what goes together goes, by the asked share, and the small model is exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import InputError, PruningError, UnknownModuleError, apply_masks, materialize, plan_speedup
from speedup.pruners import (
    ActiveShare,
    GeometricMedian,
    Norm,
    Normalized,
    Random,
    Scores,
    Slimming,
    TaylorOutput,
    TaylorWeight,
    make_masks,
)
from tests.support import vision
from tests.support.untouched import differences, snapshot

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class _Conv(nn.Sequential):
    def __init__(self, given: int, made: int, groups: int = 1) -> None:
        super().__init__(nn.Conv2d(given, made, 3, padding=1, groups=groups), nn.BatchNorm2d(made), nn.ReLU())


class _Net(nn.Module):
    """A residual stream, a depthwise and a grouped convolution, a concatenation that is flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Conv(3, 8)
        self.block = nn.Sequential(_Conv(8, 12), nn.Conv2d(12, 8, 1))
        self.wide = nn.Sequential(_Conv(8, 12), _Conv(12, 12, groups=12), _Conv(12, 12, groups=3))
        self.side = _Conv(8, 4)
        self.joint = nn.BatchNorm2d(16)
        self.hidden = nn.Linear(16 * 4, 10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.block(x))
        x = self.joint(torch.cat([self.wide(x), self.side(x)], 1))
        x = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.head(torch.relu(self.hidden(x)))


def _net() -> _Net:
    model = _Net().eval()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.ndim == 1:
            nn.init.uniform_(tensor, 0.5, 1.5)
            if name.endswith("bias"):
                nn.init.normal_(tensor)
    return model


def _gone(masks: Mapping[str, Tensor], name: str) -> list[int]:
    return (~masks[name].flatten()).nonzero().flatten().tolist() if name in masks else []


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


SCORES: dict[str, Scores] = {
    "L1": Norm(),
    "L2": Norm(2),
    "geometric median": GeometricMedian(),
    "slimming": Slimming(),
    "random": Random(),
    "active share": ActiveShare([X]),
    "Taylor of outputs": Normalized(TaylorOutput([X], _loss)),
    "Taylor of weights": TaylorWeight([X], _loss),
}


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_small_models_are_exact_whatever_the_scores(kind: str, scope: Any) -> None:
    model = _net()
    masks = make_masks(model, X, SCORES[kind], 0.5, scope=scope)
    plan = plan_speedup(model, X, masks)
    assert plan.macs_after < 0.7 * plan.macs_before
    torch.testing.assert_close(materialize(plan)(X), apply_masks(model, masks)(X), rtol=1e-4, atol=1e-5)


def test_channels_that_go_together_are_scored_and_masked_together() -> None:
    model = _net()
    masks = make_masks(model, X, Norm(), 0.5)

    stem, block = (model.get_parameter(f"{path}.weight") for path in ("stem.0", "block.1"))
    norms = stem.abs().sum((1, 2, 3)) + block.abs().sum((1, 2, 3))
    stream = sorted(norms.argsort()[:4].tolist())
    for name in (
        "stem.0.weight",
        "stem.0.bias",
        "stem.1.weight",
        "stem.1.bias",
        "block.1.weight",
        "block.1.bias",
    ):
        assert _gone(masks, name) == stream
    wide, depthwise = (model.get_parameter(f"wide.{n}.0.weight").abs().sum((1, 2, 3)) for n in (0, 1))
    # The grouped convolution behind it has three groups of four, of each of which half goes.
    halves = (wide + depthwise).reshape(3, 4).argsort(1)[:, :2] + torch.tensor([[0], [4], [8]])
    expected = sorted(halves.flatten().tolist())
    for name in ("wide.0.0.weight", "wide.0.1.bias", "wide.1.0.weight", "wide.1.0.bias", "wide.1.1.weight"):
        assert _gone(masks, name) == expected


def test_a_norm_behind_a_concatenation_loses_what_its_parts_lose() -> None:
    masks = make_masks(_net(), X, Norm(), 0.5)
    parts = [*_gone(masks, "wide.2.0.weight"), *(12 + n for n in _gone(masks, "side.0.weight"))]
    assert _gone(masks, "joint.weight") == _gone(masks, "joint.bias") == parts
    assert len(parts) == 8


def test_channels_really_go() -> None:
    model = _net()
    small: Any = materialize(plan_speedup(model, X, make_masks(model, X, Norm(), 0.5)), verify="none")
    assert small.stem[0].out_channels == 4
    assert small.block[1].out_channels == 4
    assert small.wide[1][0].groups == 6
    assert small.wide[2][0].weight.shape == (6, 2, 3, 3)
    assert small.joint.num_features == 8
    assert small.hidden.weight.shape == (5, 8 * 4)
    assert small.head.weight.shape == (5, 5)


def test_channels_that_the_model_returns_stay() -> None:
    masks = make_masks(_net(), X, Norm(), 0.9)
    assert not {"head.weight", "head.bias"} & set(masks)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("dependent", [True, False])
def test_every_layer_keeps_a_channel(scope: Any, dependent: bool) -> None:
    model = _net()
    masks = make_masks(model, X, Norm(), 1.0, scope=scope, dependent=dependent)
    left = {name: int(mask.sum()) for name, mask in masks.items()}
    # Of what a grouped convolution reads and makes, one stays in each of its three groups.
    assert left["wide.2.0.weight"] == left["wide.1.0.weight"] == 3
    assert {left[name] for name in ("stem.0.weight", "block.0.0.weight", "side.0.weight")} == {1}


def test_layers_on_their_own_lose_their_own_least_rows() -> None:
    model = _net()
    masks = make_masks(model, X, Norm(), 0.5, dependent=False)
    for path in ("stem.0", "block.1", "hidden"):
        norms = model.get_parameter(f"{path}.weight").abs().flatten(1).sum(1)
        least = sorted(norms.argsort()[: len(norms) // 2].tolist())
        assert _gone(masks, f"{path}.weight") == _gone(masks, f"{path}.bias") == least
    assert not any(".1." in name and "block" not in name for name in masks if name.startswith("stem"))


def test_over_all_layers_the_least_scores_go() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    values = {"0.weight": torch.tensor([1.0, 9, 8, 7]), "2.weight": torch.tensor([5.0, 2, 9, 3, 4, 9])}
    make = partial(make_masks, model, torch.randn(2, 3), lambda *_: values)

    by_layer, over_all = make(0.5), make(0.5, scope="global")

    assert (_gone(by_layer, "0.weight"), _gone(by_layer, "2.weight")) == ([0, 3], [1, 3, 4])
    assert (_gone(over_all, "0.weight"), _gone(over_all, "2.weight")) == ([0], [0, 1, 3, 4])


def test_what_is_left_is_a_multiple_where_it_was() -> None:
    model = _net()
    masks = make_masks(model, X, Norm(), 0.6, round_to=4)
    assert len(_gone(masks, "stem.0.weight")) == 4
    assert len(_gone(masks, "block.0.0.weight")) == 4
    assert _gone(masks, "hidden.weight") and (10 - len(_gone(masks, "hidden.weight"))) % 4 == 0


def test_shares_can_be_given_by_path() -> None:
    masks = make_masks(_net(), X, Norm(), {"block": 0.25, "block.0": 0.5, "stem": 0.5})
    assert len(_gone(masks, "block.0.0.weight")) == 6
    # The residual stream goes by the least share of its layers.
    assert len(_gone(masks, "block.1.weight")) == len(_gone(masks, "stem.0.weight")) == 2
    assert not any(name.startswith(("wide", "side", "hidden")) for name in masks)


def test_skipped_layers_keep_what_they_share_too() -> None:
    masks = make_masks(_net(), X, Norm(), 0.5, skip=["block.1", "wide"])
    assert not any(name.startswith(("stem", "block.1", "wide")) for name in masks)
    assert {"block.0.0.weight", "side.0.weight", "hidden.weight"} <= set(masks)


def test_layers_without_a_score_stay() -> None:
    masks = make_masks(_net(), X, Slimming(), 0.5)
    assert "hidden.weight" not in masks
    assert "block.0.0.weight" in masks


def test_masks_are_the_same_each_time_and_differ_by_seed() -> None:
    model = _net()
    first, again, other = (make_masks(model, X, Random(seed), 0.5) for seed in (1, 1, 2))
    assert first.keys() == again.keys()
    assert all(torch.equal(mask, again[name]) for name, mask in first.items())
    assert any(not torch.equal(mask, other[name]) for name, mask in first.items())


@pytest.mark.parametrize("kind", SCORES)
def test_the_model_is_left_as_it_was(kind: str) -> None:
    model = _net().train()
    model.stem.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    calls: list[int] = []
    model.hidden.register_forward_hook(lambda *_: calls.append(1))
    before = snapshot(model)
    make_masks(model, X, SCORES[kind], 0.5)
    assert differences(before, snapshot(model)) == ()


def _bad(model: nn.Module, layers: Any, value: Tensor, name: str = "hidden.weight") -> dict[str, Tensor]:
    return {name: value}


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"sparsity": 1.5}, PruningError, "1.5 is no share"),
        ({"sparsity": {"stem": -0.1}}, PruningError, "-0.1 is no share"),
        ({"sparsity": {"stem": 0.5}, "scope": "global"}, PruningError, "one sparsity"),
        ({"sparsity": {"stm": 0.5}}, UnknownModuleError, "'stm'"),
        ({"scope": "all"}, PruningError, "'all' is not known"),
        ({"round_to": 0}, PruningError, "round_to is 0"),
        ({"skip": ["joint"]}, UnknownModuleError, "no layer at or in 'joint'"),
        ({"x": "image"}, InputError, "str"),
        ({"scores": partial(_bad, value=torch.ones(9))}, PruningError, r"shape (9,)"),
        ({"scores": partial(_bad, value=torch.full((10,), torch.nan))}, PruningError, "not finite"),
        ({"scores": partial(_bad, value=torch.ones(1), name="joint.weight")}, PruningError, "of no layer"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_named(change: dict[str, Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught:
        make_masks(_net(), **{"x": X, "scores": Norm(), "sparsity": 0.5, **change})
    assert says in str(caught.value)


def _without(model: nn.Module, x: Tensor, sparsity: float) -> float:
    plan = plan_speedup(model, x, make_masks(model, x, Norm(), sparsity))
    return plan.macs_after / plan.macs_before


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_torchvision_networks_shrink_by_the_square_of_what_stays(name: str) -> None:
    if not vision.available():
        pytest.skip("needs torchvision")
    build: Callable[[], nn.Module] = getattr(vision.torchvision_models(), name)
    # Rows and columns are halved both, but for the image's channels and the classes.
    assert 0.25 < _without(build().eval(), torch.randn(1, 3, 32, 32), 0.5) < 0.32


def test_all_members_of_a_residual_stream_get_the_same_mask() -> None:
    if not vision.available():
        pytest.skip("needs torchvision")
    model = vision.torchvision_models().resnet18().eval()
    masks = make_masks(model, torch.randn(1, 3, 32, 32), Norm(2), 0.25)
    members = ["layer2.0.bn2.bias", "layer2.0.downsample.0.weight", "layer2.0.downsample.1.weight"]
    stream = _gone(masks, "layer2.0.conv2.weight")
    assert len(stream) == 32
    assert all(_gone(masks, name) == stream for name in (*members, "layer2.1.conv2.weight"))
    assert _gone(masks, "layer2.1.conv1.weight") != stream


class _Encoder(nn.Module):
    """Transformer layers before a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.embed(x))).mean(1))


def test_transformers_lose_hidden_channels_of_their_mlps_and_of_the_residual_stream() -> None:
    model, x = _Encoder().eval(), torch.randn(2, 5, 6)
    masks = make_masks(model, x, Norm(), 0.5)
    plan = plan_speedup(model, x, masks)
    small: Any = materialize(plan)

    assert small.layers.layers[0].linear1.weight.shape == (12, 8)
    assert small.embed.out_features == small.norm.weight.numel() == 8
    # Rows of heads are no channels that go one by one.
    assert "layers.layers.0.self_attn.in_proj_weight" not in masks
    torch.testing.assert_close(small(x), apply_masks(model, masks)(x), rtol=1e-4, atol=1e-5)


def test_layers_that_only_another_call_uses_are_scored_too() -> None:
    class Tasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.a, self.b, self.last = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor, task: str = "a") -> Tensor:
            x = torch.relu(self.trunk(x))
            return self.last(torch.relu(self.a(x) if task == "a" else self.b(x)))

    model, x, other = Tasks().eval(), torch.randn(2, 8), [{"x": torch.randn(3, 8), "task": "b"}]
    assert "b.weight" not in make_masks(model, x, Norm(), 0.5)
    masks = make_masks(model, x, Norm(), 0.5, others=other)
    assert {"trunk.weight", "a.weight", "b.weight"} <= masks.keys()
    plan = plan_speedup(model, x, masks, others=other)
    small: Any = materialize(plan)
    assert (small.a.out_features, small.b.out_features, small.trunk.out_features) == (4, 4, 4)
    with pytest.raises(InputError, match="others"):
        make_masks(model, x, Norm(), 0.5, others=x)  # type: ignore[arg-type]
