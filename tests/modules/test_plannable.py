"""Parameters that keep their numbers elsewhere are refused by name, wherever a model comes in."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic

from speedup import ModelError, apply_masks, make_masks, masks_from_zeros, materialize, plan_speedup
from speedup.pruners import Norm
from tests.support.repository import ROOT

MASKS = {"0.weight": torch.tensor([1.0, 0, 1, 1]).reshape(4, 1), "0.bias": torch.tensor([1.0, 0, 1, 1])}


class Quantised(torch.Tensor):
    """As libraries for quantisation make them."""

    @staticmethod
    def __new__(cls, like: torch.Tensor) -> Quantised:
        made: Quantised = torch.Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype)
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(str(func))


class Named(nn.Parameter):
    """A parameter of a class of its own, with numbers as others have them."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


def quantised() -> nn.Sequential:
    model: Any = network()
    model[2].weight = nn.Parameter(Quantised(model[2].weight.detach()), requires_grad=False)
    return model


ENTRIES: dict[str, Callable[[nn.Module], object]] = {
    "plan": lambda model: plan_speedup(model, torch.ones(2, 3), MASKS),
    "apply_masks": lambda model: apply_masks(model, MASKS),
    "masks_from_zeros": masks_from_zeros,
    "make_masks": lambda model: make_masks(model, torch.ones(2, 3), Norm(), 0.5),
    "materialize": lambda model: materialize(plan_speedup(network(), torch.ones(2, 3), MASKS), model),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_quantised_weights_are_refused(entry: str) -> None:
    with pytest.raises(
        ModelError, match=r"tensor '2.weight' is a .*Quantised, which keeps its numbers elsewhere"
    ):
        ENTRIES[entry](quantised())


def packed(what: object) -> nn.Module:
    """A network with zeros, some of whose layers torch.ao has packed."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        for name in ("0.weight", "0.bias"):
            model.get_parameter(name)[:8] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: nn.Module = quantize_dynamic(model, {what}, dtype=torch.qint8)
    return found


def test_models_that_are_packed_whole_are_refused() -> None:
    with pytest.raises(ModelError, match=r"module '0.*' has packed .* small first, .* quantise the small"):
        plan_speedup(packed(nn.Linear), torch.randn(2, 8))


def test_models_that_are_packed_in_parts_say_what_holds_back() -> None:
    kept = torch.arange(16) > 7
    masks = {"2.weight": kept[:, None].expand(16, 16), "2.bias": kept}
    plan = plan_speedup(packed("4"), torch.randn(2, 8), masks)
    # The layer in front reads its own channels, not those that the packed one is given.
    assert "quantise the small model" in str(plan)
    small: Any = materialize(plan)
    assert small[0].out_features == 8


def test_buffers_are_looked_at_too() -> None:
    model = network()
    model.register_buffer("scale", Quantised(torch.ones(2)))
    with pytest.raises(ModelError, match="tensor 'scale' is a"):
        plan_speedup(model, torch.ones(2, 3), MASKS)


def test_parameters_of_other_classes_may_be_planned() -> None:
    model: Any = network()
    model[0].weight = Named(model[0].weight.detach())
    small: Any = materialize(plan_speedup(model, torch.ones(2, 3), MASKS))
    assert small[0].weight.shape == (3, 3)


_SHARDED = """
import torch
from torch import nn
from torch.distributed import HashStore, destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from speedup import ModelError, plan_speedup

init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
plan = plan_speedup(model, torch.ones(2, 3), {"0.weight": torch.tensor([1.0, 0, 1, 1]).reshape(4, 1)})
fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
for call in (lambda: plan_speedup(model, torch.ones(2, 3)), lambda: plan.apply(model.state_dict())):
    try:
        call()
    except ModelError as error:
        print("refused:", error)
destroy_process_group()
"""


def test_sharded_parameters_are_refused() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _SHARDED], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("refused: tensor '0.weight' is a torch.distributed.tensor.DTensor") == 2
