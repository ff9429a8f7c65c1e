"""Masked models, by name, whose small versions are put to the trials of `tests.support.survival`.

The quick ones are made here or in `tests.support.small_networks`; the others need torchvision, timm or
transformers and are built when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from attrs import frozen
from torch import nn

from speedup import materialize, plan_speedup
from tests.support import small_networks, vision
from tests.support.attention import head_masks, hidden_masks
from tests.support.attention_models import (
    CHANNELS_DROPPED,
    FAMILIES,
    HEADS_DROPPED,
    HIDDEN_FAMILIES,
    Family,
)
from tests.support.masked_model import MaskedModel, masked_model, normal
from tests.support.masking import Recipe, l1_half_masks, random_row_masks
from tests.support.survival import ON_REQUEST, TRIALS, Survival, survivals

_IMAGE_SIZE = 64


@frozen
class Case:
    """A model to be made small and put to the trials; `quick` ones run in every test run."""

    build: Callable[[], MaskedModel]
    quick: bool = False
    pending: str = ""
    """Why nothing becomes smaller yet: the small model is then only a copy."""
    needs: tuple[str, ...] = ()
    """Packages that it is built from."""
    trials: tuple[str, ...] = tuple(trial for trial in TRIALS if trial not in ON_REQUEST)


def check_case(name: str) -> Survival:
    """Make the model of `CASES[name]` small and put it to the trials.

    Raises:
        AssertionError: it did not become smaller, or it did although its case is `pending`.
    """
    case = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        masked = case.build()
    small = materialize(plan_speedup(masked.model, masked.make_inputs(2, 0), masked.masks))
    before, after = _parameters(masked.model), _parameters(small)
    assert (after < before) is not bool(case.pending), (
        f"{name}: {before} -> {after} parameters, while the case expects "
        + (
            f"none to go because {case.pending}; if some do now, it is no longer pending"
            if case.pending
            else "fewer"
        )
    )
    return survivals(masked.model, small, masked.make_inputs, name=name, trials=case.trials)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _classifier(name: str) -> Case:
    """A torchvision classifier with half of every convolution's filters masked."""

    def build() -> MaskedModel:
        images = partial(_images, _IMAGE_SIZE)
        return masked_model(vision.build(name, _IMAGE_SIZE), l1_half_masks, images)

    return Case(build, needs=("torchvision",))


def _images(size: int, batch: int, seed: int) -> torch.Tensor:
    return vision.images(batch, size, seed, torch.float64)


def _task(name: str, *shape: int, **options: object) -> Case:
    """torchvision's model `name` for another task than classifying images, masked likewise."""

    def build() -> MaskedModel:
        model = vision.torchvision_models().get_model(name, weights=None, **options)
        return masked_model(model, l1_half_masks, normal(*shape))

    return Case(build, needs=("torchvision",))


def _transformer(family: Family, recipe: Recipe, pending: str = "") -> Case:
    def build() -> MaskedModel:
        return masked_model(family.build(), recipe, family.make_inputs, family.other_inputs)

    return Case(build, pending=pending, needs=family.needs)


def _feed_forward(kind: str, inner: str) -> Case:
    """Half of the rows of every feed-forward layer masked; `inner` is how its first layer's path ends."""
    recipe = partial(random_row_masks, fraction=0.5, seed=3, select=lambda path, _: path.endswith(inner))
    return _transformer(FAMILIES[kind], recipe)


def _heads(kind: str, pending: str = "") -> Case:
    recipe = partial(head_masks, kind=kind, drop=HEADS_DROPPED[kind])
    return _transformer(FAMILIES[kind], recipe, pending)


def _hidden(kind: str, pending: str = "") -> Case:
    recipe = partial(hidden_masks, kind=kind, drop=CHANNELS_DROPPED)
    return _transformer(HIDDEN_FAMILIES[kind], recipe, pending)


_LITERAL = "the forward states the number of heads"
_NORM = "a norm takes statistics over the residual stream"
_PENDING = {
    "weight norm": "weight_norm has no rule",
    "LSTM units": "lstm has no rule",
}

CASES: Mapping[str, Case] = {
    **{
        name: Case(build, quick=True, pending=_PENDING.get(name, ""))
        for name, build in small_networks.NETWORKS.items()
    },
    "cnn, inductor": Case(small_networks.NETWORKS["cnn"], trials=("inductor",)),
    **{name: _classifier(name) for name in ("resnet18", "mobilenet_v2", "densenet121", "shufflenet_v2_x1_0")},
    "lraspp": _task("lraspp_mobilenet_v3_large", 3, 64, 64, weights_backbone=None, num_classes=4),
    "r3d_18": _task("r3d_18", 3, 4, 16, 16),
    "bert, feed-forward": _feed_forward("bert", "intermediate.dense"),
    "timm vit, feed-forward": _feed_forward("timm vit", "mlp.fc1"),
    "timm vit, heads": _heads("timm vit", _LITERAL),
    "timm swin, heads": _heads("timm swin", _LITERAL),
    "torchvision vit, heads": _heads("torchvision vit", "nn.MultiheadAttention insists on its sizes"),
    "torchvision swin, heads": _heads("torchvision swin", _LITERAL),
    "bert, heads": _heads("bert"),
    "gpt2, heads": _heads("gpt2", _LITERAL),
    "llama, heads": _heads("llama"),
    "t5, heads": _heads("t5"),
    "hf vit, heads": _heads("hf vit"),
    "bert, hidden": _hidden("bert", _NORM),
    "llama, hidden": _hidden("llama", _NORM),
}
