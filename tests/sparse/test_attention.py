"""Projections that attention has packed can be sparse, and are put back as they were."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from speedup import Plan, apply_masks, load, materialize, plan_speedup, save, tune
from speedup.sparse.applying import dense_model, unpacked_model
from speedup.sparse.layers import SparseLinear
from tests.support.sparse import blocky, chosen_everywhere


class Block(nn.Module):
    """Attention to itself, to another sequence, and a layer."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(32, 4, bias=bias, batch_first=True)
        self.cross = nn.MultiheadAttention(32, 4, bias=bias, batch_first=True)
        self.last = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.own(x, x, x, need_weights=False)[0]
        other = x.flip(1)
        out: Tensor = self.last(x + self.cross(x, other, other)[0])
        return out


def thin_block(bias: bool = True) -> Block:
    model = Block(bias).double().eval()
    with torch.no_grad():
        for attention in (model.own, model.cross):
            assert attention.in_proj_weight is not None
            attention.in_proj_weight.mul_(torch.rand(96, 32) > 0.8)
            blocky(attention.out_proj, 8)
            if attention.in_proj_bias is not None:
                attention.in_proj_bias.normal_()
    return model


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def plan(request: pytest.FixtureRequest) -> Plan:
    return plan_speedup(thin_block(request.param), torch.randn(2, 5, 32, dtype=torch.float64))


def test_sparse_projections_compute_what_the_masked_ones_do(plan: Plan) -> None:
    small = materialize(plan, choices=chosen_everywhere(plan))
    for name in ("own.in_proj", "own.out_proj", "cross.in_proj", "cross.out_proj"):
        assert isinstance(small.get_submodule(name), SparseLinear)
    assert not any("in_proj_weight" in name for name, _ in small.named_parameters())
    masked = apply_masks(plan.subject.planned_model(), plan.subject.masks).eval()
    for one in (small, copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        x = torch.randn(3, 7, 32, dtype=torch.float64)
        torch.testing.assert_close(one(x), masked(x), rtol=1e-11, atol=1e-11)


def test_a_model_that_is_itself_attention_has_sparse_projections() -> None:
    model = thin_block().own
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    plan = plan_speedup(model, (x, x, x))
    small = materialize(plan, choices=chosen_everywhere(plan))
    assert isinstance(small.get_submodule("in_proj"), SparseLinear)
    torch.testing.assert_close(small(x, x, x)[0], model(x, x, x)[0], rtol=1e-11, atol=1e-11)


def test_projections_are_measured_by_themselves(plan: Plan) -> None:
    choices = tune(plan, rounds=2, seconds=1e-4)
    assert {layer.path: layer.calls for layer in choices.layers} == {
        "own.in_proj": 1, "own.out_proj": 1, "cross.in_proj": 2, "cross.out_proj": 1,
    }  # fmt: skip
    assert all(layer.candidates for layer in choices.layers)


def test_dense_attention_is_the_one_of_torch_again(plan: Plan) -> None:
    sparse, small = materialize(plan, choices=chosen_everywhere(plan)), materialize(plan)
    again = dense_model(sparse)
    assert repr(again) == repr(small)
    state = small.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    for one, other in zip(again.modules(), small.modules(), strict=True):
        assert type(one) is type(other) and set(vars(one)) == set(vars(other))
    assert isinstance(sparse.get_submodule("own.in_proj"), SparseLinear)


def test_attention_that_lost_heads_keeps_its_class() -> None:
    model = thin_block()
    masks = {"own.in_proj_weight": torch.ones(96, 32, dtype=torch.bool)}
    masks["own.in_proj_weight"][64:72] = False
    masks["own.in_proj_bias"] = masks["own.in_proj_weight"][:, 0].clone()
    plan = plan_speedup(model, torch.randn(2, 5, 32, dtype=torch.float64), masks)
    small = materialize(plan)
    again = dense_model(materialize(plan, choices=chosen_everywhere(plan)))
    assert type(again.own) is type(small.own) is not nn.MultiheadAttention
    assert {*again.state_dict()} == {*small.state_dict()}


def test_unpacking_leaves_the_model_alone() -> None:
    model = thin_block()
    before = repr(model), [*model.state_dict()]
    assert {"own.in_proj.weight", "own.in_proj.bias"} <= {*unpacked_model(model).state_dict()}
    assert (repr(model), [*model.state_dict()]) == before


def test_saved_projections_come_back_sparse(plan: Plan, tmp_path: Path) -> None:
    small = materialize(plan, choices=chosen_everywhere(plan))
    save(small, plan, tmp_path / "small.safetensors")
    has_bias = "own.in_proj.bias" in small.state_dict()
    again = load(tmp_path / "small.safetensors", lambda: Block(has_bias).double())
    assert repr(again) == repr(small) and [*again.state_dict()] == [*small.state_dict()]
    x = torch.randn(3, 5, 32, dtype=torch.float64)
    assert torch.equal(again(x), small(x))


def test_encoders_of_torch_do_not_cut_padded_sequences() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2).eval()
    with torch.no_grad():
        for layer in encoder.layers:
            attention = layer.self_attn
            assert isinstance(attention, nn.MultiheadAttention) and attention.in_proj_weight is not None
            attention.in_proj_weight.mul_(torch.rand(96, 32) > 0.8)
    x, padding = torch.randn(3, 6, 32), torch.arange(6) > torch.tensor([[3], [5], [5]])
    plan = plan_speedup(encoder, x)
    small = materialize(plan, choices=chosen_everywhere(plan))
    assert isinstance(small.get_submodule("layers.0.self_attn.in_proj"), SparseLinear)
    with torch.no_grad():
        found, wanted = (model(x, src_key_padding_mask=padding) for model in (small, encoder))
    torch.testing.assert_close(found[~padding], wanted[~padding], rtol=1e-4, atol=1e-5)
