"""Every score against its definition, computed number by number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speedup import PruningError
from speedup.pruners import (
    ActiveShare,
    GeometricMedian,
    Layer,
    Norm,
    Normalized,
    Random,
    Scores,
    Slimming,
    TaylorOutput,
    TaylorWeight,
)
from speedup.pruners.channels import channels_of


class _Net(nn.Module):
    """A convolution with a BatchNorm, a transposed one, and two linear layers, of which one is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 3, 2)
        self.fc = nn.Linear(3, 5)
        self.head = nn.Linear(5, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn(self.conv(x)))
        x = torch.relu(self.up(x)).mean((2, 3))
        return self.head(torch.relu(self.fc(x)))


X = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(1))


def _net() -> _Net:
    model = _Net().eval()
    assert model.bn.running_mean is not None
    for parameter in (*model.bn.parameters(), model.bn.running_mean):
        nn.init.normal_(parameter)
    return model


def _layers(model: nn.Module) -> tuple[Layer, ...]:
    return channels_of(model, X).layers


def _scored(scores: Scores, model: nn.Module) -> dict[str, list[float]]:
    return {name: one.tolist() for name, one in scores(model, _layers(model)).items()}


def _filters(model: _Net, path: str) -> list[list[float]]:
    weight = model.get_parameter(f"{path}.weight")
    channels = range(weight.shape[1 if path == "up" else 0])
    return [(weight[:, c] if path == "up" else weight[c]).flatten().tolist() for c in channels]


PATHS = ("conv", "up", "fc", "head")


def test_layers_are_described_as_they_are_used() -> None:
    conv, up, fc, head = _layers(_net())

    assert conv == Layer("conv", "conv.weight", 0, 4, "conv.bias", "bn.weight", "bn", -3)
    assert up == Layer("up", "up.weight", 1, 3, "up.bias", "", "up", -3)
    assert fc == Layer("fc", "fc.weight", 0, 5, "fc.bias", "", "fc", -1)
    assert head.bias == ""


@pytest.mark.parametrize("p", [1, 2])
def test_norms_are_those_of_filters(p: int) -> None:
    model = _net()
    found = _scored(Norm(p), model)
    for path in PATHS:
        expected = [sum(abs(w) ** p for w in filter_) ** (1 / p) for filter_ in _filters(model, path)]
        assert found[f"{path}.weight"] == pytest.approx(expected)


def test_the_geometric_median_is_near_to_all_filters() -> None:
    model = _net()
    found = _scored(GeometricMedian(), model)
    for path in PATHS:
        filters = _filters(model, path)
        expected = [sum(math.dist(one, other) for other in filters) for one in filters]
        assert found[f"{path}.weight"] == pytest.approx(expected)


def test_slimming_takes_the_scales_behind_a_layer() -> None:
    model = _net()
    assert _scored(Slimming(), model) == {
        "conv.weight": pytest.approx([abs(w) for w in model.bn.weight.tolist()])
    }


def test_normalized_scores_have_length_one() -> None:
    model = _net()
    plain, found = _scored(Norm(), model), _scored(Normalized(Norm()), model)
    for name, scores in plain.items():
        length = math.sqrt(sum(score**2 for score in scores))
        assert found[name] == pytest.approx([score / length for score in scores])


def test_random_scores_follow_the_seed() -> None:
    model = _net()
    assert _scored(Random(3), model) == _scored(Random(3), model) != _scored(Random(4), model)


def _outputs(model: _Net, x: Tensor) -> dict[str, Tensor]:
    """(samples, channels, positions) what each layer puts out before an activation."""
    conv = model.bn(model.conv(x))
    up = model.up(torch.relu(conv))
    fc = model.fc(torch.relu(up).mean((2, 3)))
    head = model.head(torch.relu(fc))
    return {f"{path}.weight": out for path, out in zip(PATHS, (conv, up, fc, head), strict=True)}


def test_active_share_counts_outputs_above_zero() -> None:
    model = _net()
    batches = [X, X[:1] + 1]
    found = _scored(ActiveShare(batches), model)
    with torch.no_grad():
        outputs = [_outputs(model, batch) for batch in batches]
    for name, scores in found.items():
        for channel, score in enumerate(scores):
            values = list(itertools.chain(*(one[name][:, channel].flatten().tolist() for one in outputs)))
            assert score == pytest.approx(sum(value > 0 for value in values) / len(values))
    assert set(found) == {f"{path}.weight" for path in PATHS}


def test_batches_of_a_loader_are_run_as_told() -> None:
    model = _net()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, torch.arange(3)), batch_size=2)
    run = ActiveShare(loader, run=lambda model, batch: model(batch[0]))
    assert _scored(run, model) == _scored(ActiveShare([X[:2], X[2:]]), model)


BATCHES = ((X, torch.tensor([0, 1, 1])), (X[:2] * 2, torch.tensor([1, 0])))


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def test_taylor_of_outputs_is_output_times_gradient() -> None:
    model = _net()
    found = _scored(TaylorOutput(BATCHES, _loss), model)
    expected: dict[str, list[Tensor]] = {}
    for x, labels in BATCHES:
        outputs = _outputs(model, x)
        gradients = torch.autograd.grad(
            F.cross_entropy(outputs["head.weight"], labels), list(outputs.values())
        )
        for (name, output), gradient in zip(outputs.items(), gradients, strict=True):
            for sample in range(len(x)):
                effect = (output[sample] * gradient[sample]).flatten(1) if output.ndim > 2 else None
                alone = output[sample] * gradient[sample]
                size = alone.abs() if effect is None else effect.mean(1).abs()
                expected.setdefault(name, []).append(size.detach())
    for name, scores in found.items():
        assert scores == pytest.approx(torch.stack(expected[name]).mean(0).tolist(), rel=1e-4)
    assert set(found) == set(expected)


def test_taylor_of_weights_is_the_sum_of_squares_of_gradient_times_weight() -> None:
    model = _net()
    found = _scored(TaylorWeight(BATCHES, _loss), model)
    for path in PATHS:
        weight = model.get_parameter(f"{path}.weight")
        total = torch.zeros(len(found[f"{path}.weight"]), dtype=torch.float64)
        for batch in BATCHES:
            (gradient,) = torch.autograd.grad(_loss(model, batch), [weight])
            squares = (gradient * weight).double().square()
            by_channel = squares.transpose(0, 1) if path == "up" else squares
            total += torch.stack([one.sum() for one in by_channel])
        assert found[f"{path}.weight"] == pytest.approx((total / 2).tolist(), rel=1e-4)


@pytest.mark.parametrize("scores", [ActiveShare([]), TaylorOutput([], _loss), TaylorWeight([], _loss)])
def test_scores_without_data_are_refused(scores: Scores) -> None:
    with pytest.raises(PruningError, match="no batch"):
        scores(_net(), _layers(_net()))


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda model, batch: model(batch[0]), r"a tensor of shape \(3, 2\)"),
        (lambda model, batch: model(batch[0]).sum().item(), "gave float"),
    ],
)
def test_a_loss_must_be_a_scalar(loss: Callable[[nn.Module, Any], Any], says: str) -> None:
    for scores in (TaylorOutput(BATCHES, loss), TaylorWeight(BATCHES, loss)):
        with pytest.raises(PruningError, match=says):
            scores(_net(), _layers(_net()))


class TwoWeights(nn.Module):
    """What it makes with its first weight is no module's output."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.up.t()) @ self.down.t()


def test_output_is_that_of_the_module_only_where_it_goes_on_no_further() -> None:
    model, x = nn.Sequential(TwoWeights(), nn.ReLU(), nn.Linear(4, 2)), torch.randn(3, 4)
    layers = channels_of(model, x).layers
    assert [(one.weight, one.dim, one.output) for one in layers] == [
        ("0.up", 0, ""),
        ("0.down", 0, "0"),
        ("2.weight", 0, "2"),
    ]
    assert ActiveShare([x])(model, layers).keys() == {"0.down", "2.weight"}
