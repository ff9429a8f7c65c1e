"""Models with whole layers masked: branches of sums, laterals of pyramids, attention, feed-forward parts."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from types import MappingProxyType

import torch
from attrs import frozen
from torch import nn

from tests.support import tasks, vision
from tests.support.lively import make_lively
from tests.support.masking import Masks, Recipe
from tests.support.measure import MakeInputs
from tests.support.third_party.case import tokens

_SEED = 7
_CALLS = 8
_WORDS, _LENGTH = 60, 12


@frozen
class WholeLayers:
    """`build(recipe)` makes a model that is lively under a recipe's masks; `patterns` say which layers go."""

    build: Callable[[Recipe], nn.Module]
    inputs: MakeInputs
    patterns: tuple[str, ...]

    def masks(self, model: nn.Module) -> Masks:
        """All of every parameter of the layers that match."""
        found = {
            path: {
                name: torch.zeros_like(p, requires_grad=False)
                for name, p in module.named_parameters(recurse=False)
            }
            for path, module in model.named_modules()
            if any(fnmatchcase(path, pattern) for pattern in self.patterns)
        }
        return {path: own for path, own in found.items() if own}


def _timm(name: str, size: int, recipe: Recipe) -> nn.Module:
    vision.torchvision_models()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = importlib.import_module("timm").create_model(name, num_classes=10).double().eval()
    make_lively(model, vision.doubles(size, _CALLS, _SEED), _SEED, recipe)
    return model


def _llama(recipe: Recipe) -> nn.Module:
    vision.torchvision_models()
    library = importlib.import_module("transformers")
    config = library.LlamaConfig(
        vocab_size=_WORDS,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = library.LlamaForCausalLM(config).double().eval()
    make_lively(model, {"input_ids": _words(_CALLS, _SEED), "use_cache": False}, _SEED, recipe)
    return model


_words = tokens(_WORDS, _LENGTH)


def _text(batch: int, seed: int) -> dict[str, object]:
    return {"input_ids": _words(batch, seed), "use_cache": False}


def _task(name: str, patterns: str) -> WholeLayers:
    return WholeLayers(partial(tasks.lively_model, name), tasks.TASKS[name].make_inputs, _split(patterns))


def _split(patterns: str) -> tuple[str, ...]:
    return tuple(patterns.split())


_PYRAMID = """
    *backbone.fpn.inner_blocks.1.0 *backbone.body.layer2.1.conv? *backbone.body.layer3.3.conv3
    *backbone.body.layer4.1.conv?
"""
_ASPP = "classifier.0.convs.1.0 classifier.0.convs.1.1 classifier.0.convs.2.0 classifier.0.convs.2.1"
_IMAGE = 96

CASES: Mapping[str, WholeLayers] = MappingProxyType(
    {
        "fasterrcnn_resnet50_fpn": _task("fasterrcnn_resnet50_fpn", _PYRAMID),
        "retinanet_resnet50_fpn": _task("retinanet_resnet50_fpn", _PYRAMID),
        "fcos_resnet50_fpn": _task("fcos_resnet50_fpn", _PYRAMID),
        "deeplabv3_resnet50": _task(
            "deeplabv3_resnet50", f"{_ASPP} backbone.layer3.2.conv? backbone.layer4.1.*"
        ),
        "deeplabv3_mobilenet_v3_large": _task(
            "deeplabv3_mobilenet_v3_large", f"{_ASPP} backbone.8.block.*.? backbone.14.block.*.?"
        ),
        "resnetv2_18": WholeLayers(
            partial(_timm, "resnetv2_18", _IMAGE),
            partial(vision.doubles, _IMAGE),
            _split(
                "stages.0.blocks.1.conv? stages.1.blocks.1.conv2 stages.2.blocks.1.conv? "
                "stages.3.blocks.0.conv2"
            ),
        ),
        "repvgg_a0": WholeLayers(
            partial(_timm, "repvgg_a0", _IMAGE),
            partial(vision.doubles, _IMAGE),
            _split(
                "stages.0.0.conv_1x1.* stages.1.2.conv_kxk.* stages.2.3.conv_1x1.* stages.2.4.identity "
                "stages.2.7.conv_kxk.*"
            ),
        ),
        "llama, attention": WholeLayers(
            _llama,
            _text,
            _split(
                "model.layers.1.self_attn.? model.layers.1.self_attn.*_proj model.layers.3.self_attn.o_proj"
            ),
        ),
        "llama, feed-forward": WholeLayers(
            _llama, _text, _split("model.layers.0.mlp.*_proj model.layers.2.mlp.down_proj")
        ),
        "llama, whole blocks": WholeLayers(
            _llama, _text, _split("model.layers.1.*_proj model.layers.2.*_proj")
        ),
    }
)
