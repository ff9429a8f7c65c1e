"""Models of x-transformers: its options one by one, two blocks deep."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from tests.support.third_party.case import Case, images, read_only, several, tokens, volumes

_WORDS, _LENGTH = 50, 16
_LAYERS = {"dim": 64, "depth": 2, "heads": 4, "attn_dim_head": 16}
# Beside `_LAYERS`; all of decoders.
_OPTIONS: Mapping[str, dict[str, Any]] = {
    "plain": {},
    "rotary": {"rotary_pos_emb": True},
    "alibi": {"alibi_pos_bias": True},
    "t5 bias": {"rel_pos_bias": True},
    "rmsnorm, swiglu": {"use_rmsnorm": True, "ff_swish": True, "ff_glu": True},
    "grouped queries": {"attn_kv_heads": 2},
    "one key": {"attn_one_kv_head": True},
    "qk norm": {"attn_qk_norm": True},
    "gated residual": {"gate_residual": True},
    "macaron": {"macaron": True},
    "sandwich norm": {"sandwich_norm": True},
    "scalenorm, relu squared": {"use_scalenorm": True, "ff_relu_squared": True},
    "gated values": {"attn_gate_values": True},
    "flash": {"attn_flash": True},
    "shifted tokens": {"shift_tokens": 1},
}


def _decoder(options: Mapping[str, Any]) -> nn.Module:
    library = importlib.import_module("x_transformers")
    layers = library.Decoder(**_LAYERS, **options)
    model = library.TransformerWrapper(num_tokens=_WORDS, max_seq_len=2 * _LENGTH, attn_layers=layers)
    assert isinstance(model, nn.Module)
    return model


def _vision() -> nn.Module:
    library = importlib.import_module("x_transformers")
    model = library.ViTransformerWrapper(
        image_size=32, patch_size=8, num_classes=10, attn_layers=library.Encoder(**_LAYERS)
    )
    assert isinstance(model, nn.Module)
    return model


def _continuous() -> nn.Module:
    library = importlib.import_module("x_transformers")
    model = library.ContinuousTransformerWrapper(
        dim_in=8, dim_out=8, max_seq_len=2 * _LENGTH, attn_layers=library.Encoder(**_LAYERS)
    )
    assert isinstance(model, nn.Module)
    return model


class _Crossed(nn.Module):
    """An encoder and a decoder that looks at it: two sequences of tokens to scores."""

    def __init__(self) -> None:
        super().__init__()
        library = importlib.import_module("x_transformers")
        wrap = partial(library.TransformerWrapper, num_tokens=_WORDS, max_seq_len=2 * _LENGTH)
        self.encoder = wrap(attn_layers=library.Encoder(**_LAYERS))
        self.decoder = wrap(attn_layers=library.Decoder(**_LAYERS, cross_attend=True))

    def forward(self, source: Any, target: Any) -> Any:
        return self.decoder(target, context=self.encoder(source, return_embeddings=True))


CASES: Mapping[str, Case] = read_only(
    (
        *(
            (name, Case(partial(_decoder, options), tokens(_WORDS, _LENGTH)))
            for name, options in _OPTIONS.items()
        ),
        ("vision", Case(_vision, images(32))),
        # Numbers come in features of (batch, length, 8).
        ("continuous", Case(_continuous, volumes(_LENGTH, 8))),
        ("crossed", Case(_Crossed, several(tokens(_WORDS, _LENGTH), tokens(_WORDS, _LENGTH)))),
    )
)
