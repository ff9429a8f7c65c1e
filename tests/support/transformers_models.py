"""Models of transformers, one per class and tiny, with random weights.

transformers imports torchvision for its image models, which `tests.support.vision` makes importable on any
build of torch.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, TypeAlias

import attrs
import torch
from attrs import frozen
from torch import Tensor, nn

from tests.support import vision

Call: TypeAlias = dict[str, Tensor]

_VOCABULARY = 50


@frozen
class _Sample:
    """What random inputs are drawn from: how many samples, how large each one, in which floating dtype."""

    batch: int
    size: int
    seed: int
    dtype: torch.dtype

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def _ids(sample: _Sample, length: int | None = None) -> Tensor:
    # The first few ids are padding, beginning and end to most models.
    shape = (sample.batch, length or sample.size)
    return torch.randint(4, _VOCABULARY, shape, generator=sample.generator)


def _tokens(sample: _Sample) -> Call:
    return {"input_ids": _ids(sample)}


def _padded_tokens(sample: _Sample) -> Call:
    """Tokens with padding after the first sample's half, and a mask that says so."""
    mask = torch.ones(sample.batch, sample.size, dtype=torch.long)
    mask[0, sample.size // 2 :] = 0
    return {"input_ids": _ids(sample), "attention_mask": mask}


def _text_pair(sample: _Sample) -> Call:
    return {"input_ids": _ids(sample), "decoder_input_ids": _ids(sample, 7)}


def _pixels(sample: _Sample) -> Call:
    return {"pixel_values": vision.images(sample.batch, sample.size, sample.seed, sample.dtype)}


def _pixels_and_tokens(sample: _Sample) -> Call:
    return _pixels(sample) | {"input_ids": _ids(sample, 9)}


def _spectrogram(sample: _Sample) -> Call:
    shape = (sample.batch, 8, sample.size)
    features = torch.randn(shape, generator=sample.generator, dtype=torch.float64).to(sample.dtype)
    return {"input_features": features, "decoder_input_ids": _ids(sample, 7)}


def _waveform(sample: _Sample) -> Call:
    shape = (sample.batch, sample.size)
    return {
        "input_values": torch.randn(shape, generator=sample.generator, dtype=torch.float64).to(sample.dtype)
    }


@frozen
class _Case:
    """How one class is built and called.

    Attributes:
        config: the class of its configuration, in transformers.
        options: the configuration's arguments.
        call: makes the arguments of a call.
        size: sequence length, or height and width in pixels, at which the class is checked.
        other: a second size that the same model takes; None where it is built for one size only.
    """

    config: str
    options: Mapping[str, Any] = attrs.field(converter=MappingProxyType, hash=False)
    call: Callable[[_Sample], Call] = _tokens
    size: int = 9
    other: int | None = 12


_TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": _VOCABULARY,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DECODER = _TINY | {"use_cache": False}
_GROUPED = _DECODER | {"num_key_value_heads": 2, "head_dim": 8}
_ENCODER_DECODER = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": _VOCABULARY,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "use_cache": False,
}
_GPT = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 40,
    "vocab_size": _VOCABULARY,
    "use_cache": False,
}
_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": _VOCABULARY,
    "decoder_start_token_id": 0,
    "use_cache": False,
}
_MIXTURE = _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}
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
    "vocab_size": _VOCABULARY,
}
_MAMBA = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 4,
    "vocab_size": _VOCABULARY,
    "use_cache": False,
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
_TEXT = {key: value for key, value in _TINY.items() if key != "pad_token_id"}

_CASES: Mapping[str, _Case] = {
    "AlbertModel": _Case("AlbertConfig", _TINY | {"embedding_size": 16}),
    "BartForConditionalGeneration": _Case("BartConfig", _ENCODER_DECODER, _text_pair),
    "BeitForImageClassification": _Case("BeitConfig", _PATCHES, _pixels, 32, None),
    "BertForMaskedLM": _Case("BertConfig", _TINY, _padded_tokens),
    "BertModel": _Case("BertConfig", _TINY),
    "BloomForCausalLM": _Case(
        "BloomConfig",
        {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": _VOCABULARY, "use_cache": False},
    ),
    "CLIPModel": _Case(
        "CLIPConfig", {"text_config": _TEXT, "vision_config": _PATCHES}, _pixels_and_tokens, 32, None
    ),
    "CamembertForSequenceClassification": _Case("CamembertConfig", _TINY),
    "CohereForCausalLM": _Case("CohereConfig", _GROUPED),
    "ConvBertModel": _Case("ConvBertConfig", _TINY | {"embedding_size": 32, "head_ratio": 2}),
    "ConvNextForImageClassification": _Case(
        "ConvNextConfig", {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}, _pixels, 32, 48
    ),
    "ConvNextV2ForImageClassification": _Case(
        "ConvNextV2Config", {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}, _pixels, 32, 48
    ),
    "DebertaV2Model": _Case(
        "DebertaV2Config",
        _TINY
        | {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "type_vocab_size": 0,
        },
    ),
    "DeiTForImageClassification": _Case("DeiTConfig", _PATCHES, _pixels, 32, None),
    "DetrForObjectDetection": _Case(
        "DetrConfig",
        {
            **{key: value for key, value in _ENCODER_DECODER.items() if key.startswith(("d_", "enc", "dec"))},
            "num_queries": 5,
            "num_labels": 3,
            "backbone_config": {"model_type": "resnet", "out_features": ["stage2"], **_RESNET},
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
        },
        _pixels,
        64,
        96,
    ),
    "Dinov2ForImageClassification": _Case("Dinov2Config", _PATCHES | {"mlp_ratio": 2}, _pixels, 32, None),
    "DistilBertModel": _Case(
        "DistilBertConfig",
        {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 48,
            "vocab_size": _VOCABULARY,
            "max_position_embeddings": 40,
        },
    ),
    "ElectraForPreTraining": _Case("ElectraConfig", _TINY | {"embedding_size": 16}),
    "FNetModel": _Case("FNetConfig", _TINY),
    "FalconForCausalLM": _Case(
        "FalconConfig", _DECODER | {"new_decoder_architecture": False, "multi_query": True}
    ),
    "GPT2LMHeadModel": _Case("GPT2Config", _GPT),
    "GPTJForCausalLM": _Case("GPTJConfig", _GPT | {"rotary_dim": 4}),
    "GPTNeoForCausalLM": _Case(
        "GPTNeoConfig",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "max_position_embeddings": 40,
            "vocab_size": _VOCABULARY,
            "use_cache": False,
        },
    ),
    "GPTNeoXForCausalLM": _Case("GPTNeoXConfig", _DECODER),
    "Gemma2ForCausalLM": _Case("Gemma2Config", _GROUPED | {"sliding_window": 4}),
    "Gemma3ForCausalLM": _Case("Gemma3TextConfig", _GROUPED | {"sliding_window": 4}),
    "GemmaForCausalLM": _Case("GemmaConfig", _GROUPED),
    "GraniteForCausalLM": _Case("GraniteConfig", _GROUPED),
    "HubertModel": _Case("HubertConfig", _WAVES, _waveform, 200, 264),
    "LlamaForCausalLM": _Case("LlamaConfig", _GROUPED),
    "MPNetModel": _Case("MPNetConfig", _TINY),
    "Mamba2ForCausalLM": _Case(
        "Mamba2Config", _MAMBA | {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4}
    ),
    "MambaForCausalLM": _Case("MambaConfig", _MAMBA),
    "MarianMTModel": _Case("MarianConfig", _ENCODER_DECODER, _text_pair),
    "MistralForCausalLM": _Case("MistralConfig", _GROUPED | {"sliding_window": 4}),
    # The default, torch's grouped matrix product, has no kernel for float64; "batched_mm" computes the same.
    "MixtralForCausalLM": _Case("MixtralConfig", _MIXTURE | {"experts_implementation": "batched_mm"}),
    "MobileBertModel": _Case(
        "MobileBertConfig",
        _TINY
        | {
            "embedding_size": 16,
            "true_hidden_size": 16,
            "intra_bottleneck_size": 16,
            "num_feedforward_networks": 2,
        },
    ),
    "MobileNetV2ForImageClassification": _Case(
        "MobileNetV2Config", {"depth_multiplier": 0.35}, _pixels, 64, 96
    ),
    "MobileViTForImageClassification": _Case(
        "MobileViTConfig",
        {
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32],
            "num_attention_heads": 4,
        },
        _pixels,
        64,
        128,
    ),
    "ModernBertForMaskedLM": _Case(
        "ModernBertConfig", _TINY | {"local_attention": 4, "global_attn_every_n_layers": 2}
    ),
    "OPTForCausalLM": _Case(
        "OPTConfig",
        {key: value for key, value in _DECODER.items() if key != "intermediate_size"}
        | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    ),
    "OlmoForCausalLM": _Case("OlmoConfig", _GROUPED),
    "PegasusForConditionalGeneration": _Case("PegasusConfig", _ENCODER_DECODER, _text_pair),
    "Phi3ForCausalLM": _Case("Phi3Config", _DECODER | {"num_key_value_heads": 2}),
    "PhiForCausalLM": _Case("PhiConfig", _DECODER | {"num_key_value_heads": 2}),
    "PoolFormerForImageClassification": _Case(
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
        _pixels,
        32,
        48,
    ),
    "Qwen2ForCausalLM": _Case("Qwen2Config", _GROUPED),
    "Qwen2MoeForCausalLM": _Case(
        "Qwen2MoeConfig",
        _GROUPED
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
            "experts_implementation": "batched_mm",
        },
    ),
    "Qwen3ForCausalLM": _Case("Qwen3Config", _GROUPED),
    "RegNetForImageClassification": _Case(
        "RegNetConfig",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 2], "groups_width": 8},
        _pixels,
        32,
        48,
    ),
    "ResNetForImageClassification": _Case("ResNetConfig", _RESNET, _pixels, 32, 48),
    "RoFormerModel": _Case("RoFormerConfig", _TINY | {"embedding_size": 32}),
    "RobertaModel": _Case("RobertaConfig", _TINY, _padded_tokens),
    "SegformerForSemanticSegmentation": _Case("SegformerConfig", _PYRAMID, _pixels, 64, 96),
    "SiglipModel": _Case(
        "SiglipConfig",
        {"text_config": _TINY | {"max_position_embeddings": 9}, "vision_config": _PATCHES},
        _pixels_and_tokens,
        32,
        None,
    ),
    "SqueezeBertModel": _Case("SqueezeBertConfig", _TINY | {"embedding_size": 32}),
    "StableLmForCausalLM": _Case("StableLmConfig", _GROUPED),
    "SwinForImageClassification": _Case(
        "SwinConfig",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 16,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
        _pixels,
        32,
        64,
    ),
    "Swinv2ForImageClassification": _Case(
        "Swinv2Config",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 16,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
        _pixels,
        32,
        64,
    ),
    "T5ForConditionalGeneration": _Case("T5Config", _T5, _text_pair),
    "ViTForImageClassification": _Case("ViTConfig", _PATCHES, _pixels, 32, None),
    "Wav2Vec2ForCTC": _Case("Wav2Vec2Config", _WAVES, _waveform, 200, 264),
    "WhisperForConditionalGeneration": _Case(
        "WhisperConfig",
        _ENCODER_DECODER | {"num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 20},
        _spectrogram,
        40,
        None,
    ),
    "XLNetModel": _Case(
        "XLNetConfig",
        {
            "d_model": 32,
            "n_layer": 2,
            "n_head": 4,
            "d_inner": 48,
            "vocab_size": _VOCABULARY,
            "use_mems_eval": False,
        },
    ),
}


def _transformers() -> ModuleType:
    # First, because transformers gives up on image models for good where torchvision does not import.
    vision.torchvision_models()
    return importlib.import_module("transformers")


@functools.cache
def available() -> bool:
    """Whether transformers' models can be built here."""
    if not vision.available():
        return False
    try:
        _transformers()
    except ImportError:
        return False
    return True


def classes() -> tuple[str, ...]:
    """Names of all classes, in alphabetical order."""
    return tuple(sorted(_CASES))


def build(name: str) -> nn.Module:
    """A tiny model of class `name` in eval mode, its weights random but always the same."""
    transformers, case = _transformers(), _CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, name)(getattr(transformers, case.config)(**case.options))
    assert isinstance(model, nn.Module)
    return model.eval()


def size(name: str) -> int:
    """Sequence length, or height and width in pixels, at which `name` is checked."""
    return _CASES[name].size


def other_size(name: str) -> int | None:
    """A second size that the same model must also be exact at; None where the architecture fixes the size."""
    return _CASES[name].other


def inputs(name: str, size: int, batch: int, seed: int, dtype: torch.dtype = torch.float32) -> Call:
    """Keyword arguments of a call of `name` with `batch` random samples of `size`."""
    return _CASES[name].call(_Sample(batch, size, seed, dtype))


def output_dims() -> Mapping[type[nn.Module], int]:
    """Layers that only transformers has, with the dimension of their weight that holds the outputs."""
    _transformers()
    return {importlib.import_module("transformers.pytorch_utils").Conv1D: 1}
