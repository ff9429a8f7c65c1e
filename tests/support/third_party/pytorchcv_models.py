"""Models of pytorchcv: those for small images where a family has one, else its narrowest."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial

from torch import nn

from tests.support.third_party.case import Case, images, read_only

# Their last pooling has a fixed window, so that each takes one size.
_OF_32_PIXELS = """
    resnet20_cifar10 preresnet20_cifar10 seresnet20_cifar10 diaresnet20_cifar10 resnext20_16x4d_cifar10
    densenet40_k12_cifar10 rir_cifar10 fractalnet_cifar10
""".split()
_OF_224_PIXELS = """
    shufflenet_g3_wd4 menet108_8x1_g3 shufflenetv2_wd2 dicenet_wd5 octresnet10_ad2 sqnxt23_w1 squeezenet_v1_1
    darknet_tiny igcv3_wd4 peleenet
""".split()


def _build(name: str) -> nn.Module:
    model = importlib.import_module("pytorchcv.model_provider").get_model(name, pretrained=False)
    assert isinstance(model, nn.Module)
    return model


CASES: Mapping[str, Case] = read_only(
    (name, Case(partial(_build, name), images(size)))
    for size, names in ((32, _OF_32_PIXELS), (224, _OF_224_PIXELS))
    for name in names
)
