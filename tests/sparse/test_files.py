"""Small models with sparse weights are saved as such, and come back bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from speedup import Plan, SavedModelError, load, materialize, plan_speedup, save
from speedup._stable import SPARSE_KEY
from speedup.sparse.layers import SparseConv1D, SparseLinear
from speedup.sparse.weight import SparseModule
from tests.support.sparse import blocky, chosen_everywhere, conv1d, thinned


class Net(nn.Module):
    """A convolution, a layer with single zeros, a layer with blocks that no one sees."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Conv2d(16, 32, 1)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.point(x).relu().mean((2, 3))
        out: torch.Tensor = x + self.down(self.up(x).relu())
        return out


@pytest.fixture
def plan() -> Plan:
    model = Net().eval()
    thinned(model.point, 0.8)
    thinned(model.up, 0.8)
    blocky(model.down, 8)
    model.up.weight.requires_grad_(False)
    return plan_speedup(model, torch.randn(2, 16, 3, 3), reparametrized="keep")


@pytest.fixture
def small(plan: Plan) -> nn.Module:
    found = materialize(plan, choices=chosen_everywhere(plan))
    assert "weight_row_order" in found.get_submodule("down").state_dict()
    return found


def test_a_saved_model_comes_back_sparse_and_the_same_to_the_bit(
    plan: Plan, small: nn.Module, tmp_path: Path
) -> None:
    save(small, plan, tmp_path / "small.safetensors")
    again = load(tmp_path / "small.safetensors", Net)
    assert repr(again) == repr(small)
    x = torch.randn(3, 16, 3, 3)
    assert torch.equal(again(x), small(x))
    for model in (again, small):
        flags = [module.trainable for module in model.modules() if isinstance(module, SparseModule)]
        assert flags == [True, False, True]


def test_transposed_weights_come_back_too(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(conv1d(32, 64), nn.ReLU(), conv1d(64, 16))

    model = make().eval()
    thinned(model.get_submodule("0"), 0.8)
    blocky(model.get_submodule("2"), 8)
    plan = plan_speedup(model, torch.randn(2, 32))
    small = materialize(plan, choices=chosen_everywhere(plan))
    assert [type(layer) for layer in small.children()] == [SparseConv1D, nn.ReLU, SparseConv1D]
    save(small, plan, tmp_path / "small.safetensors")
    again = load(tmp_path / "small.safetensors", make)
    x = torch.randn(3, 32)
    assert repr(again) == repr(small) and torch.equal(again(x), small(x))


def test_a_file_is_smaller_than_that_of_dense_weights(tmp_path: Path) -> None:
    model = thinned(nn.Linear(256, 256).eval(), 0.7)
    plan = plan_speedup(model, torch.randn(2, 256))
    save(materialize(plan), plan, tmp_path / "dense.safetensors")
    save(materialize(plan, choices=chosen_everywhere(plan)), plan, tmp_path / "sparse.safetensors")
    assert isinstance(load(tmp_path / "sparse.safetensors", lambda: nn.Linear(256, 256)), SparseLinear)
    dense, sparse = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("dense", "sparse"))
    assert sparse < 0.75 * dense


def test_files_of_dense_models_are_as_before(plan: Plan, tmp_path: Path) -> None:
    save(materialize(plan), plan, tmp_path / "small.safetensors")
    with safe_open(tmp_path / "small.safetensors", "pt") as file:
        assert SPARSE_KEY not in file.metadata()


@pytest.mark.parametrize(
    "name", ["up.weight_columns", "up.weight_pointers", "down.weight_row_order", "up.weight_values"]
)
def test_damaged_pieces_are_refused(plan: Plan, small: nn.Module, name: str, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save(small, plan, path)
    with safe_open(path, "pt") as file:
        texts = file.metadata()
    state = load_file(path)
    state[name] = state[name][:-1] if name.endswith("values") else state[name].add(7)
    save_file(state, path, texts)
    with pytest.raises(SavedModelError, match="contradicts itself"):
        load(path, Net)


def test_records_of_other_layers_are_refused(plan: Plan, small: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save(small, plan, path)
    with safe_open(path, "pt") as file:
        texts = file.metadata()
    records = json.loads(texts[SPARSE_KEY])
    for text, said in (
        ("{", "cannot be read"),
        (json.dumps([{**records[0], "kernel": "fast"}]), "does not know"),
        (json.dumps(records[1:]), "point.weight' is missing"),
        (json.dumps([{**records[0], "shape": [16, 32, 1, 1]}, *records[1:]]), "of shape"),
    ):
        save_file(load_file(path), path, {**texts, SPARSE_KEY: text})
        with pytest.raises(SavedModelError, match=said):
            load(path, Net)
