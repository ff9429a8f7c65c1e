"""Models without data: what masks alone decide goes from them as it does from models with weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from speedup import Plan, apply_masks, materialize, plan_speedup
from speedup.modules.copying import copy_module, every_tensor
from tests.support import transformers_models

_SEED = 3
_GONE = 0.4
_WIDTH = 32
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
Masks = dict[str, Tensor]


def hollow(model: nn.Module) -> nn.Module:
    """The model without data; tied tensors stay tied."""
    return copy_module(model, {id(tensor): tensor.to("meta") for tensor in every_tensor(model)})


def plans(model: nn.Module, call: object, masks: Masks) -> tuple[Plan, Plan]:
    """The plan of the model, and that of the model without data."""
    empty = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), call)
    return plan_speedup(model, call, masks), plan_speedup(hollow(model), empty, masks)


def _without(shape: torch.Size, dim: int, gone: Tensor) -> Tensor:
    return torch.ones(shape, dtype=torch.bool).index_fill(dim, gone, value=False)


def rows_with_biases(model: nn.Module) -> Masks:
    """Rows of each layer, other ones in each, and their biases."""
    generator = torch.Generator().manual_seed(_SEED)
    kinds = transformers_models.output_dims()
    masks: Masks = {}
    for name, module in model.named_modules():
        weight, bias = (module._parameters.get(local) for local in ("weight", "bias"))
        if weight is None or (type(module) not in kinds and not isinstance(module, _LAYERS)):
            continue
        dim = kinds.get(type(module), 0)
        count = weight.shape[dim]
        gone = torch.randperm(count, generator=generator)[: int(_GONE * count)]
        masks[f"{name}.weight"] = _without(weight.shape, dim, gone)
        if bias is not None:
            masks[f"{name}.bias"] = _without(bias.shape, 0, gone)
    return masks


def hidden_channels(model: nn.Module) -> Masks:
    """The same channels in every dimension that is as wide as the tiny models are."""
    gone = torch.randperm(_WIDTH, generator=torch.Generator().manual_seed(_SEED))[: _WIDTH // 4]
    masks: Masks = {}
    for name, parameter in model.named_parameters():
        for dim, extent in enumerate(parameter.shape):
            if extent == _WIDTH:
                masks[name] = masks.get(name, torch.tensor(True)) & _without(parameter.shape, dim, gone)
    return masks


def rows_with_norms(model: nn.Module) -> Masks:
    """As above; also what the norms behind those rows multiply them by, and add to them."""
    masks, behind = rows_with_biases(model), torch.ones(0, dtype=torch.bool)
    for name, module in model.named_modules():
        weight, bias = (module._parameters.get(local) for local in ("weight", "bias"))
        mask = masks.get(f"{name}.weight")
        if mask is not None:
            dim = transformers_models.output_dims().get(type(module), 0)
            behind = mask.movedim(dim, 0).flatten(1).any(1)
        elif weight is not None and bias is not None and weight.numel() == len(behind):
            masks[f"{name}.weight"] = behind.reshape(weight.shape)
            masks[f"{name}.bias"] = behind.reshape(bias.shape)
    return masks


_RECIPES: dict[str, Callable[[nn.Module], Masks]] = {"rows": rows_with_biases, "hidden": hidden_channels}
_SHIFTS = "norms behind the masked rows shift them by biases without masks, which are folded"
_DEPTHWISE = (
    "masked channels go through depthwise convolutions, which or whose norms shift them by such biases"
)
_ZEROS = "the random weights are zero where no mask is: with others in their place the plans are equal"
# Between the masks and what could go there are numbers.
_BY_NUMBERS = {
    ("ConvNextV2ForImageClassification", "rows"): _SHIFTS,
    ("DetrForObjectDetection", "rows"): "so do its frozen norms, whose biases are buffers",
    ("DetrForObjectDetection", "hidden"): "the first queries are zeros plus a bias: equal at each position",
    ("HubertModel", "rows"): _SHIFTS,
    ("Mamba2ForCausalLM", "rows"): _ZEROS,
    ("MambaForCausalLM", "rows"): _ZEROS,
    ("MobileBertModel", "rows"): _SHIFTS,
    ("MobileNetV2ForImageClassification", "rows"): _DEPTHWISE,
    ("MobileViTForImageClassification", "rows"): _DEPTHWISE,
    ("RegNetForImageClassification", "rows"): _SHIFTS,
    ("ResNetForImageClassification", "rows"): _SHIFTS,
    ("SegformerForSemanticSegmentation", "rows"): _DEPTHWISE,
    ("Wav2Vec2ForCTC", "rows"): _SHIFTS,
}


def check(name: str, recipe: str) -> None:
    model = transformers_models.build(name).double()
    call = transformers_models.inputs(name, transformers_models.size(name), 2, 0, torch.float64)
    real, empty = plans(model, call, _RECIPES[recipe](model))
    assert (real.edits != empty.edits) == ((name, recipe) in _BY_NUMBERS)
    materialize(empty, model)


def check_with_norms(name: str) -> None:
    model = transformers_models.build(name).double()
    call = transformers_models.inputs(name, transformers_models.size(name), 2, 0, torch.float64)
    real, empty = plans(model, call, rows_with_norms(model))
    assert real.edits == empty.edits
    assert empty.parameters_after < empty.parameters_before


_needs_transformers = pytest.mark.skipif(
    not transformers_models.available(), reason="transformers is not installed"
)


@_needs_transformers
@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("ConvNextForImageClassification", "hidden"),
        ("ConvNextForImageClassification", "rows"),
        ("FNetModel", "rows"),
    ],
)
def test_a_class_of_transformers_loses_the_same(name: str, recipe: str) -> None:
    check(name, recipe)


@_needs_transformers
@pytest.mark.zoo
@pytest.mark.parametrize("recipe", _RECIPES)
@pytest.mark.parametrize("name", transformers_models.classes())
def test_every_class_of_transformers_loses_the_same(name: str, recipe: str) -> None:
    check(name, recipe)


@_needs_transformers
@pytest.mark.parametrize("name", ["ConvNextV2ForImageClassification", "RegNetForImageClassification"])
def test_where_norms_are_masked_too_masks_alone_decide(name: str) -> None:
    check_with_norms(name)


@_needs_transformers
@pytest.mark.zoo
@pytest.mark.parametrize("name", sorted({name for (name, _), why in _BY_NUMBERS.items() if why is _SHIFTS}))
def test_where_norms_of_any_class_are_masked_too_masks_alone_decide(name: str) -> None:
    check_with_norms(name)


class Looked(nn.Module):
    """Words, and places that are the same in each call or read in part, in a sum that is normalized."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.words, self.places = nn.Embedding(11, 8), nn.Embedding(6, 8)
        self.register_buffer("order", torch.tensor([3, 0, 5, 1]))
        self.norm: nn.Module = nn.RMSNorm(8) if way == "rms" else nn.LayerNorm(8)
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.words(x)
        match self.way:
            case "order":
                y = y + self.places(self.order)
            case "index":
                y = y + self.places.weight[x % 6]
            case "function":
                y = F.embedding(x, self.words.weight) * self.scale
            case "columns":
                y = self.words.weight.t()[:, x].movedim(0, -1)
            case "rms" | "layer":
                y = self.norm(y)
        return self.out(y)


def without_columns(model: nn.Module) -> Masks:
    gone = torch.tensor([1, 4, 6])
    return {
        name: _without(parameter.shape, parameter.ndim - 1, gone)
        for name, parameter in model.named_parameters()
        if not name.startswith("out")
    }


@pytest.mark.parametrize("way", ["order", "index", "function", "columns", "layer", "plain"])
def test_masked_columns_of_a_table_go_whatever_the_others_are(way: str) -> None:
    torch.manual_seed(0)
    model = Looked(way).double().eval()
    real, empty = plans(model, torch.randint(0, 11, (2, 4)), without_columns(model))
    assert real.edits == empty.edits
    assert materialize(empty, model).words.weight.shape == (11, 5)  # type: ignore[union-attr]


class Normed(nn.Module):
    """A convolution whose masked rows a norm scales by nothing and shifts by nothing."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))


def test_channels_that_a_norm_multiplies_by_zero_go_whatever_its_statistics_are() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert isinstance(tensor, Tensor)
        nn.init.uniform_(tensor, 0.5, 2)
    model = Normed(norm).double().eval()
    masks = {
        name: _without(parameter.shape, 0, torch.tensor([1, 4, 6]))
        for name, parameter in model.named_parameters()
        if name.startswith("norm")
    }
    real, empty = plans(model, torch.randn(2, 3, 6, 6).double(), masks)
    assert real.edits == empty.edits
    small = materialize(empty, model)
    assert small.norm.weight.shape == (5,) and small.last.weight.shape == (4, 5, 3, 3)  # type: ignore[union-attr]


def test_what_is_made_up_for_with_numbers_stays_where_these_are_not_at_hand() -> None:
    torch.manual_seed(0)
    model = Looked("rms").double().eval()
    real, empty = plans(model, torch.randint(0, 11, (2, 4)), without_columns(model))
    assert real.parameters_after < empty.parameters_after == empty.parameters_before
    materialize(empty, model)
    (blocker,) = empty.blockers()
    assert "the numbers of norm.weight, to be scaled, are not at hand" in blocker.reason
    assert "plan with the weights" in str(empty)


class Halves(nn.Module):
    """A constant that is known goes through a weight of which some rows are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6, bias=False), nn.Linear(6, 8, bias=False)
        self.third = nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(torch.sigmoid(self.first(x))))


def test_rows_that_read_nothing_go_where_others_read_constants() -> None:
    torch.manual_seed(0)
    model, x = Halves().double(), torch.randn(3, 4).double()
    masks = {
        "first.weight": _without(torch.Size((6, 4)), 0, torch.tensor([0, 2])),
        "second.weight": _without(torch.Size((8, 6)), 0, torch.tensor([1, 5, 7])),
    }
    real, empty = plans(model, x, masks)
    # Constants of the first layer can be folded only where the weights are at hand, which the plan says.
    assert "the numbers of second.weight, to fold constants, are not at hand" in empty.explain("first")
    assert materialize(empty, model, verify="none").third.weight.shape == (3, 5)  # type: ignore[union-attr]
    assert materialize(real).first.weight.shape == (4, 4)  # type: ignore[union-attr]
    assert materialize(empty, model).first.weight.shape == (6, 4)  # type: ignore[union-attr]


class Places(nn.Module):
    """A table that the model holds goes through layers by itself, or is added up."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.first, self.second = nn.Linear(3, 12), nn.Linear(12, 4, bias=False)
        self.out = nn.Linear(4, 3)
        self.table = nn.Parameter(torch.randn(5, 3))
        self.held: Tensor
        self.register_buffer("held", torch.randn(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        match self.way:
            case "buffer":
                table = self.first(self.held)
            case "parameter":
                table = self.first(self.table)
            case "product":
                table = self.first.bias + self.held @ self.first.weight.t()
            case "sum":
                table = self.first(x.new_ones(5, 3)) * self.table.sum(1, keepdim=True)
            case _:
                table = self.first(torch.cat([self.table, self.held]).narrow(0, 2, 5))
        return self.out(x * torch.sigmoid(self.second(torch.relu(table)))[1:4].sum(0))


@pytest.mark.parametrize("way", ["buffer", "parameter", "product", "sum", "joined"])
def test_a_table_that_meets_no_input_stays(way: str) -> None:
    torch.manual_seed(0)
    model, x = Places(way).double(), torch.randn(2, 4).double()
    masks = {
        "first.weight": _without(torch.Size((12, 3)), 0, torch.tensor([0, 3, 6])),
        "first.bias": _without(torch.Size((12,)), 0, torch.tensor([0, 3, 6])),
    }
    small = materialize(plans(model, x, masks)[1], model, verify="none")
    assert (small(x) - apply_masks(model, masks)(x)).abs().max() < 1e-12
