"""Tiny language models that decode with a cache, and the same with the cache as plain tensors.

The cache that transformers hands on is an object. A model is planned for its prefill and its steps either as
it is, with such an object in the call, or inside a `Decoder` or `EncoderDecoder`, called with tensors only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from attrs import frozen
from torch import Tensor, nn

from tests.support.attention_models import in_double, transformers
from tests.support.masked_model import Cut, MaskedModel, masked_model, masks_of, normal, token_ids
from tests.support.transformers_cases import VOCABULARY
from tests.support.transformers_text import ENCODER_DECODER, TINY

Call: TypeAlias = dict[str, Any]
Past: TypeAlias = tuple[tuple[Tensor, ...], ...]

TOKENS = token_ids(5, VOCABULARY)
_FRAMES = 40


class Decoder(nn.Module):
    """Takes tokens and the keys and values of each layer so far; returns logits, and the longer ones."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        cache = None if past is None else transformers().DynamicCache(past)
        output = self.model(input_ids=input_ids, past_key_values=cache, use_cache=True)
        return output.logits, tuple((layer.keys, layer.values) for layer in output.past_key_values.layers)


class EncoderDecoder(nn.Module):
    """Takes what the encoder reads, or `states` that it made, with the tokens of the decoder.

    `past` holds keys and values of each layer's own attention, then of its attention to the encoder.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        inputs: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        states: Tensor | None = None,
        past: Past | None = None,
    ) -> tuple[Tensor, Tensor, Past]:
        if states is None:
            source: Call = {str(self.model.main_input_name): inputs}
        else:
            source = {"encoder_outputs": transformers().modeling_outputs.BaseModelOutput(states)}
        cache = None if past is None else transformers().EncoderDecoderCache(past)
        output = self.model(
            **source, decoder_input_ids=decoder_input_ids, past_key_values=cache, use_cache=True
        )
        cache = output.past_key_values
        both = zip(cache.self_attention_cache.layers, cache.cross_attention_cache.layers, strict=True)
        present = tuple((own.keys, own.values, other.keys, other.values) for own, other in both)
        return output.logits, output.encoder_last_hidden_state, present


def _gpt2() -> nn.Module:
    return _built("GPT2", n_embd=32, n_layer=2, n_head=4, n_inner=48, n_positions=40, head="LMHeadModel")


def _llama() -> nn.Module:
    return _built("Llama", **TINY, num_key_value_heads=2, head_dim=8, head="ForCausalLM")


def _t5() -> nn.Module:
    sizes: Call = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return _built("T5", **sizes, decoder_start_token_id=0)


def _whisper() -> nn.Module:
    lengths: Call = {"num_mel_bins": 8, "max_source_positions": _FRAMES // 2, "max_target_positions": 40}
    options: Call = {**ENCODER_DECODER, **lengths, "use_cache": True}
    return _built("Whisper", **options)


def _built(family: str, head: str = "ForConditionalGeneration", **options: Any) -> nn.Module:
    library = transformers()
    # No token ends a text, so that all that is generated has the same length.
    tokens = {"vocab_size": VOCABULARY, "bos_token_id": 1, "pad_token_id": 0, "eos_token_id": None}
    config = getattr(library, f"{family}Config")(**options | tokens)
    return in_double(getattr(library, f"{family}{head}")(config))


def _rows(pattern: str, *indices: int, dim: int = 0) -> tuple[str, int, tuple[int, ...]]:
    return pattern, dim, indices


_HEAD = tuple(range(8, 16))
_PACKED_HEAD = tuple(part * 32 + row for part in range(3) for row in _HEAD)


@frozen
class Decoding:
    """One family.

    Attributes:
        build: makes the model.
        masked: suffixes of parameters, the dimension and the indices that are masked: a head of every
            attention layer, and some of each feed-forward layer.
        hidden: suffixes of the parameters that make the feed-forward layers' features, and how many are
            left, along the same dimension.
        encodes: what the encoder reads, by batch size and seed, if there is one.
    """

    build: Callable[[], nn.Module]
    masked: tuple[tuple[str, int, tuple[int, ...]], ...]
    hidden: Mapping[str, tuple[int, int]]
    encodes: Callable[[int, int], Tensor] | None = None

    def recipe(self, model: nn.Module) -> dict[str, dict[str, Tensor]]:
        """The masks, for the model or one that holds it."""
        return masks_of(
            model,
            tuple(
                Cut(name, dim, indices)
                for name, _ in model.named_parameters()
                for suffix, dim, indices in self.masked
                if name.endswith(suffix)
            ),
        )

    def model(self) -> MaskedModel:
        """The model as it is, called by keywords."""
        return masked_model(self.build(), self.recipe, self.plain_call)

    def plain_call(self, batch: int, seed: int) -> Call:
        """A call of the model itself without a cache."""
        assert self.encodes is None
        return {"input_ids": TOKENS(batch, seed)}

    def wrapped(self) -> MaskedModel:
        """The model in a module that takes and returns its cache as tensors."""
        wrapper = Decoder if self.encodes is None else EncoderDecoder
        return masked_model(wrapper(self.build()), self.recipe, self.prefill)

    def prefill(self, batch: int, seed: int, length: int = 5) -> Call:
        """A call of the wrapped model with `length` tokens and no cache."""
        tokens = token_ids(length, VOCABULARY)(batch, seed)
        if self.encodes is None:
            return {"input_ids": tokens}
        return {"inputs": self.encodes(batch, seed), "decoder_input_ids": tokens}

    def step(self, wrapped: nn.Module, batch: int, seed: int, length: int = 5) -> Call:
        """A call with one token more than `length`, whose keys and values `wrapped` has made."""
        with torch.no_grad():
            output = wrapped(**self.prefill(batch, seed, length))
        return self.next(output, token_ids(1, VOCABULARY)(batch, seed + 1))

    def next(self, output: tuple[Any, ...], tokens: Tensor) -> Call:
        """The call with `tokens` that follows one which returned `output`."""
        if self.encodes is None:
            return {"input_ids": tokens, "past": output[1]}
        return {"decoder_input_ids": tokens, "states": output[1], "past": output[2]}


DECODING: Mapping[str, Decoding] = MappingProxyType(
    {
        "gpt2": Decoding(
            _gpt2,
            (
                _rows("c_attn.weight", *_PACKED_HEAD, dim=1),
                _rows("c_attn.bias", *_PACKED_HEAD),
                _rows("c_fc.weight", 0, 5, 11, dim=1),
                _rows("c_fc.bias", 5),
            ),
            {"c_fc.weight": (1, 45)},
        ),
        "llama": Decoding(
            _llama,
            (
                _rows("q_proj.weight", *range(16, 32)),
                *(_rows(f"{name}_proj.weight", *_HEAD) for name in "kv"),
                _rows("gate_proj.weight", 0, 5, 11),
                _rows("up_proj.weight", 3),
            ),
            {"gate_proj.weight": (0, 44), "up_proj.weight": (0, 44)},
        ),
        "t5": Decoding(
            _t5,
            (*(_rows(f"Attention.{name}.weight", *_HEAD) for name in "qkv"), _rows("wi.weight", 0, 5, 11)),
            {"wi.weight": (0, 45)},
            token_ids(7, VOCABULARY),
        ),
        "whisper": Decoding(
            _whisper,
            (
                *(_rows(f"{name}_proj.weight", *_HEAD) for name in "qkv"),
                *(_rows(f"{name}_proj.bias", *_HEAD) for name in "qv"),
                _rows("fc1.weight", 0, 5, 11),
                _rows("fc1.bias", 5),
            ),
            {"fc1.weight": (0, 45)},
            normal(8, _FRAMES),
        ),
    }
)
