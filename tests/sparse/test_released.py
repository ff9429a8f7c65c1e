"""Sparse models and choices that releases have written are read, and are what they were."""

from __future__ import annotations

import pickle
import pickletools

import pytest
import torch
from torch import Tensor, nn

from speedup import Choices, apply_masks, load, load_plan
from speedup.sparse.layers import SparseConv2d, SparseLinear
from speedup.sparse.weight import SparseModule
from tests.support.repository import DATA

FOLDER = DATA / "sparse_1"


class Thin(nn.Module):
    """A 1 x 1 convolution and two linear layers, the second in blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Conv2d(8, 16, 1)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(x).relu().mean((2, 3))
        out: Tensor = x + self.down(self.up(x).relu())
        return out


def thin_model() -> Thin:
    """Always with the same weights, about 70% of which are zero."""
    model = Thin().double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for layer in (model.point, model.up):
            layer.weight.mul_(torch.rand(layer.weight.shape, generator=generator) > 0.7)
        blocks = torch.tensor([[1, 0, 0], [0, 1, 1]]).repeat_interleave(8, 0).repeat_interleave(8, 1)
        model.down.weight.mul_(blocks[torch.randperm(16, generator=generator)])
    return model


def test_saved_model_computes_what_the_planned_one_does() -> None:
    small, model = load(FOLDER / "small.safetensors", lambda: Thin().double()), thin_model()
    kinds = [type(small.get_submodule(path)) for path in ("point", "up", "down")]
    assert kinds == [SparseConv2d, SparseLinear, SparseLinear]
    assert "down.weight_row_order" in small.state_dict()
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    masked = apply_masks(model, load_plan(FOLDER / "small.safetensors").subject.masks)
    torch.testing.assert_close(small(x), masked(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_pickled_layers_compute_what_they_did(name: str) -> None:
    layer = pickle.loads((FOLDER / f"{name}.pickle").read_bytes())
    assert isinstance(layer, SparseModule)
    own = thin_model().get_submodule({"linear": "down", "convolution": "point"}[name])
    x = torch.randn(3, *((24,) if name == "linear" else (8, 4, 4)), dtype=torch.float64)
    torch.testing.assert_close(layer(x), own(x), rtol=1e-11, atol=1e-11)
    addresses = {
        str(argument).split()[0]
        for operation, argument, _ in pickletools.genops(pickle.dumps(layer, 2))
        if operation.name == "GLOBAL" and str(argument).startswith("speedup")
    }
    assert addresses == {"speedup._stable"}


def test_choices_are_read() -> None:
    choices = Choices.load(FOLDER / "choices.json")
    assert [layer.path for layer in choices.layers] == ["point", "up", "down"]
    assert [layer.kernel for layer in choices.layers] == ["csr", "csr", "bsr 8 x 8, ordered"]
    assert Choices.from_json(choices.to_json()) == choices
