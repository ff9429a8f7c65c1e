"""The networks that are measured, by name, without weights of note: needs nothing but torch and its zoos.

Other tools import this in environments of their own, so it knows nothing of speedup.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks import networks
from tests.support import vision

SEED = {"slim_vgg19": (64, 3, 32, 32), "fpgm_mnist": (64, 1, 28, 28)} | dict.fromkeys(
    ("l1_vgg16", "apoz_vgg16"), (64, 3, 32, 32)
)
VISION = tuple(
    "resnet18 resnet50 vgg16_bn mobilenet_v2 densenet121 efficientnet_b0 resnext50_32x4d "
    "shufflenet_v2_x1_0 mnasnet1_0 mobilenet_v3_large regnet_y_400mf convnext_tiny vit_b_16 swin_t".split()
)
BERT = "bert_12_layers"
NAMES = (*SEED, *VISION, BERT)
IMAGE = 224
TOKENS = 128

_SEED_NETWORKS = {
    "slim_vgg19": networks.vgg19,
    "fpgm_mnist": networks.MnistNet,
    "l1_vgg16": networks.vgg16,
    "apoz_vgg16": networks.vgg16,
}


def build(name: str) -> nn.Module:
    """The network `name` in eval mode, always with the same weights; uses no global random state."""
    if name in VISION:
        return vision.build(name, IMAGE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (_bert() if name == BERT else _SEED_NETWORKS[name]()).eval()


def inputs(name: str, batch: int, seed: int) -> Any:
    """Random inputs for `batch` samples: a tensor of images, or keyword arguments for BERT."""
    if name == BERT:
        generator = torch.Generator().manual_seed(seed)
        return {"input_ids": torch.randint(0, 30522, (batch, TOKENS), generator=generator)}
    if name in VISION:
        return vision.images(batch, IMAGE, seed)
    _, channels, size, _ = SEED[name]
    return vision.images(batch, size, seed)[:, :channels]


def _bert() -> nn.Module:
    # transformers imports torchvision, which may need its operators declared first.
    vision.available()
    from transformers import BertConfig, BertModel

    config = BertConfig(attn_implementation="eager")  # type: ignore[call-arg]
    model = BertModel(config, add_pooling_layer=False)
    assert isinstance(model, nn.Module)
    return model
