"""What Python a forward may be written in: exact at two batch sizes, smaller, and the model left alone.

Every model has a layer `first` (4 or 3 -> 8) whose first three channels are masked, bias included.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import types
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from speedup import (
    ExportError,
    InputError,
    MaskTargetError,
    ModelError,
    SpeedupError,
    apply_masks,
    materialize,
    plan_speedup,
)
from tests.support.measure import check_exact, relative_error

Make = Callable[[], nn.Module]
Inputs = Callable[[int, int], Any]


def normal(*shape: int, dtype: torch.dtype = torch.float64, of: int = 1) -> Inputs:
    """`of` tensors (batch, *shape) per call."""

    def make(batch: int, seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        wide = torch.complex128 if dtype.is_complex else torch.float64
        return tuple(torch.randn(batch, *shape, generator=generator, dtype=wide).to(dtype) for _ in range(of))

    return make


def tokens(batch: int, seed: int) -> tuple[Tensor, ...]:
    return (torch.randint(10, (batch, 5), generator=torch.Generator().manual_seed(seed)),)


IMAGE = normal(3, 6, 6)
SEQUENCE = normal(5, 8)


_FOUR = normal(4)


def first_masked(model: nn.Module) -> dict[str, Tensor]:
    """Masks of the first three channels of every layer called `first`."""
    masks = {}
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[0].endswith("first") or name == "first":
            shape = (-1, *[1] * (parameter.ndim - 1))
            masks[name] = (torch.arange(parameter.shape[0]) >= 3).double().reshape(shape)
    assert masks
    return masks


@frozen
class Feature:
    """A model, its inputs, and the dtype and precision it works in."""

    make: Make
    inputs: Inputs = _FOUR
    dtype: torch.dtype | None = torch.float64
    tolerance: float = 1e-9
    masks: Callable[[nn.Module], dict[str, Tensor]] = first_masked


class Pair(nn.Module):
    """Two layers, 4 -> 8 -> 3."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        return self.second(F.relu(self.first(x)))


def written(forward: Callable[..., Any], **parts: Any) -> Callable[[], Any]:
    """A model of class `Pair` with `forward` and further attributes; functions of no argument make them."""

    def make() -> nn.Module:
        class Written(Pair):
            def __init__(self) -> None:
                super().__init__()
                for name, part in parts.items():
                    setattr(self, name, part())

            def forward(self, *args: Any, **kwargs: Any) -> Any:
                return forward(self, *args, **kwargs)

        return Written()

    return make


def images(forward: Callable[..., Any], **parts: Any) -> Feature:
    """The same with 1x1 convolutions, 3 -> 8 and 8 -> 3, unless `parts` has others."""
    layers = {"first": lambda: nn.Conv2d(3, 8, 1), "second": lambda: nn.Conv2d(8, 3, 1)}
    return Feature(written(forward, **{**layers, **parts}), IMAGE)


FEATURES: dict[str, Feature] = {}


def feature(**options: Any) -> Callable[[Make], Make]:
    """Enter the decorated function, which makes a model, under its name."""

    def enter(make: Make) -> Make:
        FEATURES[make.__name__] = Feature(make, **options)
        return make

    return enter


@feature()
def lambda_that_calls_a_layer_of_the_model() -> nn.Module:
    model = written(lambda self, x: self.run(x))()
    model.run = lambda x: model.second(F.relu(model.first(x)))
    return model


@feature()
def forward_that_is_a_closure() -> nn.Module:
    model = Pair()

    def forward(x: Tensor) -> Tensor:
        return model.second(F.relu(model.first(x)))

    model.forward = forward  # type: ignore[method-assign]
    return model


@feature()
def lambda_with_a_layer_as_default() -> nn.Module:
    model = written(lambda self, x: self.run(x))()
    model.run = lambda x, first=model.first, second=model.second: second(F.relu(first(x)))
    return model


@feature()
def closures_inside_closures() -> nn.Module:
    model = written(lambda self, x: self.steps[0](x))()

    def outer(x: Tensor) -> Tensor:
        return inner(x) + 1

    def inner(x: Tensor) -> Tensor:
        return model.second(F.relu(model.first(x)))

    model.steps = [outer]
    return model


@feature()
def partial_over_a_bound_method() -> nn.Module:
    model = written(lambda self, x: self.run(F.relu(self.first(x))))()
    model.run = functools.partial(model.second.forward)
    return model


@feature()
def hooks_that_change_what_passes() -> nn.Module:
    model = written(lambda self, x: self.second(self.first(x)))()
    model.first.register_forward_hook(lambda module, args, output: F.relu(output))
    model.first.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model.second.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    return model


@feature()
def hooks_that_see_keywords() -> nn.Module:
    model = written(lambda self, x: self.second(self.first(input=x)))()
    model.first.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {"input": kwargs["input"] + 1}), with_kwargs=True
    )
    model.first.register_forward_hook(lambda module, args, kwargs, out: F.relu(out), with_kwargs=True)
    return model


@feature()
def hook_that_calls_another_layer() -> nn.Module:
    model = written(lambda self, x: self.first(x))()
    model.first.register_forward_hook(lambda module, args, output: model.second(F.relu(output)))
    return model


def plain_arguments(batch: int, seed: int) -> tuple[Any, ...]:
    return (*normal(4)(batch, seed), 2, "relu", True, None)


def plain_keywords(batch: int, seed: int) -> dict[str, Any]:
    return dict(zip(("x", "n", "name", "flag", "nothing"), plain_arguments(batch, seed), strict=True))


def choosing(
    self: Any, x: Tensor, n: int = 1, name: str = "tanh", flag: bool = False, nothing: Any = 0
) -> Tensor:
    return self.second(getattr(F, name)(self.first(x)) * n) if flag and nothing is None else x


Both = collections.namedtuple("Both", "left right")


@dataclasses.dataclass
class Result:
    logits: Tensor
    extra: dict[str, Any]


class ModelOutput(collections.OrderedDict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        return self[name]


def nested(self: Any, x: Tensor) -> Any:
    y = self.second(F.relu(self.first(x)))
    return {
        "pair": (y, [y * 2]),
        "data": Result(y * 3, {"deep": (y,)}),
        "named": Both(y + 1, None),
        "output": ModelOutput(logits=y),
    }


@feature()
def modules_in_lists_and_dicts_made_at_run_time() -> nn.Module:
    def forward(self: Any, x: Tensor) -> dict[str, Tensor]:
        for layer in self.layers:
            x = F.relu(layer(x))
        return {name: head(x) for name, head in self.heads.items()}

    model = written(forward)()
    model.layers = nn.ModuleList([model.first, *(nn.Linear(8, 8) for _ in range(2))])
    model.heads = nn.ModuleDict({name: nn.Linear(8, 2) for name in "ab"})
    return model


@feature()
def no_grad_as_a_decorator() -> nn.Module:
    class Frozen(Pair):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    return Frozen()


def under(context: Callable[[], Any]) -> Callable[..., Any]:
    def forward(self: Any, x: Tensor) -> Tensor:
        with context():
            hidden = self.first(x)
        return self.second(F.relu(hidden).to(self.second.weight.dtype))

    return forward


@feature()
def sequential_with_functions_between() -> nn.Module:
    class Apply(nn.Module):
        def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Tensor) -> Tensor:
            return self.function(x)

    layers = {"first": nn.Linear(4, 8), "act": Apply(F.relu), "twice": Apply(lambda x: 2 * x)}
    return nn.Sequential(collections.OrderedDict(**layers, second=nn.Linear(8, 3)))


@feature()
def module_under_two_names() -> nn.Module:
    model = written(lambda self, x: self.second(F.relu(self.again(self.back(F.relu(self.first(x)))))))()
    model.back, model.again = nn.Linear(8, 4), model.first
    return model


@feature(inputs=tokens, masks=lambda model: {"first.weight": torch.arange(12.0).ge(3)[:, None]})
def tied_embedding_and_head() -> nn.Module:
    model = written(
        lambda self, x: self.head(self.second(F.relu(self.first(self.embed(x))))),
        embed=lambda: nn.Embedding(10, 8),
        first=lambda: nn.Linear(8, 12),
        second=lambda: nn.Linear(12, 8),
        head=lambda: nn.Linear(8, 10, bias=False),
    )()
    model.head.weight = model.embed.weight
    return model


@feature()
def buffer_that_counts_calls() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.calls += 1
        self.count = self.count + 1
        self.times += 1
        return self.second(F.relu(self.first(x)))

    model = written(forward)()
    model.register_buffer("calls", torch.zeros((), dtype=torch.long))
    model.register_buffer("count", torch.zeros((), dtype=torch.long))
    model.times = 0
    return model


@feature()
def hidden_state_kept_as_an_attribute() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.hidden = F.relu(self.first(x))
        return self.second(self.hidden)

    return written(forward)()


@feature()
def parameters_used_bare() -> nn.Module:
    return written(
        lambda self, x: (F.relu(x @ self.first.t()) * self.gain) @ self.second.T,
        first=lambda: nn.Parameter(torch.randn(8, 4)),
        gain=lambda: nn.Parameter(torch.randn(8)),
        second=lambda: nn.Parameter(torch.randn(3, 8)),
    )()


@feature(masks=lambda model: {"weights.0": torch.arange(8.0).ge(3)[None]})
def parameters_in_lists_and_dicts() -> nn.Module:
    return written(
        lambda self, x: torch.relu(x @ self.weights[0] * self.gains["all"]) @ self.weights[1],
        weights=lambda: nn.ParameterList([torch.randn(4, 8), torch.randn(8, 3)]),
        gains=lambda: nn.ParameterDict({"all": torch.randn(8)}),
    )()


@feature()
def attributes_found_by_getattr() -> nn.Module:
    class Magic(Pair):
        def __getattr__(self, name: str) -> Any:
            return getattr(self, name[6:]) if name.startswith("layer_") else super().__getattr__(name)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer_second(F.relu(self.layer_first(x)))

    return Magic()


@feature()
def weight_that_is_a_property() -> nn.Module:
    class Scaled(Pair):
        @property
        def weight(self) -> Tensor:
            return self.first.weight * 2

        def forward(self, x: Tensor) -> Tensor:
            return self.second(F.relu(F.linear(x, self.weight, self.first.bias)))

    return Scaled()


@feature()
def call_operator_overridden() -> nn.Module:
    class Called(Pair):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x) * 2

    return Called()


@feature()
def call_operator_without_a_forward() -> nn.Module:
    class Called(Pair):
        def __call__(self, x: Tensor) -> Tensor:
            return self.second(F.relu(self.first(x)))

    return Called()


class DoubledLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class ScaledConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * 2, self.bias)


@feature()
def forward_replaced_on_the_instance() -> nn.Module:
    model: Any = Pair()
    model.forward = types.MethodType(lambda self, x: self.second(F.relu(self.first(x))) + 1, model)
    model.first.forward = types.MethodType(
        lambda self, x: F.linear(x, self.weight, self.bias) * 2, model.first
    )
    return model


@feature()
def parent_kept_as_a_weak_reference() -> nn.Module:
    model = written(lambda self, x: self.parent().second(F.relu(self.parent().first(x))))()
    model.parent = weakref.ref(model)
    return model


@feature()
def methods_other_than_forward() -> nn.Module:
    class Coder(Pair):
        def encode(self, x: Tensor) -> Tensor:
            return F.relu(self.first(x))

        def decode(self, x: Tensor) -> Tensor:
            return self.second(x)

        def forward(self, x: Tensor) -> Tensor:
            raise NotImplementedError

    return written(lambda self, x: self.coder.decode(self.coder.encode(x)), coder=Coder)()


@feature()
def super_forward_through_several_bases() -> nn.Module:
    class Doubling:
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * 2)  # type: ignore[misc]

    class Mixed(Doubling, Pair):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    return Mixed()


@feature()
def static_and_class_methods() -> nn.Module:
    class Helped(Pair):
        @staticmethod
        def activate(x: Tensor) -> Tensor:
            return F.relu(x)

        @classmethod
        def twice(cls, x: Tensor) -> Tensor:
            return cls.activate(x) * 2

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.twice(self.first(x)))

    return Helped()


@feature()
def scripted_children_without_parameters() -> nn.Module:
    scripted = torch.jit.script(nn.Sequential(nn.ReLU(), nn.Tanh()))
    return written(lambda self, x: self.second(self.act(self.first(x))), act=lambda: scripted)()


@feature()
def data_parallel_wrapper() -> nn.Module:
    return nn.DataParallel(Pair())


@feature()
def compiled_model() -> nn.Module:
    return cast(nn.Module, torch.compile(Pair(), backend="eager"))


@feature()
def model_with_a_compiled_child() -> nn.Module:
    child = torch.compile(nn.Sequential(nn.ReLU(), nn.Linear(8, 8)), backend="eager")
    return written(lambda self, x: self.second(self.middle(self.first(x))), middle=lambda: child)()


@feature()
def model_in_train_mode() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        y = self.second(self.drop(F.relu(self.norm(self.first(x)))))
        return (y, y * 0) if self.training else y

    return written(forward, norm=lambda: nn.BatchNorm1d(8), drop=nn.Dropout)().train()


def wanting_gradients(batch: int, seed: int) -> tuple[Tensor, ...]:
    (x,) = normal(4)(batch, seed)
    return (x.requires_grad_(),)


def in_a_list(batch: int, seed: int) -> tuple[list[Tensor]]:
    return (list(normal(4, of=2)(batch, seed)),)


def with_keywords(batch: int, seed: int) -> dict[str, Tensor]:
    x, scale = normal(4, of=2)(batch, seed)
    return {"x": x, "scale": scale[:, :1], "unused": scale}


@feature()
def slices_of_hidden_units_overwritten() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.first(x)
        y[:, -2:] *= 2
        y[:, :, None][:, :, 0].relu_()
        return self.second(y)

    return written(forward)()


@feature()
def results_written_to_out() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.first(x)
        squared = torch.empty_like(y)
        torch.mul(y, y, out=squared)
        torch.add(squared, y, out=y)
        return self.second(y)

    return written(forward)()


def mapped(self: Any, x: Tensor) -> Tensor:
    hidden = torch.func.vmap(lambda row: F.linear(row, self.first.weight, self.first.bias))(x)
    return self.second(torch.vmap(torch.mul, in_dims=(0, None))(F.relu(hidden), self.first.bias))


@feature(inputs=SEQUENCE)
def attention_as_a_function() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        y, _ = F.multi_head_attention_forward(
            x,
            x,
            x,
            8,
            2,
            self.mix,
            None,
            None,
            None,
            False,
            0.0,
            self.out.weight,
            self.out.bias,
            training=False,
        )
        return self.second(F.relu(self.first(y))).transpose(0, 1)

    return written(
        forward,
        mix=lambda: nn.Parameter(torch.randn(24, 8)),
        out=lambda: nn.Linear(8, 8),
        first=lambda: nn.Linear(8, 8),
        second=lambda: nn.Linear(8, 8),
    )()


def feedforward_masked(model: nn.Module) -> dict[str, Tensor]:
    """Masks of hidden units of a transformer's feed-forward layers."""
    return {
        name: torch.arange(p.shape[0]).ge(3).double().reshape(-1, *[1] * (p.ndim - 1))
        for name, p in model.named_parameters()
        if ".linear1." in name
    }


@feature(inputs=SEQUENCE, masks=feedforward_masked)
def transformer_encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)


@feature(inputs=SEQUENCE, masks=feedforward_masked)
def transformer_encoder_in_train_mode() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).train()


@feature(inputs=normal(5, 8, of=2), masks=feedforward_masked)
def transformer() -> nn.Module:
    return nn.Transformer(8, 2, 1, 1, 16, batch_first=True)


def activate(self: Any, x: Tensor) -> Tensor:
    return self.second(self.act(self.first(x)))


def summed(self: Any, *xs: Tensor) -> Tensor:
    return self.second(F.relu(self.first(sum(xs))))


FEATURES |= {
    "lambda in an attribute": Feature(written(activate, act=lambda: lambda x: torch.relu(x) * 2)),
    "partial in an attribute": Feature(
        written(activate, act=lambda: functools.partial(F.leaky_relu, negative_slope=0.3))
    ),
    "arguments that are no tensors": Feature(written(choosing), plain_arguments),
    "keywords that are no tensors": Feature(written(choosing), plain_keywords),
    "nested output": Feature(written(nested)),
    "no_grad": Feature(written(under(torch.no_grad))),
    "enable_grad": Feature(written(under(torch.enable_grad))),
    "inference_mode": Feature(written(under(torch.inference_mode))),
    "autocast": Feature(
        written(under(lambda: torch.autocast("cpu", dtype=torch.bfloat16))),
        normal(4, dtype=torch.float32),
        torch.float32,
        0.1,
    ),
    "autocast switched off": Feature(written(under(lambda: torch.autocast("cpu", enabled=False)))),
    "checkpoint": Feature(
        written(
            lambda self, x: self.second(checkpoint(lambda y: F.relu(self.first(y)), x, use_reentrant=False))
        )
    ),
    "checkpoint of a sequence": Feature(
        written(
            lambda self, x: checkpoint_sequential(
                nn.Sequential(self.first, nn.ReLU(), self.second), 2, x, use_reentrant=False
            )
        )
    ),
    "half": Feature(Pair, normal(4, dtype=torch.float16), torch.float16, 0.02),
    "bfloat16": Feature(Pair, normal(4, dtype=torch.bfloat16), torch.bfloat16, 0.2),
    "two dtypes": Feature(
        written(
            lambda self, x: self.second(F.relu(self.first(x)).float()), first=lambda: nn.Linear(4, 8).double()
        ),
        dtype=None,
        tolerance=1e-4,
    ),
    "complex numbers": Feature(
        written(lambda self, x: self.second(self.first(x) * self.first(x).conj())),
        normal(4, dtype=torch.complex128),
        torch.complex128,
    ),
    "complex numbers inside": Feature(
        written(lambda self, x: self.second(torch.complex(self.first(x), self.first(x) * 2).angle()))
    ),
    "subclass with its own forward": Feature(
        written(activate, first=lambda: DoubledLinear(4, 8), act=lambda: F.relu)
    ),
    "subclass of a convolution": images(
        activate, first=lambda: ScaledConv(3, 8, 3, padding=1), act=lambda: F.relu
    ),
    "input that requires grad": Feature(Pair, wanting_gradients),
    "any number of inputs": Feature(written(summed), normal(4, of=3)),
    "any keywords": Feature(
        written(lambda self, x, **rest: self.second(self.first(x) * rest["scale"])), with_keywords
    ),
    "list of inputs": Feature(written(lambda self, xs: summed(self, *xs)), in_a_list),
    "vmap": Feature(written(mapped)),
    "functional_call": Feature(
        written(
            lambda self, x: torch.func.functional_call(
                self.second, {"weight": self.second.weight * 2}, (F.relu(self.first(x)),)
            )
        )
    ),
    "einsum with sublists": Feature(
        written(
            lambda self, x: torch.einsum(F.relu(self.first(x)), [0, 1], self.second.weight, [2, 1], [0, 2])
        )
    ),
    "match statement": Feature(written(lambda self, x: Pair.forward(self, x) if len(x.shape) == 2 else x)),
    "len and reshape": Feature(written(lambda self, x: Pair.forward(self, x).reshape(len(x), -1))),
    "nn.MultiheadAttention": Feature(
        written(
            lambda self, x: self.second(F.relu(self.first(self.attend(x, x, x)[0]))),
            attend=lambda: nn.MultiheadAttention(8, 2, batch_first=True),
            first=lambda: nn.Linear(8, 8),
        ),
        SEQUENCE,
    ),
    "nn.Bilinear": Feature(
        written(
            lambda self, x: self.both(F.relu(self.first(x)), self.other(x)),
            other=lambda: nn.Linear(4, 5),
            both=lambda: nn.Bilinear(8, 5, 6),
        )
    ),
    "nn.EmbeddingBag": Feature(
        written(lambda self, x: self.second(self.bag(x)), bag=lambda: nn.EmbeddingBag(10, 8)),
        tokens,
        masks=lambda model: {"bag.weight": torch.arange(8.0).ge(3)[None]},
    ),
    "nn.Unfold and nn.Fold": images(
        lambda self, x: self.second(self.fold(F.relu(self.unfold(self.first(x))))),
        unfold=lambda: nn.Unfold(2, stride=2),
        fold=lambda: nn.Fold((6, 6), 2, stride=2),
    ),
    "nn.MaxUnpool2d": images(
        lambda self, x: self.second(self.unpool(*self.pool(self.first(x)))),
        pool=lambda: nn.MaxPool2d(2, return_indices=True),
        unpool=lambda: nn.MaxUnpool2d(2),
    ),
    "nn.PixelUnshuffle": images(
        activate, act=lambda: nn.PixelUnshuffle(2), second=lambda: nn.Conv2d(32, 3, 1)
    ),
    "nn.ChannelShuffle": Feature(
        images(activate, act=lambda: nn.ChannelShuffle(2)).make,
        IMAGE,
        masks=lambda model: {
            f"first.{n}": torch.tensor([0.0, 1, 1, 1] * 2).reshape(s)
            for n, s in (("weight", (8, 1, 1, 1)), ("bias", (8,)))
        },
    ),
    "nn.CosineSimilarity": Feature(
        written(
            lambda self, x: self.compare(F.relu(self.first(x)), self.other.first(x)),
            other=Pair,
            compare=lambda: nn.CosineSimilarity(1),
        )
    ),
    "nn.Softmax2d and nn.LocalResponseNorm": images(
        lambda self, x: self.norm(self.soft(self.second(F.relu(self.first(x))))),
        soft=nn.Softmax2d,
        norm=lambda: nn.LocalResponseNorm(3),
    ),
    "nn.AdaptiveLogSoftmaxWithLoss.log_prob": Feature(
        written(
            lambda self, x: self.head.log_prob(self.second(F.relu(self.first(x)))),
            second=lambda: nn.Linear(8, 6),
            head=lambda: nn.AdaptiveLogSoftmaxWithLoss(6, 10, [4, 7], div_value=2.0),
        )
    ),
}


def built(one: Feature) -> nn.Module:
    torch.manual_seed(3)
    model = one.make()
    return model if one.dtype is None else model.to(one.dtype)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize("name", FEATURES)
def test_model_shrinks_stays_exact_and_is_left_alone(name: str) -> None:
    one = FEATURES[name]
    model = built(one)
    found = check_exact(model, one.masks(model), one.inputs, name=name, also_verified=True)
    found.require_exact(one.tolerance)
    assert found.parameters_after < found.parameters_before


def test_an_input_that_the_forward_overwrites_is_copied_first() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x.mul_(2)
        x[:, 0] = 1.0
        return self.second(F.relu(self.first(x)))

    model = written(forward)().double()
    (x,) = normal(4)(2, 0)
    before = x.clone()
    small: Any = materialize(plan_speedup(model, x, first_masked(model))).eval()
    masked = apply_masks(model, first_masked(model)).eval()
    assert torch.equal(x, before)
    assert small.first.out_features == 5
    for batch in (1, 3):
        (y,) = normal(4)(batch, 1)
        torch.testing.assert_close(small(y.clone()), masked(y.clone()), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.second(F.relu(self.first(x)) + self.cached),
        lambda self, x: self.second(self.remembered(F.relu(self.first(x)))),
    ],
    ids=["tensor cached in an attribute", "buffer written with activations"],
)
def test_what_a_plain_tensor_or_a_written_buffer_holds_keeps_its_size(forward: Callable[..., Any]) -> None:
    def remembered(self: Any, x: Tensor) -> Tensor:
        self.last.copy_(x.detach().mean(0))
        return x

    model: Any = written(forward)().double()
    type(model).remembered = remembered
    model.register_buffer("last", torch.zeros(8, dtype=torch.float64))
    model.cached = model.first.bias * 2
    found = check_exact(model, first_masked(model), normal(4), also_verified=True)
    found.require_exact()


def test_a_hook_of_a_closure_over_something_else_is_shared_not_copied() -> None:
    model, seen = Pair().double(), []
    model.first.register_forward_hook(lambda module, args, output: seen.append(module))
    plan = plan_speedup(model, normal(4)(2, 0), first_masked(model))
    # The traced copy has called the hook too.
    seen.clear()
    small = materialize(plan, verify="none")
    small(*normal(4)(1, 0))
    assert seen == [small.first]


def test_a_lambda_of_the_small_model_calls_the_small_layers() -> None:
    model: Any = lambda_that_calls_a_layer_of_the_model().double()
    small: Any = materialize(plan_speedup(model, normal(4)(2, 0), first_masked(model)))
    (cell,) = small.run.__closure__
    assert cell.cell_contents is small
    assert model.run.__closure__[0].cell_contents is model


class TestMeta:
    """Models without values."""

    def plan(self) -> Any:
        masks = {"0.weight": torch.arange(8.0).ge(3)[:, None], "0.bias": torch.arange(8.0).ge(3)}
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        return plan_speedup(model, torch.empty(2, 4, device="meta"), masks)

    def test_a_plan_of_it_shows_figures(self) -> None:
        plan = self.plan()
        assert (plan.parameters_before, plan.parameters_after) == (67, 43)
        assert "Linear(4, 8)" in str(plan)

    def test_the_small_model_is_on_the_meta_device_too(self) -> None:
        small = materialize(self.plan())
        assert {p.device.type for p in small.parameters()} == {"meta"}
        assert [tuple(p.shape) for p in small.parameters()] == [(5, 4), (5,), (3, 5), (3,)]


def with_lazy_layer() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 3))


def exported() -> nn.Module:
    return torch.export.export(Pair(), (torch.randn(2, 4),)).module()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (with_lazy_layer, ModelError, "'0.weight' is uninitialised; run the model once"),
        (
            lambda: torch.jit.script(nn.Sequential(nn.Linear(4, 8))),
            ModelError,
            "plan the module it was made from",
        ),
        (exported, ModelError, "plan the module it was made from"),
        (lambda: F.relu, ModelError, "pass a torch.nn.Module"),
        (written(lambda self, x: (self(x) for _ in "ab")), ExportError, "returns no tensor"),
        (written(lambda self, x: self.first(x) if x.sum() > 0 else x), ExportError, "data-dependent"),
        (
            written(activate, act=lambda: torch.jit.script(nn.Linear(8, 8))),
            SpeedupError,
            "TorchScript.*pass the plain Python module",
        ),
    ],
    ids=["lazy", "script", "exported", "function", "generator", "data-dependent", "scripted child"],
)
def test_a_model_that_cannot_be_planned_is_refused_with_a_reason(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan_speedup(make(), torch.randn(2, 4))


def test_a_mask_of_a_lazy_parameter_is_refused() -> None:
    with pytest.raises((ModelError, MaskTargetError)):
        plan_speedup(with_lazy_layer(), torch.randn(2, 4), {"0.weight": torch.ones(8, 4)})


@pytest.mark.parametrize("x", [torch.zeros(2, 4).numpy(), (torch.zeros(2, 4).numpy(),), [[1.0, 2.0]], "x"])
def test_inputs_that_are_no_tensors_are_refused(x: Any) -> None:
    with pytest.raises(InputError, match="pass"):
        plan_speedup(Pair(), x)


def test_loss_layer_with_data_dependent_shapes_stays_outside_by_name() -> None:
    model = written(
        lambda self, x, y: self.head(self.second(F.relu(self.first(x))), y),
        second=lambda: nn.Linear(8, 6),
        head=lambda: nn.AdaptiveLogSoftmaxWithLoss(6, 10, [4, 7]),
    )()
    plan = plan_speedup(model, (torch.randn(2, 4), torch.tensor([1, 9])), first_masked(model))
    assert ["AdaptiveLogSoftmaxWithLoss" in str(one) for one in plan.report.outside].count(True) == 1


def test_inputs_may_be_views_of_one_tensor() -> None:
    model = written(lambda self, x, y: self.second(F.relu(self.first(x)) * y.sum()))()
    whole = torch.randn(6, 4)
    plan = plan_speedup(model, (whole[:2], whole), first_masked(model))
    small: Any = materialize(plan)
    assert small.first.out_features == 5


def test_relative_error_is_of_the_models_own_dtype() -> None:
    """The comparison above would notice: a complex model against a doubled one."""
    model = nn.Linear(4, 3, dtype=torch.complex128)
    other = nn.Linear(4, 3, dtype=torch.complex128)
    calls = [normal(4, dtype=torch.complex128)(2, seed) for seed in range(3)]
    assert relative_error(model, other, calls) > 0.1
