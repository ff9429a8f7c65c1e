"""Models of vit-pytorch, two or so blocks deep."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from tests.support.measure import MakeInputs
from tests.support.third_party.case import Case, images, read_only, volumes

_PLAIN = {"num_classes": 10, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128}
_PATCHES = {"image_size": 64, "patch_size": 16}
_ALL = {**_PATCHES, **_PLAIN}

_OPTIONS: Mapping[tuple[str, str], dict[str, Any]] = {
    ("vit", "ViT"): {**_ALL, "dim_head": 16},
    ("simple_vit", "SimpleViT"): {**_ALL, "dim_head": 16},
    ("simple_vit_with_qk_norm", "SimpleViT"): {**_ALL, "dim_head": 16},
    ("parallel_vit", "ViT"): {**_ALL, "num_parallel_branches": 2, "dim_head": 16},
    ("deepvit", "DeepViT"): {**_ALL, "dim_head": 16},
    ("cait", "CaiT"): {**_ALL, "cls_depth": 1, "dim_head": 16},
    ("cvt", "CvT"): {
        "num_classes": 10,
        **{f"s{n}_emb_dim": 16 * n for n in (1, 2, 3)},
        **{f"s{n}_depth": 1 for n in (1, 2, 3)},
        **{f"s{n}_heads": n for n in (1, 2, 3)},
    },
    ("nest", "NesT"): {
        "image_size": 64,
        "patch_size": 4,
        "dim": 32,
        "heads": 2,
        "num_hierarchies": 2,
        "block_repeats": (1, 1),
        "num_classes": 10,
    },
    ("max_vit", "MaxViT"): {
        "num_classes": 10,
        "dim_conv_stem": 16,
        "dim": 32,
        "dim_head": 16,
        "depth": (1, 1),
        "window_size": 4,
    },
    ("mobile_vit", "MobileViT"): {
        "image_size": (64, 64),
        "dims": [32, 40, 48],
        "channels": [16, 16, 24, 24, 32, 32, 40, 40, 48, 48, 96],
        "num_classes": 10,
    },
    ("twins_svt", "TwinsSVT"): {
        "num_classes": 10,
        **{f"s{n}_emb_dim": 16 * n for n in (1, 2, 3, 4)},
        **{f"s{n}_depth": 1 for n in (1, 2, 3, 4)},
        **{f"s{n}_local_patch_size": 2 for n in (1, 2, 3)},
        **{f"s{n}_global_k": 2 for n in (1, 2, 3, 4)},
    },
    ("pit", "PiT"): {
        "image_size": 64,
        "patch_size": 8,
        "dim": 32,
        "num_classes": 10,
        "depth": (1, 1),
        "heads": 2,
        "mlp_dim": 64,
        "dim_head": 16,
    },
    ("xcit", "XCiT"): {**_ALL, "cls_depth": 1, "dim_head": 16},
    ("cct", "CCT"): {
        "img_size": 32,
        "embedding_dim": 64,
        "n_conv_layers": 2,
        "kernel_size": 3,
        "stride": 2,
        "padding": 1,
        "num_layers": 2,
        "num_heads": 4,
        "mlp_ratio": 2.0,
        "num_classes": 10,
    },
}


def _build(module: str, kind: str, options: Mapping[str, Any]) -> nn.Module:
    model = getattr(importlib.import_module(f"vit_pytorch.{module}"), kind)(**options)
    assert isinstance(model, nn.Module)
    return model


def _case(module: str, kind: str, options: Mapping[str, Any], inputs: MakeInputs) -> tuple[str, Case]:
    return module, Case(partial(_build, module, kind, options), inputs)


_VIDEO = {
    **_ALL,
    "frames": 4,
    "frame_patch_size": 2,
    "image_patch_size": 16,
    "dim_head": 16,
}
_VIDEO.pop("patch_size")

CASES: Mapping[str, Case] = read_only(
    (
        *(
            _case(module, kind, options, images(options.get("img_size", 64)))
            for (module, kind), options in _OPTIONS.items()
        ),
        _case("vit_3d", "ViT", _VIDEO, volumes(3, 4, 64, 64)),
    )
)
