"""Tiny models of transformers that take images or sound."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.transformers_cases import (
    VOCABULARY,
    Case,
    pixels,
    pixels_and_tokens,
    spectrogram,
    waveform,
)
from tests.support.transformers_text import ENCODER_DECODER, TINY

_TEXT = {key: value for key, value in TINY.items() if key != "pad_token_id"}
_PATCHES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
_WAVES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16),
    "conv_stride": (4, 2),
    "conv_kernel": (8, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": VOCABULARY,
}
_WINDOWS = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
_RESNET = {
    "embedding_size": 16,
    "hidden_sizes": [16, 24],
    "depths": [1, 2],
    "layer_type": "bottleneck",
    "hidden_act": "relu",
}
_PYRAMID = {
    "num_encoder_blocks": 2,
    "depths": [1, 2],
    "sr_ratios": [2, 1],
    "hidden_sizes": [16, 32],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 24,
}

MEDIA_CASES: Mapping[str, Case] = {
    "BeitForImageClassification": Case("BeitConfig", _PATCHES, pixels, 32, None),
    "CLIPModel": Case(
        "CLIPConfig", {"text_config": _TEXT, "vision_config": _PATCHES}, pixels_and_tokens, 32, None
    ),
    "ConvNextForImageClassification": Case(
        "ConvNextConfig", {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}, pixels, 32, 48
    ),
    "ConvNextV2ForImageClassification": Case(
        "ConvNextV2Config", {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}, pixels, 32, 48
    ),
    "DeiTForImageClassification": Case("DeiTConfig", _PATCHES, pixels, 32, None),
    "DetrForObjectDetection": Case(
        "DetrConfig",
        {
            **{key: value for key, value in ENCODER_DECODER.items() if key.startswith(("d_", "enc", "dec"))},
            "num_queries": 5,
            "num_labels": 3,
            "backbone_config": {"model_type": "resnet", "out_features": ["stage2"], **_RESNET},
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
        },
        pixels,
        64,
        96,
    ),
    "Dinov2ForImageClassification": Case("Dinov2Config", _PATCHES | {"mlp_ratio": 2}, pixels, 32, None),
    "HubertModel": Case("HubertConfig", _WAVES, waveform, 200, 264),
    "MobileNetV2ForImageClassification": Case(
        "MobileNetV2Config", {"depth_multiplier": 0.35}, pixels, 64, 96
    ),
    "MobileViTForImageClassification": Case(
        "MobileViTConfig",
        {
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32],
            "num_attention_heads": 4,
        },
        pixels,
        64,
        128,
    ),
    "PoolFormerForImageClassification": Case(
        "PoolFormerConfig",
        {
            "depths": [1, 2],
            "hidden_sizes": [16, 32],
            "num_encoder_blocks": 2,
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "padding": [2, 1],
            "mlp_ratio": 2.0,
        },
        pixels,
        32,
        48,
    ),
    "RegNetForImageClassification": Case(
        "RegNetConfig",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 2], "groups_width": 8},
        pixels,
        32,
        48,
    ),
    "ResNetForImageClassification": Case("ResNetConfig", _RESNET, pixels, 32, 48),
    "SegformerForSemanticSegmentation": Case("SegformerConfig", _PYRAMID, pixels, 64, 96),
    "SiglipModel": Case(
        "SiglipConfig",
        {"text_config": TINY | {"max_position_embeddings": 9}, "vision_config": _PATCHES},
        pixels_and_tokens,
        32,
        None,
    ),
    "SwinForImageClassification": Case(
        "SwinConfig",
        _WINDOWS,
        pixels,
        32,
        64,
    ),
    "Swinv2ForImageClassification": Case(
        "Swinv2Config",
        _WINDOWS,
        pixels,
        32,
        64,
    ),
    "ViTForImageClassification": Case("ViTConfig", _PATCHES, pixels, 32, None),
    "Wav2Vec2ForCTC": Case("Wav2Vec2Config", _WAVES, waveform, 200, 264),
    "WhisperForConditionalGeneration": Case(
        "WhisperConfig",
        ENCODER_DECODER | {"num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 20},
        spectrogram,
        40,
        None,
    ),
}
