"""What a module is called beside its first name, and how tensors lie in memory, makes no other model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from speedup import apply_masks, materialize, plan_speedup
from tests.support.masking import rows
from tests.support.measure import relative_error


class TwiceRegistered(nn.Module):
    """Holds a layer by itself and in a sequence, and runs the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1, bias=False)
        self.all_modules = nn.Sequential(self.conv, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.all_modules(x)
        return result


def _registered() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sigmoid(), TwiceRegistered(), nn.Conv2d(8, 2, 1))


def test_a_layer_with_two_names_gets_its_new_bias() -> None:
    torch.manual_seed(0)
    model = _registered().double().eval()
    masks = {"0": rows(model[0], 0, 1, 2)}
    plan = plan_speedup(model, torch.randn(1, 3, 4, 4).double(), masks)
    small = materialize(plan)
    inputs = [(torch.randn(2, 3, 5, 4).double(),) for _ in range(2)]
    assert relative_error(apply_masks(model, masks).eval(), small.eval(), inputs) < 1e-10
    one, other = (small.get_submodule(name) for name in ("2.conv", "2.all_modules.0"))
    assert one is other and isinstance(one, nn.Conv2d)
    assert one.bias is not None and one.in_channels == 5


@pytest.mark.parametrize("name", ["2.conv", "2.all_modules", "2.all_modules.0", "2"])
def test_a_module_is_kept_by_any_of_its_names(name: str) -> None:
    model = _registered().double().eval()
    masks = {"0": rows(model[0], 0, 1, 2)}
    small = materialize(plan_speedup(model, torch.randn(1, 3, 4, 4).double(), masks, keep=[name]))
    layer = small.get_submodule("2.conv")
    assert isinstance(layer, nn.Conv2d) and layer.bias is None and layer.in_channels == 8


class Attention(nn.Module):
    """Lays the heads' results out in order before it joins them."""

    def __init__(self, join: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], 4, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        joined = self.join(scaled_dot_product_attention(q, k, v, scale=0.35).transpose(1, 2))
        result: Tensor = self.out(joined)
        return result


JOINS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous and flatten": lambda y: y.contiguous().flatten(2),
    "contiguous twice": lambda y: y.contiguous().contiguous().reshape(y.shape[0], y.shape[1], -1),
    "reshape": lambda y: y.reshape(*y.shape[:2], -1),
    "flatten": lambda y: y.flatten(2),
}


@pytest.mark.parametrize("pruned", ["qkv", "v"])
@pytest.mark.parametrize("name", JOINS)
def test_how_heads_lie_in_memory_is_no_difference(name: str, pruned: str) -> None:
    torch.manual_seed(0)
    model = Attention(JOINS[name]).double().eval()
    masks = {layer: rows(model.get_submodule(layer), 0, 8, 16, 24) for layer in pruned}
    small = materialize(plan_speedup(model, torch.randn(1, 20, 32).double(), masks))
    inputs = [(torch.randn(3, 7, 32).double(),) for _ in range(2)]
    assert relative_error(apply_masks(model, masks).eval(), small.eval(), inputs) < 1e-10
    assert small.get_parameter("v.weight").shape[0] == 28
