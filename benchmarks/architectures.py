"""The networks that are measured, by name, without weights of note: needs nothing but torch and its zoos.

Other tools import this in environments of their own, so it knows nothing of speedup.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

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
# Transformers and others that are masked in every layer, and two models of diffusers.
WHOLE = {f"{name}, every layer": name for name in ("swin_t", "convnext_tiny", "vit_b_16", BERT)}
UNET, AUTOENCODER = "UNet2DModel", "AutoencoderKL"
DIFFUSERS = (UNET, AUTOENCODER)
NAMES = (*SEED, *VISION, BERT, *WHOLE, *DIFFUSERS)
IMAGE, SMALL_IMAGE = 224, 32
TOKENS = 128

_SEED_NETWORKS = {
    "slim_vgg19": networks.vgg19,
    "fpgm_mnist": networks.MnistNet,
    "l1_vgg16": networks.vgg16,
    "apoz_vgg16": networks.vgg16,
}


def build(name: str) -> nn.Module:
    """The network `name` in eval mode, always with the same weights; uses no global random state."""
    name = WHOLE.get(name, name)
    if name in VISION:
        return vision.build(name, IMAGE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (_OTHERS.get(name) or _SEED_NETWORKS[name])().eval()


def inputs(name: str, batch: int, seed: int) -> Any:
    """Random inputs for `batch` samples: a tensor of images, or keyword arguments for BERT."""
    name = WHOLE.get(name, name)
    if name == BERT:
        generator = torch.Generator().manual_seed(seed)
        return {"input_ids": torch.randint(0, 30522, (batch, TOKENS), generator=generator)}
    if name in VISION:
        return vision.images(batch, IMAGE, seed)
    if name in DIFFUSERS:
        return vision.images(batch, SMALL_IMAGE, seed)
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


class _Sampling(nn.Module):
    """The images alone that a model of diffusers returns; `more` are arguments beside the images."""

    def __init__(self, model: Any, *more: Any) -> None:
        super().__init__()
        self.model, self.more = model, more

    def forward(self, x: Tensor) -> Tensor:
        sample: Tensor = self.model(x, *self.more).sample
        return sample


def _unet() -> nn.Module:
    vision.available()
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=SMALL_IMAGE,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128),
        norm_num_groups=8,
    )
    # At one step of its schedule.
    return _Sampling(model, 10)


def _autoencoder() -> nn.Module:
    vision.available()
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(64, 128),
        norm_num_groups=8,
    )
    return _Sampling(model)


_OTHERS = {BERT: _bert, UNET: _unet, AUTOENCODER: _autoencoder}
