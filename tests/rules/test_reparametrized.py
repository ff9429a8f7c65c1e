"""Weights computed from other weights: exact where they shrink, kept with a reason where they cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from speedup import Plan, apply_masks, materialize, plan_speedup
from speedup.ir.edits import Slice
from tests.support.hooked import hooked
from tests.support.measure import check_exact
from tests.support.reports import reasons
from tests.support.soundness import (
    Case,
    Tensors,
    case,
    dead_claims,
    known_claims,
    made_once,
    positive,
    sparse,
)

Masks = dict[str, Tensor]
Wrap = Callable[[nn.Module], nn.Module]

NORM = torch.ops.aten._weight_norm.default
INTERFACE = torch.ops.aten._weight_norm_interface.default

CASES: dict[str, Callable[[], Case]] = {
    "weight_norm": lambda: case(lambda v, g: NORM(v, g, 0), Tensors((4, 3, 2), positive), (4, 1, 1)),
    "weight_norm of columns": lambda: case(lambda v, g: NORM(v, g, 1), Tensors((4, 3), positive), (1, 3)),
    "weight_norm as a whole": lambda: case(lambda v, g: NORM(v, g, -1), Tensors((4, 3), positive), ()),
    "weight_norm and norms": lambda: case(
        lambda v, g: INTERFACE(v, g, 0), Tensors((4, 3), positive), Tensors((4, 1), sparse)
    ),
    "mv": lambda: case(torch.mv, (4, 3), (3,)),
    "dot": lambda: case(torch.dot, (4,), (4,)),
    "vdot": lambda: case(torch.vdot, (4,), (4,)),
}

built = made_once(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_known_is_that_constant_for_every_input(name: str) -> None:
    known_claims(built(name))


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_dead_does_not_change_live_results(name: str) -> None:
    assert dead_claims(built(name)) > 0


@pytest.mark.parametrize("name", CASES)
def test_every_operand_may_change_alone_where_it_is_dead(name: str) -> None:
    assert dead_claims(built(name), together=False) > 0


# How to norm a module's weight, and the names of its direction and length.
WEIGHT_NORMS: dict[str, tuple[Callable[..., nn.Module], str, str]] = {
    "hook": (hooked("weight_norm"), "weight_v", "weight_g"),
    "parametrization": (
        parametrizations.weight_norm,
        "parametrizations.weight.original1",
        "parametrizations.weight.original0",
    ),
}
SPECTRAL_NORMS: dict[str, tuple[Wrap, str]] = {
    "hook": (hooked("spectral_norm"), "weight_orig"),
    "parametrization": (parametrizations.spectral_norm, "parametrizations.weight.original"),
}


class Stack(nn.Module):
    """Two layers and a head, a ReLU between; `bias` gives constants to what a mask leaves."""

    def __init__(self, first: nn.Module, second: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.head = first, second, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu())


def double(model: nn.Module) -> Any:
    """The model in float64 with lively weights and positive biases, whose ReLU is not 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in (model := model.double().eval()).named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            if name.endswith("bias"):
                parameter.abs_()
    return model


def images(batch: int, seed: int) -> tuple[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, 3, 8, 8, generator=generator, dtype=torch.float64),)


def vectors(batch: int, seed: int) -> tuple[Tensor]:
    return (torch.randn(batch, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),)


def shrunk(model: nn.Module, masks: Masks | None, make: Any = images) -> tuple[Plan, Any]:
    """The plan and the small model, which is exact and computes its weights as the given one does."""
    check_exact(model, masks, make, also_verified=True, reparametrized="keep").require_exact()
    plan = plan_speedup(model, make(2, 0), masks, reparametrized="keep")
    return plan, materialize(plan, verify="none")


def without(parameter: Tensor, indices: list[int], dim: int = 0) -> Tensor:
    """A keep-mask that drops slices of `parameter`."""
    mask = torch.ones_like(parameter)
    return mask.index_fill_(dim, torch.tensor(indices), 0)


@pytest.mark.parametrize("style", WEIGHT_NORMS)
@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_rows_of_length_zero_go_and_the_next_layers_lengths_follow(
    style: str, layer: type[nn.Module]
) -> None:
    wrap, v, g = WEIGHT_NORMS[style]
    dim = 0 if layer is nn.Conv2d else 1
    first, second = (wrap(layer(*sizes, 3), dim=dim) for sizes in ((3, 6), (6, 5)))
    model = double(Stack(first, second, nn.Conv2d(5, 2, 1)))
    lengths = model.first.get_parameter(g)
    masks = {f"first.{g}": without(lengths, [1, 4], dim), "first.bias": without(model.first.bias, [1, 4])}
    _, small = shrunk(model, masks)
    assert small.first.get_parameter(g).numel() == 4
    assert small.second.get_parameter(v).shape[1 - dim] == 4
    before, after = model.second.get_parameter(g), small.second.get_parameter(g)
    assert bool((after.abs() < before.abs()).all())


@pytest.mark.parametrize("style", WEIGHT_NORMS)
def test_directions_and_lengths_of_the_same_rows_stay(style: str) -> None:
    """On others torch's kernel would read what is not there."""
    wrap, v, g = WEIGHT_NORMS[style]
    model = double(Stack(wrap(nn.Conv2d(3, 6, 3)), wrap(nn.Conv2d(6, 5, 3)), nn.Conv2d(5, 2, 1)))
    masks = {
        f"first.{g}": without(model.first.get_parameter(g), [1, 4]),
        "first.bias": without(model.first.bias, [1, 4]),
    }
    plan = plan_speedup(model, images(2, 0), masks)
    left = {e.name: e.indices for e in plan.edits if isinstance(e, Slice) and e.dim == 0}
    assert left[f"first.{v}"] == left[f"first.{g}"] == left["first.bias"] == (0, 2, 3, 5)


@pytest.mark.parametrize("style", WEIGHT_NORMS)
def test_a_constant_channel_moves_into_the_bias_of_a_normed_layer(style: str) -> None:
    wrap, v, g = WEIGHT_NORMS[style]
    model = double(Stack(wrap(nn.Linear(3, 6)), wrap(nn.Linear(6, 5)), nn.Linear(5, 2)))
    masks = {f"first.{g}": without(model.first.get_parameter(g), [0, 2])}
    _, small = shrunk(model, masks, vectors)
    assert small.second.get_parameter(v).shape == (5, 4)
    assert small.second.in_features == 4


def test_a_weight_normed_as_a_whole_keeps_one_length() -> None:
    wrap, v, g = WEIGHT_NORMS["hook"]
    model = double(Stack(nn.Linear(3, 6), wrap(nn.Linear(6, 5), dim=None), nn.Linear(5, 2)))
    masks = {
        "first.weight": without(model.first.weight, [0, 2]),
        f"second.{v}": without(model.second.get_parameter(v), [3]),
        "second.bias": without(model.second.bias, [3]),
    }
    _, small = shrunk(model, masks, vectors)
    assert small.second.get_parameter(v).shape == (4, 4)
    assert small.second.get_parameter(g).shape == ()


@pytest.mark.parametrize("style", WEIGHT_NORMS)
def test_a_row_that_loses_all_it_reads_gets_length_zero(style: str) -> None:
    wrap, v, g = WEIGHT_NORMS[style]
    model = double(Stack(nn.Linear(3, 6), wrap(nn.Linear(6, 5)), nn.Linear(5, 5)))

    # Row 1 reads the constants 0 and 2 only; the addition keeps it.
    class Kept(Stack):
        def forward(self, x: Tensor) -> Tensor:
            between = self.second(self.first(x).relu())
            return self.head(between) + between

    model.__class__ = Kept
    rows = torch.ones(5, 6)
    rows[1, [1, 3, 4, 5]] = 0
    masks = {"first.weight": without(model.first.weight, [0, 2]), f"second.{v}": rows}
    _, small = shrunk(model, masks, vectors)
    assert small.second.get_parameter(v).shape == (5, 4)
    assert small.second.get_parameter(g)[1].item() == 0
    assert bool(small.second.weight.isfinite().all())


@pytest.mark.parametrize("style", WEIGHT_NORMS)
def test_a_masked_direction_without_length_gives_nan_as_the_masked_model_does(style: str) -> None:
    wrap, v, _ = WEIGHT_NORMS[style]
    model = double(Stack(wrap(nn.Linear(3, 6)), nn.Linear(6, 5), nn.Linear(5, 2)))
    masks = {f"first.{v}": without(model.first.get_parameter(v), [1])}
    small = materialize(plan_speedup(model, vectors(2, 0), masks))
    (x,) = vectors(3, 1)
    assert torch.equal(apply_masks(model, masks)(x).isnan(), small(x).isnan())
    assert bool(small(x).isnan().any())


@pytest.mark.parametrize("style", WEIGHT_NORMS)
def test_a_normed_layer_that_is_called_twice_shrinks(style: str) -> None:
    wrap, v, _ = WEIGHT_NORMS[style]

    class Again(Stack):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                x = self.second(self.first(x).relu())
            return self.head(x)

    model = double(Again(nn.Linear(3, 6), wrap(nn.Linear(6, 3)), nn.Linear(3, 2)))
    masks = {n: without(p, [0, 2]) for n, p in model.first.named_parameters(prefix="first")}
    _, small = shrunk(model, masks, vectors)
    assert small.second.get_parameter(v).shape == (3, 4)


@pytest.mark.parametrize("returned", [True, False], ids=["returned", "summed"])
@pytest.mark.parametrize("style", WEIGHT_NORMS)
def test_lengths_that_something_else_reads_keep_the_columns_with_a_reason(style: str, returned: bool) -> None:
    wrap, v, g = WEIGHT_NORMS[style]

    class Watched(Stack):
        def forward(self, x: Tensor) -> Any:
            lengths = self.second.get_parameter(g)
            return super().forward(x), lengths if returned else lengths.sum()

    model = double(Watched(nn.Linear(3, 6), wrap(nn.Linear(6, 5)), nn.Linear(5, 2)))
    masks = {n: without(p, [0, 2]) for n, p in model.first.named_parameters(prefix="first")}
    plan, small = shrunk(model, masks, vectors)
    assert small.second.get_parameter(v).shape == (5, 6)
    assert "takes norms that something else reads too" in reasons(plan, "first")


@pytest.mark.parametrize("style", WEIGHT_NORMS)
def test_a_recurrent_layer_with_a_normed_weight_shrinks(style: str) -> None:
    wrap, _, g = WEIGHT_NORMS[style]
    layer: Any = wrap(nn.GRU(3, 6, batch_first=True), name="weight_hh_l0")

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = layer, nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x[:, None].expand(-1, 4, -1))[0])

    model = double(Last())
    rows = [gate * 6 + unit for gate in range(3) for unit in (0, 5)]
    own = g.replace("weight", "weight_hh_l0", 1)
    masks = {f"layer.{own}": without(layer.get_parameter(own), rows)}
    for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
        masks[f"layer.{name}"] = without(getattr(layer, name), rows)
    _, small = shrunk(model, masks, vectors)
    assert small.layer.hidden_size == 4
    assert small.layer.get_parameter(own).shape == (12, 1)


@pytest.mark.parametrize("style", SPECTRAL_NORMS)
def test_zero_rows_of_a_spectrally_normed_layer_go(style: str) -> None:
    wrap, name = SPECTRAL_NORMS[style]
    model = double(Stack(wrap(nn.Conv2d(3, 6, 3)), nn.Conv2d(6, 5, 3), nn.Conv2d(5, 2, 1)))
    masks = {
        f"first.{name}": without(model.first.get_parameter(name), [0, 2]),
        "first.bias": without(model.first.bias, [0, 2]),
    }
    _, small = shrunk(model, masks)
    assert small.first.get_parameter(name).shape == (4, 3, 3, 3)
    assert small.second.weight.shape == (5, 4, 3, 3)


@pytest.mark.parametrize("style", SPECTRAL_NORMS)
def test_columns_of_a_spectrally_normed_layer_stay_with_a_reason(style: str) -> None:
    wrap, name = SPECTRAL_NORMS[style]
    model = double(Stack(nn.Linear(3, 6), wrap(nn.Linear(6, 5)), nn.Linear(5, 2)))
    masks = {n: without(p, [0, 2]) for n, p in model.first.named_parameters(prefix="first")}
    plan, small = shrunk(model, masks, vectors)
    assert small.second.get_parameter(name).shape == (5, 6)
    assert reasons(plan, "first")


class Standardized(nn.Conv2d):
    """Filters standardised as timm's `StdConv2d` and `ScaledStdConv2d` do, with a gain."""

    def __init__(self, *sizes: Any) -> None:
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * 0.3).view(-1),
            training=True,
            momentum=0.0,
            eps=1e-6,
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def test_standardised_filters_are_exact_and_their_columns_stay_with_a_reason() -> None:
    model = double(Stack(Standardized(3, 6, 3), Standardized(6, 5, 3), nn.Conv2d(5, 2, 1)))
    masks = {
        "first.gain": without(model.first.gain, [0, 2]),
        "first.bias": without(model.first.bias, [0, 2]),
        "second.gain": without(model.second.gain, [1]),
    }
    plan, small = shrunk(model, masks)
    assert small.second.weight.shape[1] == 6
    assert reasons(plan, "first")


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Mirrored(nn.Module):
    """A symmetric matrix from its upper triangle, as in PyTorch's tutorial on parametrizations."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


def test_a_parametrization_that_works_element_by_element_shrinks() -> None:
    model = Stack(nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 2))
    for layer in (model.first, model.second):
        parametrize.register_parametrization(layer, "weight", Doubled())
    model = double(model)
    original = model.first.parametrizations.weight.original
    masks = {"first.parametrizations.weight.original": without(original, [0, 2])}
    _, small = shrunk(model, masks, vectors)
    assert small.second.parametrizations.weight.original.shape == (5, 4)


@pytest.mark.parametrize(
    "register",
    [
        parametrizations.orthogonal,
        lambda layer: parametrize.register_parametrization(layer, "weight", Mirrored()),
    ],
    ids=["orthogonal", "symmetric"],
)
def test_a_parametrization_that_mixes_elements_is_kept_with_a_reason(register: Wrap) -> None:
    model = double(Stack(nn.Linear(3, 6), register(nn.Linear(6, 6)), nn.Linear(6, 2)))
    masks = {n: without(p, [0, 2]) for n, p in model.first.named_parameters(prefix="first")}
    plan, small = shrunk(model, masks, vectors)
    assert small.first.out_features == 6
    assert reasons(plan, "first")


def test_pruned_weights_that_are_normed_too_stay_exact() -> None:
    model = double(Stack(nn.Linear(3, 6), parametrizations.weight_norm(nn.Linear(6, 5)), nn.Linear(5, 2)))
    prune.ln_structured(model.first, "weight", 0.5, 2, 0)
    _, small = shrunk(model, None, vectors)
    assert small.first.weight_orig.shape == (3, 3)
    assert small.second.in_features == 3
