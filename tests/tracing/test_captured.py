"""A plain forward writes down what torch.export writes down, or says that it cannot."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from speedup.errors import ExportError
from speedup.ir.inputs import example_from
from speedup.tracing.trace import capture, export
from tests.support import timm_models, transformers_models, vision
from tests.support.soundness import Calling

X = torch.randn(2, 4)
IMAGE = torch.randn(1, 4, 5, 5)


def assert_captured(model: nn.Module, x: Any = X) -> None:
    """Fail unless a plain forward gives the graph of torch.export, about the same tensors."""
    captured, exported = capture(model, example_from(x)), export(model, example_from(x))
    assert captured is not None
    assert captured.graph == exported.graph
    assert list(captured.tensors) == list(exported.tensors)
    assert all(captured.tensors[n].equal(t) for n, t in exported.tensors.items())


class Holding(nn.Module):
    """A layer, a buffer, a tensor that is neither, and `use`, which is given them and x."""

    scale: Tensor

    def __init__(self, use: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.narrow = nn.Linear(4, 4), nn.Sequential(nn.Linear(3, 3))
        self.register_buffer("scale", torch.rand(4))
        self.register_buffer("unsaved", torch.rand(4), persistent=False)
        self.table = torch.arange(4.0)
        self.heads = 2
        # No submodule of this one by any name.
        self.beside = [nn.ReLU()]
        self.use = use

    def forward(self, x: Tensor) -> Any:
        return self.use(self, x)


def caught(module: Holding, x: Tensor) -> Tensor:
    with suppress(RuntimeError):
        x = x + x.new_zeros(3)
    return module.layer(x)


def caught_inside(module: Holding, x: Tensor) -> Tensor:
    with suppress(RuntimeError):
        x = module.narrow(x)
    return module.layer(x)


def without_gradients(module: Holding, x: Tensor) -> Tensor:
    with torch.no_grad():
        shifted = x + module.scale
    return module.layer(shifted)


def in_half(module: Holding, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return module.layer(x).float()


def profiled(module: Holding, x: Tensor) -> Tensor:
    with record_function("layer"):
        return module.layer(x)


def unread_constant(module: Holding, x: Tensor) -> Tensor:
    return module.layer(x) * float(torch.tensor(2.0)) + torch.tensor([1.0, 2.0, 3.0, 4.0])


def through_a_view(_: Holding, x: Tensor) -> Tensor:
    y = x * 2
    y[:, 1:3].mul_(3)
    return y


def heads_apart(module: Holding, x: Tensor) -> Tensor:
    batch, width = x.shape
    parts = module.layer(x).view(batch, module.heads, width // module.heads)
    return parts.transpose(0, 1).flatten(1)


FORWARDS: dict[str, Callable[[Any, Tensor], Any]] = {
    "a layer": lambda m, x: m.layer(x),
    "a buffer": lambda m, x: m.layer(x) * m.scale + m.unsaved,
    "a tensor held as an attribute": lambda m, x: m.layer(x) + m.table,
    "a constant in code": lambda m, x: m.layer(x) + torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "a constant whose number is read": unread_constant,
    "a range of positions": lambda m, x: m.layer(x) + torch.arange(x.shape[1]) / x.shape[1],
    "sizes and attributes": heads_apart,
    "several results": lambda m, x: [*m.layer(x).chunk(2, 1), x.sort(-1).indices],
    "a result left out": lambda m, x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
    "another type": lambda m, x: m.layer(x.double().float()).to(torch.float64),
    "writes in place": lambda m, x: m.layer(x).relu_().add_(1).squeeze_(0),
    "writes through a view": through_a_view,
    "what returns its operand": lambda m, x: m.layer(x).contiguous().to(torch.float32).relu(),
    "a copy that nobody reads": lambda m, x: (m.layer(x).detach(), x.detach())[0],
    "an input as it is": lambda m, x: (x, m.layer(x), m.scale),
    "a module that is held in a list": lambda m, x: m.beside[0](m.layer(x)),
    "an error that is caught": caught,
    "an error of a module that is caught": caught_inside,
    "no gradients": without_gradients,
    "autocast": in_half,
    "a profiler's region": profiled,
}


@pytest.mark.parametrize("kind", FORWARDS)
def test_forwards_are_written_down_as_torch_export_does(kind: str) -> None:
    assert_captured(Holding(FORWARDS[kind]))


def test_a_constant_in_code_is_lifted_on_the_meta_device_too() -> None:
    model = Holding(lambda m, x: torch.cat([torch.tensor([], device=x.device), m.layer(x).flatten()]))
    real = capture(model, example_from(X))
    hollow = capture(model.to("meta"), example_from(X.to("meta")))
    assert real is not None and hollow is not None
    assert [str(op.target) for op in hollow.graph.ops] == [str(op.target) for op in real.graph.ops]


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def called_twice() -> nn.Module:
    layer = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    return nn.Sequential(layer, nn.Tanh(), layer)


MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "tied weights": (tied, X),
    "a module with two names": (called_twice, X),
    "images": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(True), nn.MaxPool2d(2)
        ),
        IMAGE,
    ),
    "an LSTM": (lambda: nn.LSTM(4, 3, batch_first=True), torch.randn(1, 3, 4)),
    "attention": (lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), torch.randn(1, 3, 4)),
    "dropout": (lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4)), X),
    "tokens": (lambda: nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4)), torch.tensor([[1, 8, 3]])),
    "a meta model": (lambda: nn.Linear(4, 4, device="meta"), torch.randn(2, 4, device="meta")),
}


@pytest.mark.parametrize("kind", MODELS)
def test_modules_are_written_down_as_torch_export_does(kind: str) -> None:
    make, x = MODELS[kind]
    model = make()
    captured, exported = capture(model, example_from(x)), export(model, example_from(x))
    assert captured is not None
    assert captured.graph == exported.graph
    assert list(captured.tensors) == list(exported.tensors)


def assigned(module: Holding, x: Tensor) -> Tensor:
    module.scale = x.mean(0)
    return module.layer(x) * module.scale


def vmap_in_vain(module: Holding, x: Tensor) -> Tensor:
    torch.vmap(lambda row: row * 2)(x)
    return module.layer(x)


def number_that_is_caught(module: Holding, x: Tensor) -> Tensor:
    try:
        return module.layer(x) * float(x.max())
    except Exception:
        return module.layer(x)


BEYOND: dict[str, Callable[[Any, Tensor], Any]] = {
    "a number of the input": lambda m, x: m.layer(x) * x.max().item(),
    "such a number, its error caught": number_that_is_caught,
    "a buffer that gets another tensor": assigned,
    "a buffer that is written": lambda m, x: m.layer(x) * m.scale.add_(1),
    "an input that is written": lambda m, x: m.layer(x.mul_(2)) + x,
    "as many rows as the data say": lambda m, x: m.layer(x)[x[:, 0] > 0],
    "vmap": lambda m, x: torch.vmap(lambda row: row * 2 + 1)(m.layer(x)),
    "vmap of which nothing is used": vmap_in_vain,
    "a write to out=": lambda m, x: torch.add(m.layer(x), 1, out=torch.empty(2, 4)),
}


@pytest.mark.parametrize("kind", BEYOND)
def test_what_only_torch_export_follows_is_left_to_it(kind: str) -> None:
    assert capture(Holding(BEYOND[kind]), example_from(X)) is None


def test_an_error_of_the_forward_is_told_and_nothing_is_left_behind() -> None:
    call = nn.Module.__call__

    def forward(x: Tensor) -> Tensor:
        assert torch.compiler.is_exporting()
        return x @ x

    with pytest.raises(ExportError, match="raised RuntimeError"):
        capture(Calling(forward), example_from(X))
    assert nn.Module.__call__ is call
    assert not torch.compiler.is_exporting()
    assert not torch.compiler.is_compiling()
    assert torch.backends.mkldnn.enabled == torch.backends.mkldnn.is_available()
    assert torch.is_autocast_cache_enabled()


@pytest.mark.zoo
@pytest.mark.parametrize("name", vision.classifiers() if vision.available() else ())
def test_classifiers_of_torchvision_are_written_down_as_torch_export_does(name: str) -> None:
    assert_captured(vision.build(name), vision.images(1, vision.resolution(name), 0))


@pytest.mark.zoo
@pytest.mark.parametrize("family", timm_models.families() if timm_models.available() else ())
def test_models_of_timm_are_written_down_as_torch_export_does(family: str) -> None:
    assert_captured(timm_models.build(family), timm_models.images(1, timm_models.resolution(family), 0))


# Routes tokens by what the data say.
_BEYOND = ("MixtralForCausalLM",)


@pytest.mark.zoo
@pytest.mark.parametrize(
    "name",
    [n for n in transformers_models.classes() if n not in _BEYOND] if transformers_models.available() else (),
)
def test_models_of_transformers_are_written_down_as_torch_export_does(name: str) -> None:
    call = transformers_models.inputs(name, transformers_models.size(name), 1, 0)
    assert_captured(transformers_models.build(name), call)


@pytest.mark.parametrize(
    "padding",
    [
        lambda x: max(x.shape[1] - 2, 0),
        lambda x: min(3, x.shape[1]),
        lambda x: torch.sym_max(x.shape[1] - 2, 0),
        lambda x: torch.sym_min(x.shape[1], 3),
    ],
    ids=["max", "min", "sym_max", "sym_min"],
)
def test_the_larger_of_sizes_is_followed_by_torch_export_too(padding: Callable[[Tensor], int]) -> None:
    model = Calling(lambda x: F.pad(x, (0, padding(x))))
    captured, exported = capture(model, example_from(X)), export(model, example_from(X))
    assert captured is not None
    one, other = captured.graph, exported.graph
    assert [op.arguments["pad"] for op in one.ops] == [op.arguments["pad"] for op in other.ops]
    assert len(one.guards) == len(other.guards) == 1
