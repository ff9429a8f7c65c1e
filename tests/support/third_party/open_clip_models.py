"""Models of open-clip-torch: towers of several kinds, each pair small."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from tests.support.third_party.case import Case, images, named, read_only, tokens

_WORDS, _LENGTH, _SIZE = 60, 12, 64
_TEXT = {"context_length": _LENGTH, "vocab_size": _WORDS, "width": 64, "heads": 4, "layers": 2}
_VISION = {"image_size": _SIZE, "patch_size": 16, "width": 64, "head_width": 16, "layers": 2}
_OPTIONS: Mapping[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "vit": (_VISION, _TEXT, {}),
    "vit, quick gelu": (_VISION, _TEXT, {"quick_gelu": True}),
    "vit, layer scale": ({**_VISION, "ls_init_value": 0.1}, {**_TEXT, "ls_init_value": 0.1}, {}),
    "vit, average pool": ({**_VISION, "pool_type": "avg"}, _TEXT, {}),
    "vit, attentional pool": (
        {**_VISION, "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 8},
        _TEXT,
        {},
    ),
    "resnet": ({"image_size": _SIZE, "layers": [1, 1, 1, 1], "width": 16}, _TEXT, {}),
    "timm convnext": (
        {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": _SIZE},
        _TEXT,
        {},
    ),
    "timm vit, map pool": (
        {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none", "image_size": _SIZE},
        {**_TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        {},
    ),
}


def _build(vision: dict[str, Any], text: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    model = importlib.import_module("open_clip.model").CLIP(64, dict(vision), dict(text), **options)
    assert isinstance(model, nn.Module)
    return model


CASES: Mapping[str, Case] = read_only(
    (name, Case(partial(_build, *parts), named(image=images(_SIZE), text=tokens(_WORDS, _LENGTH))))
    for name, parts in _OPTIONS.items()
)
