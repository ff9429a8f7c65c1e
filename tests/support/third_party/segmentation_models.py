"""Models of segmentation-models-pytorch: each decoder, and encoders of several families."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial

from torch import nn

from tests.support.third_party.case import Case, images, read_only

_SIZE = 128
_PAIRS = (
    ("Unet", "resnet18"),
    ("Unet", "efficientnet-b0"),
    ("Unet", "vgg11_bn"),
    ("UnetPlusPlus", "mobilenet_v2"),
    ("MAnet", "resnet18"),
    ("Linknet", "resnet18"),
    ("FPN", "resnet18"),
    ("FPN", "se_resnet50"),
    ("PSPNet", "resnet18"),
    ("PAN", "resnet18"),
    ("DeepLabV3", "resnet18"),
    ("DeepLabV3Plus", "mobilenet_v2"),
    ("UPerNet", "resnet18"),
    ("Segformer", "mit_b0"),
    ("Unet", "tu-regnetx_002"),
)


def _build(decoder: str, encoder: str) -> nn.Module:
    make = getattr(importlib.import_module("segmentation_models_pytorch"), decoder)
    model = make(encoder, encoder_weights=None, classes=5)
    assert isinstance(model, nn.Module)
    return model


CASES: Mapping[str, Case] = read_only(
    (f"{decoder}/{encoder}", Case(partial(_build, decoder, encoder), images(_SIZE)))
    for decoder, encoder in _PAIRS
)
