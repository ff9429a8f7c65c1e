"""Masked models, by name, whose small versions are put to the trials of `tests.support.survival`.

The quick ones are made here or in `tests.support.small_networks`; the others need torchvision, timm or
transformers and are built when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from attrs import evolve, frozen

from speedup import materialize, plan_speedup
from tests.support import small_networks, vision
from tests.support.attention import head_masks, hidden_masks
from tests.support.attention_models import (
    CHANNELS_DROPPED,
    FAMILIES,
    HEADS_DROPPED,
    HIDDEN_FAMILIES,
    STAYS,
    Family,
)
from tests.support.lowered_networks import LOWERED
from tests.support.masked_model import MaskedModel, masked_model
from tests.support.masking import Recipe, l1_half_masks, random_row_masks
from tests.support.measure import numel
from tests.support.survival import ON_REQUEST, TRIALS, Survival, survivals
from tests.support.tasks import TASKS, lively_model

_IMAGE_SIZE = 64


@frozen
class Case:
    """A model to be made small and put to the trials; `quick` ones run in every test run."""

    build: Callable[[], MaskedModel]
    quick: bool = False
    needs: tuple[str, ...] = ()
    """Packages that it is built from."""
    trials: tuple[str, ...] = tuple(trial for trial in TRIALS if trial not in ON_REQUEST)


def check_case(name: str) -> Survival:
    """Make the model of `CASES[name]` small and put it to the trials.

    Raises:
        AssertionError: it did not become smaller.
    """
    case = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        masked = case.build()
    small = materialize(plan_speedup(masked.model, masked.make_inputs(2, 0), masked.masks))
    before, after = numel(masked.model), numel(small)
    assert after < before, f"{name}: {before} -> {after} parameters; nothing became smaller"
    return survivals(masked.model, small, masked.make_inputs, name=name, trials=case.trials)


def _classifier(name: str) -> Case:
    """A torchvision classifier with half of every convolution's filters masked."""

    def build() -> MaskedModel:
        images = partial(vision.doubles, _IMAGE_SIZE)
        return masked_model(vision.build(name, _IMAGE_SIZE), l1_half_masks, images)

    return Case(build, needs=("torchvision",))


def _task(name: str) -> Case:
    """torchvision's model `name` for another task than classifying images."""

    def build() -> MaskedModel:
        model, task = lively_model(name), TASKS[name]
        return MaskedModel(model, task.recipe(model), task.make_inputs)

    return Case(build, needs=("torchvision",))


def _without(case: Case, *trials: str) -> Case:
    return evolve(case, trials=tuple(trial for trial in case.trials if trial not in trials))


def _transformer(family: Family, recipe: Recipe) -> Case:
    def build() -> MaskedModel:
        return masked_model(family.build(), recipe, family.make_inputs, family.other_inputs)

    return Case(build, needs=family.needs)


def _feed_forward(kind: str, inner: str) -> Case:
    """Half of the rows of every feed-forward layer masked; `inner` is how its first layer's path ends."""
    recipe = partial(random_row_masks, fraction=0.5, seed=3, select=lambda path, _: path.endswith(inner))
    return _transformer(FAMILIES[kind], recipe)


def _heads(kind: str) -> Case:
    recipe = partial(head_masks, kind=kind, drop=HEADS_DROPPED[kind])
    return _transformer(FAMILIES[kind], recipe)


def _hidden(kind: str) -> Case:
    recipe = partial(hidden_masks, kind=kind, drop=CHANNELS_DROPPED)
    return _transformer(HIDDEN_FAMILIES[kind], recipe)


_TASKS = (
    "fcn_resnet50",
    "lraspp_mobilenet_v3_large",
    "r3d_18",
    "mvit_v1_b",
    "raft_small",
)
_DETECTORS = (
    "fasterrcnn_mobilenet_v3_large_fpn",
    "maskrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
)

CASES: Mapping[str, Case] = {
    **{name: Case(build, quick=True) for name, build in small_networks.NETWORKS.items()},
    **{f"lowered by {name}": Case(build) for name, build in LOWERED.items()},
    "cnn, inductor": Case(small_networks.NETWORKS["cnn"], trials=("inductor",)),
    **{name: _classifier(name) for name in ("resnet18", "mobilenet_v2", "densenet121", "shufflenet_v2_x1_0")},
    **{name: _task(name) for name in _TASKS},
    # Boxes are chosen by thresholds: how many there are differs between models and precisions.
    **{name: _without(_task(name), "float32", "batches") for name in _DETECTORS},
    "bert, feed-forward": _feed_forward("bert", "intermediate.dense"),
    "timm vit, feed-forward": _feed_forward("timm vit", "mlp.fc1"),
    **{f"{kind}, heads": _heads(kind) for kind in FAMILIES},
    # torchvision tells torch.fx not to look into the function of which this model has a copy of its own.
    "torchvision swin, heads": _without(_heads("torchvision swin"), "fx"),
    **{f"{kind}, hidden": _hidden(kind) for kind in HIDDEN_FAMILIES if kind not in STAYS},
}
