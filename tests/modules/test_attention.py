"""`speedup.attention.MultiheadAttention` against the class it stands for, and as part of small models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import apply_masks, materialize, plan_speedup
from speedup.modules.attention import MultiheadAttention
from tests.support.contract import shrunk
from tests.support.measure import relative_error

HEADS = [*range(4), *range(8, 12), *range(16, 20)]


def adopted(module: nn.MultiheadAttention) -> nn.MultiheadAttention:
    found = copy.deepcopy(module)
    MultiheadAttention.adopt(found)
    return found


def filled(*args: Any, **kwargs: Any) -> nn.MultiheadAttention:
    module = nn.MultiheadAttention(*args, **kwargs).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


KEY = torch.tensor([[False, False, True, False, True], [False] * 5])
CAUSAL = torch.triu(torch.ones(4, 5, dtype=torch.bool), 2)
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "without weights": {"need_weights": False},
    "weights of each head": {"average_attn_weights": False},
    "padding": {"key_padding_mask": KEY},
    "additive padding": {"key_padding_mask": KEY.double() * -3},
    "mask": {"attn_mask": CAUSAL},
    "additive mask": {"attn_mask": torch.arange(20.0).double().reshape(4, 5)},
    "mask of each head": {"attn_mask": torch.arange(80).reshape(4, 4, 5) % 3 == 1},
    "both": {"attn_mask": CAUSAL, "key_padding_mask": KEY, "need_weights": False},
}
MODULES: dict[str, dict[str, Any]] = {
    "packed": {},
    "without bias": {"bias": False},
    "other widths": {"kdim": 6, "vdim": 10},
}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("call", CALLS)
def test_it_computes_what_torch_does(call: str, module: str, batch_first: bool) -> None:
    own = filled(8, 2, batch_first=batch_first, **MODULES[module])
    tensors = [drawn(2, n, w) for n, w in ((4, 8), (5, own.kdim), (5, own.vdim))]
    given = tensors if batch_first else [t.transpose(0, 1) for t in tensors]
    for train in (False, True):
        own.train(train)
        want, have = own(*given, **CALLS[call]), adopted(own)(*given, **CALLS[call])
        torch.testing.assert_close(have, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batched", [True, False])
def test_it_computes_what_torch_does_of_one_tensor(batched: bool) -> None:
    own = filled(8, 2, batch_first=True)
    x = drawn(3, 5, 8) if batched else drawn(5, 8)
    torch.testing.assert_close(adopted(own)(x, x, x), own(x, x, x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("change", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_extra_keys_are_not_taken_over(change: dict[str, bool]) -> None:
    assert not MultiheadAttention.can_adopt(nn.MultiheadAttention(8, 2, **change))
    assert MultiheadAttention.can_adopt(nn.MultiheadAttention(8, 2))
    assert not MultiheadAttention.can_adopt(nn.Linear(8, 2))


class Own(nn.MultiheadAttention):
    """A class of the user's."""


def test_a_class_of_the_users_is_not_taken_over() -> None:
    assert not MultiheadAttention.can_adopt(Own(8, 2))
    assert not MultiheadAttention.can_adopt(adopted(nn.MultiheadAttention(8, 2)))


class Attending(nn.Module):
    def __init__(self, batch_first: bool, weights: bool, **kwargs: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first, **kwargs)
        self.batch_first, self.weights = batch_first, weights

    def forward(self, x: Tensor) -> Any:
        given = x if self.batch_first else x.transpose(0, 1)
        found, weights = self.attention(given, given, given, need_weights=self.weights)
        return (found if self.batch_first else found.transpose(0, 1)), weights


def sequences(batch: int) -> Tensor:
    return drawn(batch, 5, 8)


def masked_rows(rows: list[int], bias: bool) -> dict[str, Tensor]:
    masks = {"in_proj_weight": torch.ones(24, 8)} | ({"in_proj_bias": torch.ones(24)} if bias else {})
    for mask in masks.values():
        mask[rows] = 0
    return masks


PARTS = {
    "head": HEADS,
    "width of all": [0, 4, 8, 12, 16, 20],
    "width of values": [16, 20],
    "width of queries and keys": [1, 5, 9, 13],
    "queries only": [0, 1, 2, 3],
    "values of one head": [16, 17, 18, 19],
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("part", PARTS)
def test_heads_and_widths_go_exactly(part: str, batch_first: bool, bias: bool) -> None:
    """Weights of the attention are averaged over all heads, so they are not asked for."""
    model = Attending(batch_first, False, bias=bias)
    _, small = shrunk(model, sequences, masks={"attention": masked_rows(PARTS[part], bias)})
    assert small.attention.in_proj_weight.shape[0] <= 24
    if part == "head":
        assert (small.attention.num_heads, small.attention.in_proj_weight.shape[0]) == (1, 12)


@pytest.mark.parametrize("bias", [True, False])
def test_values_of_a_replaced_module_get_narrower_than_its_keys(bias: bool) -> None:
    model = Attending(True, False, bias=bias)
    MultiheadAttention.adopt(model.attention)
    _, small = shrunk(model, sequences, masks={"attention": masked_rows(PARTS["width of values"], bias)})
    assert (small.attention.head_dim, small.attention.value_head_dim) == (4, 3)
    assert small.attention.in_proj_weight.shape[0] == 8 + 8 + 6


def test_attention_weights_that_are_returned_count_all_heads() -> None:
    model = Attending(True, True)
    _, small = shrunk(model, sequences, masks={"attention": masked_rows(HEADS, True)})
    assert small.attention.num_heads == 2


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_encoders_shrink_exactly(norm_first: bool, nested: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested and not norm_first)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    masks: dict[str, dict[str, Tensor]] = {"layers.0.self_attn": masked_rows(HEADS, True)}
    masks["layers.1.linear1"] = {"weight": torch.ones(16, 8), "bias": torch.ones(16)}
    for mask in masks["layers.1.linear1"].values():
        mask[:5] = 0
    _, small = shrunk(model, sequences, masks=masks)
    assert small.layers[0].self_attn.num_heads == 1
    assert small.layers[1].linear1.out_features == 11
    assert type(small.layers[1].self_attn) is nn.MultiheadAttention


def test_encoder_with_an_even_number_of_heads_left_stays_exact() -> None:
    """Only with such a number would torch run the layer as one fused operator."""
    layer = nn.TransformerEncoderLayer(8, 4, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    _, small = shrunk(model, sequences, masks={"layers.0.self_attn": masked_rows(HEADS, True)})
    assert small.layers[0].self_attn.num_heads == 2


class Cross(nn.Module):
    def __init__(self, padded: bool) -> None:
        super().__init__()
        self.padded = padded
        self.attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)

    def forward(self, x: Tensor, padding: Tensor) -> Any:
        found, _ = self.attention(
            x, x[..., :6], x[..., 4:], padding if self.padded else None, need_weights=False
        )
        return found


@pytest.mark.parametrize("padded", [False, True])
def test_heads_of_cross_attention_go_with_and_without_padding(padded: bool) -> None:
    model = Cross(padded).double().eval()
    keep = torch.ones(8, 1)
    keep[4:] = 0
    weights = {n: getattr(model.attention, f"{n}_proj_weight") for n in "qkv"}
    masks = {f"attention.{n}_proj_weight": keep.expand_as(w) for n, w in weights.items()}
    masks["attention.in_proj_bias"] = keep.reshape(-1).repeat(3)
    padding = torch.tensor([[False, True, False, False, True]])
    plan = plan_speedup(model, (sequences(2), padding.repeat(2, 1)), masks)
    small, masked = materialize(plan).eval(), apply_masks(model, masks).eval()
    assert small.get_submodule("attention").num_heads == 1
    for batch in (1, 3):
        calls = [(sequences(batch), padding.repeat(batch, 1)) for _ in range(3)]
        assert relative_error(masked, small, calls) < 1e-10
