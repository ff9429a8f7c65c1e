"""What is measured: networks in a lively state, with masks by recipe and inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import evolve, frozen
from torch import Tensor, nn

from benchmarks import architectures
from benchmarks.recipes import agreeing, apoz, fpgm, half_of_all_rows, half_of_each, least_l1, slim
from tests.support.lively import make_lively
from tests.support.masking import Masks
from tests.support.measure import relative_error

_SEED = 7
_CALIBRATION = 8


@frozen(eq=False)
class Subject:
    """A network in eval mode, float32, with its masks. `inputs(batch, seed)` makes what its forward takes."""

    name: str
    model: nn.Module
    masks: Masks
    inputs: Callable[[int, int], Any]

    def call(self, model: nn.Module, x: Any) -> Any:
        return model(**x) if isinstance(x, dict) else model(x)

    def double(self) -> Subject:
        """The same in float64, in place."""
        self.model.double()
        return evolve(self, inputs=lambda batch, seed: widened(self.inputs(batch, seed)))


def widened(x: Any) -> Any:
    """Inputs in float64; whole numbers stay."""
    if isinstance(x, dict):
        return {name: widened(part) for name, part in x.items()}
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def subject(name: str, recipe: str = "each") -> Subject:
    """The network `name` with masks by `recipe`.

    `each` masks half of every layer's rows, each layer on its own; for the networks of the published tables
    it is their own pruner's choice. `agreeing` masks channels that can all go: the same ones in every
    parameter that they couple.
    """
    model = architectures.build(name)

    def inputs(batch: int, seed: int) -> Any:
        return architectures.inputs(name, batch, seed)

    choose = _RECIPES.get(name, half_of_each)
    example = inputs(_CALIBRATION, _SEED)
    if recipe == "agreeing":
        make_lively(model, example, seed=_SEED)
        return Subject(name, model, agreeing(model, inputs(1, 0)), inputs)
    make_lively(model, example, seed=_SEED, recipe=lambda m: choose(m, example))
    return Subject(name, model, choose(model, example), inputs)


def exactness(one: Subject, small: nn.Module, masked: nn.Module) -> float:
    """`relative_error` of `small` on two calls at each of two batch sizes; models in float64, eval mode."""
    calls = [[one.inputs(batch, 100 * batch + n) for n in range(2)] for batch in (1, 2)]
    return max(relative_error(masked, small, call) for call in calls)


_RECIPES: dict[str, Callable[[nn.Module, Any], Masks]] = {
    **dict.fromkeys((*architectures.WHOLE, *architectures.DIFFUSERS), half_of_all_rows),
    "slim_vgg19": slim,
    "fpgm_mnist": fpgm,
    "l1_vgg16": least_l1,
    "apoz_vgg16": apoz,
}
