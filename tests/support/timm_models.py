"""One model of every timm family, the smallest it has, with random weights.

A family is a module of `timm.models` that registers models; timm 1.0.31 has 98. timm imports torchvision,
which `tests.support.vision` makes importable on any build of torch.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from types import MappingProxyType

import attrs
import torch
from attrs import frozen
from torch import Tensor, nn

from tests.support import vision

_CLASSES = 10


def _read_only(options: Mapping[str, object]) -> Mapping[str, object]:
    return MappingProxyType(options)


@frozen
class _Choice:
    """The model that stands for a family.

    Attributes:
        model: its name in timm.
        size: height and width, in pixels, at which it is checked: small, but maps keep interior positions.
        other: a second size that the same model takes; None where it is built for one size only.
        sized: whether it is built for `size`; else it takes images as they come.
        options: further arguments of `timm.create_model`, for models of more than 100M parameters.
    """

    model: str
    size: int = 96
    other: int | None = None
    sized: bool = False
    options: Mapping[str, object] = attrs.field(factory=dict, converter=_read_only, hash=False)


# Built for images as they come.
_ANY_SIZE = """
    convmixer=convmixer_768_32 convnext=test_convnext cpubone=cpubone_nano crossvit=crossvit_tiny_240
    csatv2=csatv2 cspnet=cs3darknet_focus_s cspnext=cspnext_tiny davit=davit_tiny densenet=densenet121
    dla=dla46x_c dpn=dpn48b edgenext=edgenext_xx_small efficientnet=test_efficientnet
    efficientvim=efficientvim_m1 efficientvit_mit=efficientvit_b0 fasternet=fasternet_t0 fastvit=fastvit_t8
    focalnet=focalnet_tiny_srf ghostnet=ghostnet_050 hardcorenas=hardcorenas_b hgnet=hgnetv2_b0
    hieradet_sam2=sam2_hiera_tiny hrnet=hrnet_w18_small iformer=iformer_t inception_next=inception_next_atto
    lcnetv2=lcnetv2_small lowformer=lowformer_b0 mambaout=test_mambaout metaformer=poolformerv2_s12
    mobilenetv3=mobilenetv3_small_050 mobilenetv5=mobilenetv5_base nasnet=nasnetalarge nextvit=nextvit_small
    nfnet=test_nfnet pnasnet=pnasnet5large pvt_v2=pvt_v2_b0 rdnet=rdnet_tiny regnet=regnetx_002
    repghost=repghostnet_050 res2net=res2next50 resnest=resnest14d resnet=test_resnet resnetv2=resnetv2_18
    rexnet=rexnet_100 selecsls=selecsls42 senet=legacy_seresnet18 shvit=shvit_s1 sknet=skresnet18
    starnet=starnet_s050 tiny_vit=tiny_vit_5m_224 tresnet=tresnet_m vgg=vgg11 vovnet=ese_vovnet19b_slim_dw
    xception=legacy_xception xception_aligned=xception41p
"""
# Built for one size, and fit for others.
_FLEXIBLE = """
    byobnet=test_byobnet efficientvit_msra=efficientvit_m0 eva=vit_tiny_patch16_dinov3_qkvb
    mobilevit=mobilevit_xxs naflexvit=naflexvit_base_patch16_parfac_gap qwen3_vit=qwen3_vit_88m
    repvit=repvit_m1 sequencer=sequencer2d_s swiftformer=swiftformer_xs twins=twins_svt_small
    vision_transformer=test_vit vision_transformer_sam=samvit_base_patch16_224 xcit=xcit_nano_12_p8_224
"""
# Built for one size, and held to it.
_FIXED_SIZE = """
    beit=beit_base_patch16_224 cait=cait_xxs24_224 coat=coat_tiny convit=convit_tiny
    deit=deit_tiny_patch16_224 efficientformer_v2=efficientformerv2_s0 gcvit=gcvit_xxtiny hiera=hiera_tiny_224
    levit=levit_128s maxxvit=test_coatnet mlp_mixer=gmlp_ti16_224 nest=jx_nest_tiny pit=pit_ti_224
    swin_transformer=swin_tiny_patch4_window7_224 swin_transformer_v2=swinv2_tiny_window16_256
    swin_transformer_v2_cr=swinv2_cr_tiny_224 tnt=tnt_s_legacy_patch16_224 visformer=visformer_tiny
    vision_transformer_relpos=test_vit_relpos vitamin=vitamin_small_224 volo=volo_d1_224
"""
_SPECIAL = {
    "byoanet": _Choice("halonet_h1", 256, sized=True),
    "deepseek_vit": _Choice("deepseek_vit_412m", 84, 126, sized=True, options={"depth": 2}),
    "efficientformer": _Choice("efficientformer_l1", 224, sized=True),
    "gemma4_vit": _Choice("gemma4_vit_167m", 96, 144, sized=True, options={"depth": 2}),
    "inception_resnet_v2": _Choice("inception_resnet_v2", 128, 107),
    "inception_v3": _Choice("inception_v3", 128, 107),
    "inception_v4": _Choice("inception_v4", 128, 107),
    "mvitv2": _Choice("mvitv2_tiny", 96, 64, sized=True),
    "vision_transformer_hybrid": _Choice("vit_tiny_r_s16_p8_224", 96, 112, sized=True),
}


def _pairs(table: str) -> dict[str, str]:
    return dict(entry.split("=") for entry in table.split())


_CHOICES: Mapping[str, _Choice] = (
    {family: _Choice(model, other=128) for family, model in _pairs(_ANY_SIZE).items()}
    | {family: _Choice(model, other=128, sized=True) for family, model in _pairs(_FLEXIBLE).items()}
    | {family: _Choice(model, sized=True) for family, model in _pairs(_FIXED_SIZE).items()}
    | _SPECIAL
)


@functools.cache
def available() -> bool:
    """Whether timm's models can be built here."""
    if not vision.available():
        return False
    try:
        importlib.import_module("timm")
    except ImportError:
        return False
    return True


def families() -> tuple[str, ...]:
    """Names of all families, in alphabetical order: those of the modules in `timm.models`."""
    return tuple(sorted(_CHOICES))


def model_name(family: str) -> str:
    """The name in timm of the model that stands for `family`."""
    return _CHOICES[family].model


def build(family: str) -> nn.Module:
    """The model of `family`, for ten classes, in eval mode; its weights random but always the same."""
    choice = _CHOICES[family]
    vision.torchvision_models()
    create_model = importlib.import_module("timm").create_model
    size = {"img_size": choice.size} if choice.sized else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model(choice.model, num_classes=_CLASSES, **size, **choice.options)
    assert isinstance(model, nn.Module)
    return model.eval()


def resolution(family: str) -> int:
    """Height and width, in pixels, at which `family` is checked."""
    return _CHOICES[family].size


def other_resolution(family: str) -> int | None:
    """A second size that the same model must also be exact at; None where the architecture fixes the size."""
    return _CHOICES[family].other


def images(batch: int, size: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random images (batch, 3, size, size), as `vision.images` makes them."""
    return vision.images(batch, size, seed, dtype)
