"""Nine families of transformers, tiny: two layers of twelve heads (Swin: stages of three and six).

They need timm, transformers or torchvision, each imported only by the models that are its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from tests.support import vision
from tests.support.masked_model import normal, token_ids
from tests.support.measure import MakeInputs

_VOCABULARY = 50
_IMAGE = normal(3, 32, 32)
_EOS = 1


@frozen
class Family:
    """One family: its model, the inputs it takes, and inputs of another size where it takes them."""

    build: Callable[[], nn.Module]
    make_inputs: MakeInputs
    other_inputs: MakeInputs | None = None
    needs: tuple[str, ...] = ("torchvision",)


def missing(packages: Iterable[str]) -> tuple[str, ...]:
    """Those of `packages` that are not installed."""
    # Some torchvision wheels can be imported only after this has declared operators for them.
    vision.available()
    return tuple(package for package in packages if importlib.util.find_spec(package) is None)


def timm() -> ModuleType:
    """The package timm, which needs a torchvision that can be imported."""
    vision.torchvision_models()
    import timm

    return timm


def transformers() -> ModuleType:
    """The package transformers; it looks for torchvision too, and must find one that can be imported."""
    vision.available()
    import transformers

    return transformers


def _timm_vit() -> nn.Module:
    return timm().create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=12, num_classes=5
    )


def _timm_swin() -> nn.Module:
    return timm().create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        patch_size=2,
        window_size=4,
        embed_dim=24,
        depths=(2, 2),
        num_heads=(3, 6),
        num_classes=5,
    )


def _torchvision_vit() -> nn.Module:
    return vision.torchvision_models().VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=12, hidden_dim=48, mlp_dim=96, num_classes=5
    )


def _torchvision_swin() -> nn.Module:
    return vision.torchvision_models().SwinTransformer(
        patch_size=[2, 2], embed_dim=24, depths=[2, 2], num_heads=[3, 6], window_size=[4, 4], num_classes=5
    )


def _bert() -> nn.Module:
    config = _config("BertConfig", **_BERT_SIZES, max_position_embeddings=16, num_labels=5)
    return transformers().BertForSequenceClassification(config)


def _hf_vit() -> nn.Module:
    config = _config("ViTConfig", **_BERT_SIZES, image_size=32, patch_size=8, num_labels=5)
    return transformers().ViTForImageClassification(config)


def _gpt2() -> nn.Module:
    config = _config(
        "GPT2Config", n_embd=48, n_layer=2, n_head=12, n_positions=16, bos_token_id=0, eos_token_id=_EOS
    )
    return transformers().GPT2LMHeadModel(config)


def _llama() -> nn.Module:
    config = _config("LlamaConfig", **_BERT_SIZES, num_key_value_heads=6)
    return transformers().LlamaForCausalLM(config)


def _t5() -> nn.Module:
    config = _config("T5Config", d_model=48, d_kv=4, num_layers=2, num_heads=12, d_ff=96)
    return transformers().T5ForConditionalGeneration(config)


class DoubleRMSNorm(nn.Module):
    """RMSNorm as transformers writes it, but for its detour over single precision."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))


def in_double(model: nn.Module) -> nn.Module:
    """`model`, in place, without norms that compute in single precision whatever the dtype."""
    for module in model.modules():
        if type(module).__name__ in ("LlamaRMSNorm", "T5LayerNorm"):
            module.__class__ = DoubleRMSNorm
    return model


class LogitsOnly(nn.Module):
    """A T5 that returns its logits alone: the encoder's states, an output otherwise, keep their width."""

    def __init__(self) -> None:
        super().__init__()
        self.model = _t5()

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, decoder_input_ids=decoder_input_ids).logits


_BERT_SIZES: Mapping[str, int] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "intermediate_size": 96,
}


def _config(kind: str, **options: Any) -> Any:
    # A cache is an output of the attention layers, and would keep their keys and values at full size.
    cache = {} if kind == "ViTConfig" else {"use_cache": False}
    vocabulary = {} if kind == "ViTConfig" else {"vocab_size": _VOCABULARY}
    return getattr(transformers(), kind)(**options, **cache, **vocabulary)


@frozen
class _Text:
    """Keyword arguments of a language model: token ids, and the other arguments it is made with."""

    length: int
    mask: bool = False
    decoder_length: int = 0

    def __call__(self, batch: int, seed: int) -> dict[str, Tensor]:
        arguments = {"input_ids": token_ids(self.length, _VOCABULARY)(batch, seed)}
        if self.mask:
            # Right-padded by one token less for each sample of the batch, never to nothing.
            kept = self.length - torch.arange(batch) % (self.length // 2)
            arguments["attention_mask"] = (torch.arange(self.length) < kept[:, None]).long()
        if self.decoder_length:
            arguments["decoder_input_ids"] = token_ids(self.decoder_length, _VOCABULARY)(batch, seed + 50)
        return arguments


_TIMM, _TRANSFORMERS = ("torchvision", "timm"), ("transformers",)

FAMILIES: Mapping[str, Family] = {
    "timm vit": Family(_timm_vit, _IMAGE, needs=_TIMM),
    "timm swin": Family(_timm_swin, _IMAGE, needs=_TIMM),
    "torchvision vit": Family(_torchvision_vit, _IMAGE),
    "torchvision swin": Family(_torchvision_swin, _IMAGE, normal(3, 48, 48)),
    "bert": Family(_bert, _Text(8, mask=True), _Text(11, mask=True), needs=_TRANSFORMERS),
    "gpt2": Family(_gpt2, _Text(8), _Text(11), needs=_TRANSFORMERS),
    "llama": Family(_llama, _Text(8), _Text(11), needs=_TRANSFORMERS),
    "t5": Family(_t5, _Text(8, decoder_length=6), _Text(11, decoder_length=9), needs=_TRANSFORMERS),
    "hf vit": Family(_hf_vit, _IMAGE, needs=_TRANSFORMERS),
}
HIDDEN_FAMILIES: Mapping[str, Family] = {
    **FAMILIES,
    "t5": evolve(FAMILIES["t5"], build=LogitsOnly),
}
"""The families as far as their residual stream is concerned: none of it is an output."""

# torchvision's Swin computes the scale of its attention from the hidden size, which therefore stays.
STAYS = frozenset({"torchvision swin"})

_THIRD = (2, 3, 8, 9)
HEADS_DROPPED: Mapping[str, tuple[int, ...]] = {kind: (1,) if "swin" in kind else _THIRD for kind in FAMILIES}
"""A third of each family's heads: four of twelve, or one of three. In the Llama, two whole groups of two."""

CHANNELS_DROPPED = (0, 3, 5, 6)
"""Channels to drop from residual streams of 48 (Swin: of the first stage's 24)."""
