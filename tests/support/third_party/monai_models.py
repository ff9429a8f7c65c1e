"""Models of monai, for small maps and volumes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from tests.support.measure import MakeInputs
from tests.support.third_party.case import Case, images, read_only, volumes

_FLAT = {"spatial_dims": 2, "in_channels": 3, "out_channels": 2}
_OPTIONS: Mapping[str, tuple[dict[str, Any], MakeInputs]] = {
    "UNet": ({**_FLAT, "channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 2}, images(32)),
    "BasicUNet": ({**_FLAT, "features": (8, 8, 16, 32, 64, 8)}, images(32)),
    "BasicUNetPlusPlus": ({**_FLAT, "features": (8, 8, 16, 32, 64, 8)}, images(32)),
    "AttentionUnet": ({**_FLAT, "channels": (8, 16, 32), "strides": (2, 2)}, images(32)),
    "SegResNet": ({**_FLAT, "init_filters": 16}, images(32)),
    "DynUNet": (
        {
            **_FLAT,
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "filters": [8, 16, 32],
        },
        images(32),
    ),
    "VNet": ({"spatial_dims": 3, "in_channels": 1, "out_channels": 2}, volumes(1, 32, 32, 32)),
    "UNETR": (
        {
            "in_channels": 1,
            "out_channels": 2,
            "img_size": (32, 32, 32),
            "feature_size": 8,
            "hidden_size": 48,
            "mlp_dim": 96,
            "num_heads": 4,
        },
        volumes(1, 32, 32, 32),
    ),
    "SwinUNETR": ({**_FLAT, "feature_size": 12, "depths": (1, 1, 1, 1)}, images(64)),
    "HighResNet": ({"spatial_dims": 2, "in_channels": 3, "out_channels": 2}, images(32)),
    "DenseNet": ({**_FLAT, "init_features": 16, "growth_rate": 8, "block_config": (2, 2, 2)}, images(32)),
    "ViT": (
        {
            "in_channels": 3,
            "img_size": (32, 32),
            "patch_size": (8, 8),
            "hidden_size": 48,
            "mlp_dim": 96,
            "num_layers": 2,
            "num_heads": 4,
            "classification": True,
            "spatial_dims": 2,
        },
        images(32),
    ),
    "AutoencoderKL": (
        {
            **_FLAT,
            "num_res_blocks": (1, 1),
            "channels": (16, 32),
            "attention_levels": (False, True),
            "norm_num_groups": 8,
        },
        images(32),
    ),
    "MedNeXt": (
        {
            **_FLAT,
            "init_filters": 8,
            "blocks_down": (1, 1),
            "blocks_bottleneck": 1,
            "blocks_up": (1, 1),
        },
        images(32),
    ),
}


def _build(name: str, options: Mapping[str, Any]) -> nn.Module:
    model = getattr(importlib.import_module("monai.networks.nets"), name)(**options)
    assert isinstance(model, nn.Module)
    return model


CASES: Mapping[str, Case] = read_only(
    (name, Case(partial(_build, name, options), inputs)) for name, (options, inputs) in _OPTIONS.items()
)
