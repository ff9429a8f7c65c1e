"""Models whose weights are elsewhere: brought by hooks before each forward, or parted among processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import (
    ModelError,
    apply_masks,
    make_masks,
    masks_from_heads,
    masks_from_prune,
    masks_from_zeros,
    materialize,
    plan_speedup,
    verify,
)
from speedup.pruners import Norm

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def masks() -> dict[str, dict[str, Tensor]]:
    kept = torch.ones(8)
    kept[1:3] = 0
    return {"0": {"weight": kept.view(8, 1), "bias": kept}}


class Hook:
    """As `accelerate.hooks.AlignDevicesHook`, in so far as is looked at."""

    def __init__(self, offload: bool, place_submodules: bool = False) -> None:
        self.offload = offload
        self.offload_buffers = False
        self.place_submodules = place_submodules
        self.weights: dict[str, Tensor] = {}

    def attach(self, module: Any) -> nn.Module:
        module._hf_hook = self
        if self.offload:
            names = [name for name, _ in module.named_parameters(recurse=self.place_submodules)]
            self.weights = {name: module.get_parameter(name).detach() for name in names}
            self.send_away(module)
        own = module.forward
        module.forward = partial(_brought, module, own)
        return module

    def bring(self, module: nn.Module) -> None:
        for name, weight in self.weights.items():
            _put(module, name, weight)

    def send_away(self, module: nn.Module) -> None:
        for name, weight in self.weights.items():
            _put(module, name, weight.to("meta"))


def _put(module: nn.Module, name: str, weight: Tensor) -> None:
    path, _, local = name.rpartition(".")
    module.get_submodule(path)._parameters[local] = nn.Parameter(weight)


def _brought(module: Any, own: Callable[..., Any], *args: Any) -> Any:
    module._hf_hook.bring(module)
    output = own(*args)
    module._hf_hook.send_away(module)
    return output


class Hooks:
    """As `accelerate.hooks.SequentialHook`."""

    def __init__(self, *hooks: Any) -> None:
        self.hooks = hooks

    def bring(self, module: nn.Module) -> None:
        for hook in self.hooks:
            hook.bring(module)

    def send_away(self, module: nn.Module) -> None:
        for hook in self.hooks:
            hook.send_away(module)


def offloaded() -> nn.Sequential:
    """The first layer only moves inputs; the weights of the last one are elsewhere."""
    model = network()
    Hook(offload=False).attach(model[0])
    Hook(offload=True).attach(model[2])
    return model


def in_sequence() -> nn.Sequential:
    model: Any = offloaded()
    model[2]._hf_hook = Hooks(Hook(offload=False), Hooks(model[2]._hf_hook))
    return model


def as_a_block() -> nn.Sequential:
    """One hook brings the weights of all modules inside."""
    model = nn.Sequential(network(), nn.Sequential(nn.Linear(3, 3)))
    Hook(offload=True, place_submodules=True).attach(model[1])
    return model


def partitioned() -> nn.Sequential:
    """As under DeepSpeed's ZeRO-3: of each parameter this process holds a part."""
    model = network()
    parameter: Any
    for number, parameter in enumerate(model.parameters()):
        if number:
            parameter.ds_id, parameter.ds_numel = number, parameter.numel()
            parameter.ds_tensor = parameter.detach().flatten()[:1].clone()
            parameter.data = torch.empty(0)
    return model


ELSEWHERE = {
    "offloaded": (offloaded, r"module '2' are offloaded.*\(Hook\).*remove_hook_from_module"),
    "in sequence": (in_sequence, r"module '2' are offloaded.*\(Hook\).*init_empty_weights"),
    "as a block": (as_a_block, r"module '1' are offloaded"),
    "partitioned": (partitioned, r"parameter '0\.bias' is partitioned by DeepSpeed"),
}

READERS: dict[str, Callable[[nn.Module], object]] = {
    "plan": lambda model: plan_speedup(model, X, masks()),
    "plan without masks": lambda model: plan_speedup(model, X),
    "apply": lambda model: apply_masks(model, masks()),
    "apply nothing": lambda model: apply_masks(model, None),
    "zeros": masks_from_zeros,
    "prune": masks_from_prune,
    "make": lambda model: make_masks(model, X, Norm(), 0.5),
    "materialize": lambda model: materialize(
        plan_speedup(network().to("meta"), X.to("meta"), masks()), model
    ),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ELSEWHERE)
def test_weights_that_are_elsewhere_are_refused(kind: str, reader: str) -> None:
    make, words = ELSEWHERE[kind]
    with pytest.raises(ModelError, match=words):
        READERS[reader](make())


def test_the_stand_in_runs_as_the_model_would() -> None:
    for make in (offloaded, in_sequence):
        assert torch.equal(make()(X), network()(X))


def test_a_model_itself_may_be_what_is_offloaded() -> None:
    layer = Hook(offload=True).attach(nn.Linear(6, 3))
    with pytest.raises(ModelError, match="weights of the model itself are offloaded"):
        plan_speedup(layer, X)


def test_verifying_against_an_offloaded_model_is_refused() -> None:
    plan = plan_speedup(network().to("meta"), X.to("meta"), masks())
    with pytest.raises(ModelError, match="module '2' are offloaded"):
        verify(plan, materialize(plan, network()), model=offloaded())


def test_heads_of_partitioned_projections_are_refused() -> None:
    model = nn.MultiheadAttention(8, 4)
    weight: Any = model.in_proj_weight
    weight.ds_id, weight.ds_numel, weight.data = 0, weight.numel(), torch.empty(0)
    with pytest.raises(ModelError, match="parameter 'in_proj_weight' is partitioned"):
        masks_from_heads(model, {"": [1]})


def _checked(model: nn.Module) -> nn.Module:
    small = materialize(plan_speedup(model, X, masks()))
    assert small.get_submodule("0").out_features == 6
    with torch.no_grad():
        assert torch.allclose(small(X), apply_masks(network(), masks())(X), atol=1e-6)
    return small


def test_hooks_that_only_move_inputs_are_kept() -> None:
    model = network()
    for module in (model, *model):
        Hook(offload=False).attach(module)
    small = _checked(model)
    assert all(isinstance(module._hf_hook, Hook) for module in small.modules())


def test_hooks_that_offload_nothing_do_not_matter() -> None:
    model: Any = network()
    model[1]._hf_hook = Hook(offload=True)
    model._hf_hook = Hook(offload=True)
    _checked(model)


def test_gathered_parameters_are_planned() -> None:
    model = network()
    parameter: Any
    for number, parameter in enumerate(model.parameters()):
        parameter.ds_id, parameter.ds_numel = number, parameter.numel()
    _checked(model)


def test_a_parameter_that_is_empty_for_real_is_not_partitioned() -> None:
    model: Any = network()
    model.register_parameter("nothing", nn.Parameter(torch.empty(0)))
    model.nothing.ds_id, model.nothing.ds_numel = 0, 0
    _checked(model)


def test_a_model_without_weights_or_hooks_is_planned() -> None:
    plan = plan_speedup(network().to("meta"), X.to("meta"), masks())
    small = materialize(plan, network())
    with torch.no_grad():
        assert torch.allclose(small(X), apply_masks(network(), masks())(X), atol=1e-6)
    assert masks_from_zeros(network().to("meta")) == {}


@pytest.mark.parametrize("kind", ["cpu", "disk", "dispatched", "whole"])
def test_hooks_of_accelerate_itself_are_seen(kind: str, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    hooks = pytest.importorskip("accelerate.hooks")
    model = network()
    if kind == "cpu":
        accelerate.cpu_offload(model, execution_device="cpu")
    elif kind == "disk":
        accelerate.disk_offload(model, str(tmp_path), execution_device="cpu")
    else:
        devices = {"0": "cpu", "1": "cpu", "2": "disk" if kind == "dispatched" else "cpu"}
        accelerate.dispatch_model(
            model, devices, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True
        )
    if kind == "whole":
        _checked(model)
        return
    with pytest.raises(ModelError, match="are offloaded"):
        plan_speedup(model, X, masks())
    with pytest.raises(ModelError, match="are offloaded"):
        apply_masks(model, masks())
    hooks.remove_hook_from_module(model, recurse=True)
    _checked(model)
