"""Models of diffusers, a few blocks each, called at one step of their schedule."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from tests.support.measure import MakeInputs
from tests.support.third_party.case import Case, read_only, several, volumes

_STEP, _SIZE, _WORDS, _WIDTH = 10, 16, 6, 32
_GROUPS = {"norm_num_groups": 8}
_MAP = volumes(4, _SIZE, _SIZE)
_TEXT = volumes(_WORDS, _WIDTH)
_HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
_LATENT = {"sample_size": _SIZE, "in_channels": 4, "out_channels": 4}
_UNET = {**_LATENT, **_GROUPS, "block_out_channels": (16, 32), "layers_per_block": 1}


class _First(nn.Module):
    """The first output of a model, whose arguments are given in order, at one step if it is `timed`."""

    def __init__(self, kind: str, options: Mapping[str, Any], timed: bool, **fixed: Any) -> None:
        super().__init__()
        self.model = getattr(importlib.import_module("diffusers"), kind)(**options)
        self.timed, self.fixed = timed, fixed

    def forward(self, x: Any, *more: Any) -> Any:
        step = (_STEP,) if self.timed else ()
        return self.model(x, *step, *more, **self.fixed, return_dict=False)[0]


class _Transformer(nn.Module):
    """A transformer that takes a step for each sample: maps, and what `names` says of further arguments."""

    def __init__(self, kind: str, options: Mapping[str, Any], names: tuple[str, ...], **fixed: Any) -> None:
        super().__init__()
        self.model = getattr(importlib.import_module("diffusers"), kind)(**options)
        self.names, self.fixed = names, fixed

    def forward(self, x: Any, *more: Any) -> Any:
        steps = x.new_full((x.shape[0],), _STEP).long()
        arguments = dict(zip(self.names, more, strict=True))
        return self.model(x, timestep=steps, **arguments, **self.fixed, return_dict=False)[0]


class _Classified(_Transformer):
    """One that is told the class of its images too."""

    def forward(self, x: Any, *more: Any) -> Any:
        steps = x.new_full((x.shape[0],), _STEP).long()
        return self.model(x, timestep=steps, class_labels=steps // 4, return_dict=False)[0]


def _timed(kind: str, options: Mapping[str, Any], *inputs: MakeInputs) -> Case:
    return Case(partial(_First, kind, options, timed=True), several(*inputs))


def _plain(kind: str, options: Mapping[str, Any], *inputs: MakeInputs) -> Case:
    return Case(partial(_First, kind, options, timed=False), several(*inputs))


def _transformer(
    kind: str, options: Mapping[str, Any], *inputs: MakeInputs, names: tuple[str, ...] = (), **fixed: Any
) -> Case:
    return Case(partial(_Transformer, kind, options, names, **fixed), several(*inputs))


_IMAGE = volumes(3, 32, 32)
_CODER = {
    **_GROUPS,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (16, 32),
}
CASES: Mapping[str, Case] = read_only(
    {
        "UNet2DModel": _timed(
            "UNet2DModel",
            {
                **_UNET,
                "attention_head_dim": 8,
                "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
                "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            },
            _MAP,
        ),
        "UNet2DConditionModel": _timed(
            "UNet2DConditionModel",
            {
                **_UNET,
                "attention_head_dim": 8,
                "cross_attention_dim": _WIDTH,
                "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            },
            _MAP,
            _TEXT,
        ),
        "UNet3DConditionModel": _timed(
            "UNet3DConditionModel",
            {
                **_UNET,
                "attention_head_dim": 8,
                "cross_attention_dim": _WIDTH,
                "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
                "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
            },
            volumes(4, 2, _SIZE, _SIZE),
            _TEXT,
        ),
        "UNet1DModel": _timed(
            "UNet1DModel",
            {
                "sample_size": 64,
                "block_out_channels": (16, 32, 32),
                "in_channels": 2,
                "out_channels": 2,
                "extra_in_channels": 32,
                "layers_per_block": 1,
                "down_block_types": ("DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D"),
                "up_block_types": ("AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
            },
            volumes(2, 64),
        ),
        "AutoencoderKL": _plain("AutoencoderKL", _CODER, _IMAGE),
        "AsymmetricAutoencoderKL": _plain(
            "AsymmetricAutoencoderKL",
            {
                **_GROUPS,
                "down_block_types": ("DownEncoderBlock2D",) * 2,
                "up_block_types": ("UpDecoderBlock2D",) * 2,
                "down_block_out_channels": (16, 32),
                "up_block_out_channels": (16, 32),
            },
            _IMAGE,
        ),
        "VQModel": _plain("VQModel", {**_CODER, "num_vq_embeddings": 16}, _IMAGE),
        "DiTTransformer2DModel": Case(
            partial(
                _Classified,
                "DiTTransformer2DModel",
                {**_LATENT, **_HEADS, "num_layers": 2, "num_embeds_ada_norm": 16},
                (),
            ),
            several(_MAP),
        ),
        "PixArtTransformer2DModel": _transformer(
            "PixArtTransformer2DModel",
            {
                **_LATENT,
                **_HEADS,
                "num_layers": 2,
                "cross_attention_dim": 32,
                "caption_channels": _WIDTH,
                "use_additional_conditions": False,
            },
            _MAP,
            _TEXT,
            names=("encoder_hidden_states",),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ),
        "SD3Transformer2DModel": _transformer(
            "SD3Transformer2DModel",
            {
                **_LATENT,
                **_HEADS,
                "num_layers": 2,
                "joint_attention_dim": _WIDTH,
                "caption_projection_dim": 32,
                "pooled_projection_dim": _WIDTH,
                "pos_embed_max_size": 16,
            },
            _MAP,
            _TEXT,
            volumes(_WIDTH),
            names=("encoder_hidden_states", "pooled_projections"),
        ),
        "Transformer2DModel": _plain(
            "Transformer2DModel", {**_HEADS, **_GROUPS, "in_channels": 32}, volumes(32, 8, 8)
        ),
        "PriorTransformer": _timed(
            "PriorTransformer",
            {**_HEADS, "num_layers": 2, "embedding_dim": _WIDTH, "num_embeddings": _WORDS},
            volumes(_WIDTH),
            volumes(_WIDTH),
            _TEXT,
        ),
    }.items()
)
