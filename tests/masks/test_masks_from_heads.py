"""Heads are found in the projections of nine families of transformers, and of modules of other makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import MaskTargetError, MaskValueError, UnknownNameError, masks_from_heads, plan_speedup
from speedup.masks import resolve_masks
from tests.support.attention import HEADS, head_masks
from tests.support.attention_models import FAMILIES, HEADS_DROPPED, missing

_ATTENTION = {
    "timm vit": "attn",
    "timm swin": "attn",
    "torchvision vit": "self_attention",
    "torchvision swin": "attn",
    "bert": "attention",
    "gpt2": "attn",
    "llama": "self_attn",
    "t5": "SelfAttention EncDecAttention",
    "hf vit": "attention",
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_heads_of_a_family_are_those_of_its_architecture(kind: str) -> None:
    if absent := missing(FAMILIES[kind].needs):
        pytest.skip(f"needs {', '.join(absent)}")
    model = FAMILIES[kind].build()
    # Deeper stages of a Swin have more heads, of which the others are parts.
    counted = HEADS[kind][0].heads
    drop = {
        path: [
            h for h in range(_heads(kind, path)) if h * counted // _heads(kind, path) in HEADS_DROPPED[kind]
        ]
        for path, _ in model.named_modules()
        if path.rpartition(".")[2] in _ATTENTION[kind].split()
    }

    masks = masks_from_heads(model, drop)

    assert drop
    expected = resolve_masks(model, head_masks(model, kind, HEADS_DROPPED[kind]))
    assert set(masks) == set(expected)
    for name, mask in resolve_masks(model, masks).items():
        shape = model.get_parameter(name).shape
        assert torch.equal(mask.expand(shape), expected[name].expand(shape)), name


def _heads(kind: str, path: str) -> int:
    if "swin" not in kind:
        return 12
    return 3 if path.startswith(("layers.0.", "features.1.")) else 6


class _Attention(nn.Module):
    """Projections under given names, as wide as given; never called."""

    def __init__(self, heads: int | None, **widths: int) -> None:
        super().__init__()
        if heads is not None:
            self.num_heads = heads
        for name, width in widths.items():
            self.add_module(name, nn.Linear(8, width))


def _gone(mask: Tensor, dim: int = 0) -> list[int]:
    assert mask.dtype is torch.bool
    assert mask.numel() == mask.shape[dim]
    return (~mask.flatten()).nonzero().flatten().tolist()


def test_a_key_head_goes_with_all_the_query_heads_that_share_it() -> None:
    model = nn.Sequential(_Attention(4, q_proj=8, k_proj=4, v_proj=4, o_proj=8))

    masks = masks_from_heads(model, {"0": [0, 2, 3]})

    assert _gone(masks["0.q_proj.weight"]) == [0, 1, 4, 5, 6, 7]
    assert _gone(masks["0.k_proj.weight"]) == _gone(masks["0.v_proj.bias"]) == [2, 3]
    assert _gone(masks["0.o_proj.weight"], 1) == [0, 1, 4, 5, 6, 7]
    assert "0.o_proj.bias" not in masks


def test_packed_keys_that_are_shared_follow_the_queries() -> None:
    attention: Any = _Attention(4, qkv_proj=16)
    attention.num_key_value_heads = 2

    masks = masks_from_heads(attention, {"": [0, 1]})

    assert _gone(masks["qkv_proj.weight"]) == [0, 1, 2, 3, 8, 9, 12, 13]


def test_rows_that_are_packed_head_by_head_go_head_by_head() -> None:
    attention: Any = _Attention(2, qkv=12)
    attention.head_first = True

    assert _gone(masks_from_heads(attention, {"": [1]})["qkv.bias"]) == [6, 7, 8, 9, 10, 11]


def test_biases_beside_the_projection_are_masked() -> None:
    attention: Any = _Attention(2, qkv=12)
    attention.q_bias, attention.v_bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))

    masks = masks_from_heads(attention, {"": [0]})

    assert _gone(masks["q_bias"]) == _gone(masks["v_bias"]) == [0, 1]


def test_projections_of_other_widths_in_torch_attention_are_found() -> None:
    attention = nn.MultiheadAttention(8, 4, kdim=6, vdim=5, add_bias_kv=True)

    masks = masks_from_heads(attention, {"": [3]})

    assert _gone(masks["k_proj_weight"]) == _gone(masks["v_proj_weight"]) == [6, 7]
    assert _gone(masks["bias_v"], 2) == [6, 7]
    assert _gone(masks["in_proj_bias"]) == [6, 7, 14, 15, 22, 23]
    assert _gone(masks["out_proj.weight"], 1) == [6, 7]


def test_cross_attention_packs_keys_and_values_only() -> None:
    attention = _Attention(2, q_attn=4, c_attn=8, c_proj=4)

    masks = masks_from_heads(attention, {"": [1]})

    assert _gone(masks["q_attn.weight"]) == [2, 3]
    assert _gone(masks["c_attn.weight"]) == [2, 3, 6, 7]


def test_heads_that_are_not_stated_are_asked_for() -> None:
    model = nn.Sequential(_Attention(None, to_q=6, to_k=6, to_v=6))

    with pytest.raises(MaskTargetError, match=r"does not state how many.*Pass heads=\{'0': number\}"):
        masks_from_heads(model, {"0": [0]})

    assert _gone(masks_from_heads(model, {"0": [0]}, heads=3)["0.to_k.weight"]) == [0, 1]
    assert _gone(masks_from_heads(model, {"0": [0]}, heads={"0": 2})["0.to_k.weight"]) == [0, 1, 2]


_TWO = nn.ModuleDict({"a": _Attention(2, q=4, k=4, v=4), "b": _Attention(2, q=4, k=4, v=4)})


@pytest.mark.parametrize(
    ("drop", "heads", "kind", "says"),
    [
        ({"c": [0]}, None, UnknownNameError, "no module 'c'"),
        ({"": [0]}, None, MaskTargetError, "2 attention modules. Name one of 'a', 'b'"),
        ({"a.q": [0]}, None, MaskTargetError, "this Linear has no projections"),
        ({"a": [2]}, None, MaskValueError, "no head 2. It has 2"),
        ({"a": [-1]}, None, MaskValueError, "no head -1"),
        ({"a": [0]}, 3, MaskTargetError, "3 heads do not divide its projections (a.q.weight has 4"),
    ],
)
def test_what_cannot_be_found_is_named(drop: Any, heads: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught:
        masks_from_heads(_TWO, drop, heads=heads)
    assert says in str(caught.value)


def test_no_heads_make_no_masks() -> None:
    assert masks_from_heads(_TWO, {"a": []}) == {}


def test_heads_of_torch_attention_go() -> None:
    model = nn.TransformerEncoderLayer(8, 4, 16, dropout=0.0, batch_first=True)

    plan = plan_speedup(model, torch.randn(2, 5, 8), masks_from_heads(model, {"self_attn": [0, 2]}))

    (layer,) = (one for one in plan.layers if one.path == "self_attn")
    assert layer.parameters_after == 3 * 4 * 8 + 3 * 4
