"""torchvision's models for segmentation, detection, video and optical flow, small enough to check here."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any
from unittest import mock

import torch
from attrs import frozen
from torch import Tensor, nn

from tests.support import vision, vision_ops
from tests.support.lively import Inputs, make_lively
from tests.support.masking import Masks, Recipe, l1_half_masks, random_row_masks
from tests.support.measure import Exactness, MakeInputs, check_exact

_SEED = 7
# Scores that masks make equal would be ranked by chance.
_PREDICTIONS = (
    "cls_logits",
    "bbox_reg",
    "bbox_pred",
    "bbox_ctrness",
    "head.module_list",
    "logits",
    "kps_score",
)


def half_of_all_filters(model: nn.Module) -> Masks:
    """Half the filters of every convolution, those excepted that predict."""
    return {
        path: mask for path, mask in l1_half_masks(model).items() if not any(p in path for p in _PREDICTIONS)
    }


def half_of_all_rows(model: nn.Module) -> Masks:
    """For models of linear layers, whose few convolutions write into residual streams."""
    return random_row_masks(model, 0.5, seed=11)


@frozen
class Task:
    """How to build a model, what to call it with and what to mask.

    `observed` are modules whose outputs are compared beside the model's own, `calibration` is the batch
    that makes it lively.
    """

    make_inputs: MakeInputs
    options: Mapping[str, Any] = MappingProxyType({})
    observed: tuple[str, ...] = ()
    calibration: int = 8
    recipe: Recipe = half_of_all_filters


class Observed(nn.Module):
    """A detector that returns what some of its modules gave, beside its detections.

    Few boxes say little about the tensors that they were chosen by.
    """

    def __init__(self, detector: nn.Module, paths: tuple[str, ...]) -> None:
        super().__init__()
        self.detector = detector
        self.paths = paths

    def forward(self, images: list[Tensor]) -> tuple[Any, list[Any]]:
        seen: list[Any] = []
        modules = [self.detector.get_submodule(path) for path in self.paths]
        handles = [m.register_forward_hook(lambda module, args, out: seen.append(out)) for m in modules]
        try:
            return self.detector(images), seen
        finally:
            for handle in handles:
                handle.remove()


class InDouble(nn.Module):
    """RAFT in float64: its coordinates are float32 whatever its weights are."""

    def __init__(self, raft: nn.Module) -> None:
        super().__init__()
        self.raft = raft

    def forward(self, first: Tensor, second: Tensor, updates: int) -> Any:
        module = importlib.import_module("torchvision.models.optical_flow.raft")
        make = module.make_coords_grid
        with mock.patch.object(module, "make_coords_grid", lambda *args: make(*args).double()):
            return self.raft(first, second, updates)


def image_list(height: int, width: int, batch: int, seed: int) -> tuple[list[Tensor]]:
    """Images of two sizes in turn, as detectors take them."""
    both = vision.images(batch, max(height, width), seed, torch.float64) / 4 + 0.5
    return ([image[:, : height - 8 * (n % 2), :width].contiguous() for n, image in enumerate(both)],)


def clips(frames: int, size: int, batch: int, seed: int) -> Tensor:
    """Videos (batch, 3, frames, size, size)."""
    stills = vision.images(batch * frames, size, seed, torch.float64)
    return stills.unflatten(0, (batch, frames)).transpose(1, 2).contiguous()


def image_pairs(size: int, updates: int, batch: int, seed: int) -> Inputs:
    first = vision.doubles(size, batch, seed)
    return first, first.roll(2, 3) + 0.1 * vision.doubles(size, batch, seed + 5000), updates


# The number of regions differs between images, and with it the shapes of what follows.
_REGION, _DENSE = ("backbone", "rpn.head"), ("backbone", "head")
_TWO_STAGES = {
    "min_size": 64,
    "max_size": 96,
    "box_score_thresh": 0.0,
    "box_detections_per_img": 10,
    "rpn_pre_nms_top_n_test": 40,
    "rpn_post_nms_top_n_test": 20,
}
_ONE_STAGE = {
    "min_size": 64,
    "max_size": 96,
    "score_thresh": 0.0,
    "detections_per_img": 10,
    "topk_candidates": 60,
}
_LIST = partial(image_list, 64, 80)

SEGMENTATION: Mapping[str, Task] = MappingProxyType(
    {
        "fcn_resnet50": Task(partial(vision.doubles, 64), {"aux_loss": True}),
        "deeplabv3_resnet50": Task(partial(vision.doubles, 64), {"aux_loss": True}),
        "deeplabv3_mobilenet_v3_large": Task(partial(vision.doubles, 64), {"aux_loss": True}),
        "lraspp_mobilenet_v3_large": Task(partial(vision.doubles, 64)),
    }
)
DETECTION: Mapping[str, Task] = MappingProxyType(
    {
        "fasterrcnn_resnet50_fpn": Task(_LIST, _TWO_STAGES, _REGION, 4),
        "fasterrcnn_resnet50_fpn_v2": Task(_LIST, _TWO_STAGES, _REGION, 4),
        "fasterrcnn_mobilenet_v3_large_fpn": Task(_LIST, _TWO_STAGES, _REGION, 4),
        "maskrcnn_resnet50_fpn": Task(_LIST, _TWO_STAGES, _REGION, 4),
        "keypointrcnn_resnet50_fpn": Task(_LIST, _TWO_STAGES, _REGION, 4),
        "retinanet_resnet50_fpn": Task(_LIST, _ONE_STAGE, _DENSE, 4),
        "retinanet_resnet50_fpn_v2": Task(_LIST, _ONE_STAGE, _DENSE, 4),
        "fcos_resnet50_fpn": Task(_LIST, _ONE_STAGE, _DENSE, 4),
        "ssd300_vgg16": Task(_LIST, {"score_thresh": 0.0, "detections_per_img": 10}, _DENSE, 3),
        "ssdlite320_mobilenet_v3_large": Task(
            _LIST, {"score_thresh": 0.0, "detections_per_img": 10}, _DENSE, 4
        ),
    }
)
VIDEO: Mapping[str, Task] = MappingProxyType(
    {
        "r3d_18": Task(partial(clips, 4, 32)),
        "mc3_18": Task(partial(clips, 4, 32)),
        "r2plus1d_18": Task(partial(clips, 4, 32)),
        "s3d": Task(partial(clips, 16, 224), calibration=2),
        "mvit_v1_b": Task(partial(clips, 4, 64), recipe=half_of_all_rows),
        "mvit_v2_s": Task(partial(clips, 4, 64), recipe=half_of_all_rows),
        "swin3d_t": Task(partial(clips, 4, 64), recipe=half_of_all_rows),
    }
)
FLOW: Mapping[str, Task] = MappingProxyType(
    {
        "raft_small": Task(partial(image_pairs, 128, 2), calibration=4),
        "raft_large": Task(partial(image_pairs, 128, 2), calibration=4),
    }
)
TASKS: Mapping[str, Task] = MappingProxyType({**SEGMENTATION, **DETECTION, **VIDEO, **FLOW})


def lively_model(name: str, recipe: Recipe | None = None) -> nn.Module:
    """The model `name` in float64 and in a lively state, for the masks of its task or of `recipe`."""
    task, models = TASKS[name], vision.torchvision_models()
    if name in DETECTION:
        vision_ops.provide()
    options = dict(task.options)
    if name in SEGMENTATION or name in DETECTION:
        options["weights_backbone"] = None
    with torch.random.fork_rng(devices=[]), _small_mvit():
        torch.manual_seed(0)
        model = models.get_model(name, weights=None, **options).double().eval()
    _enliven_frozen_norms(model)
    if task.observed:
        model = Observed(model, task.observed)
    if name in FLOW:
        model = InDouble(model)
    make_lively(model, task.make_inputs(task.calibration, _SEED), _SEED, recipe or task.recipe)
    return model


def check_task(name: str, *, also_verified: bool = False) -> Exactness:
    """Plan, materialize and compare the model `name` at batches other than the planned one."""
    model, task = lively_model(name), TASKS[name]
    return check_exact(model, task.recipe(model), task.make_inputs, name=name, also_verified=also_verified)


@contextmanager
def _small_mvit() -> Iterator[None]:
    """Build MViTs for clips of 4 frames of 64 pixels; their builders fix 16 of 224."""
    module = importlib.import_module("torchvision.models.video.mvit")
    build = module._mvit

    def smaller(**options: Any) -> nn.Module:
        return build(**{**options, "temporal_size": 4, "spatial_size": (64, 64)})

    with mock.patch.object(module, "_mvit", smaller):
        yield


def _enliven_frozen_norms(model: nn.Module) -> None:
    """Give batch norms that are buffers only other statistics than 0 and 1."""
    generator = torch.Generator().manual_seed(_SEED)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator, dtype=like.dtype)

    norm: Any
    for norm in model.modules():
        if type(norm).__name__ == "FrozenBatchNorm2d":
            norm.weight.copy_(uniform(norm.weight, 0.5, 1.5))
            norm.bias.copy_(uniform(norm.bias, -1.5, 1.5))
            norm.running_mean.copy_(uniform(norm.running_mean, -0.3, 0.3))
            norm.running_var.copy_(uniform(norm.running_var, 1.0, 1.5))
