"""Which kinds of models can be planned at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from speedup.errors import ModelError


def require_plannable(model: Any) -> None:
    """Raise unless `model` is a module in Python whose parameters exist, and are where it has them.

    Raises:
        ModelError: says what to pass instead, or what to do first.
    """
    if isinstance(model, type):
        raise ModelError(f"the model is the class {model.__name__}; pass an instance, {model.__name__}(...)")
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is {type(model).__name__}; {_instead_of(model)}")
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ModelError(
            "the model is wrapped for distributed training; pass model.module, and wrap the small model anew"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("a TorchScript model has no Python forward; plan the module it was made from")
    if isinstance(model, fx.GraphModule) and _is_exported(model):
        raise ModelError("a program of torch.export is fixed to its sizes; plan the module it was made from")
    lazy = [name for name, p in model.named_parameters() if nn.parameter.is_lazy(p)]
    lazy += [name for name, b in model.named_buffers() if nn.parameter.is_lazy(b)]
    if lazy:
        raise ModelError(f"parameter {lazy[0]!r} is uninitialised; run the model once before planning it")
    for path, module in model.named_modules():
        reason = getattr(type(module), UNPLANNABLE, None)
        if isinstance(reason, str):
            raise ModelError(f"module {path!r} ({type(module).__name__}) {reason}")
    packed = next((path for path, module in model.named_modules() if _is_packed(module)), None)
    if packed is not None and not any(p.is_floating_point() for p in model.parameters()):
        raise ModelError(
            f"the weights of the model are quantised: module {packed!r} has packed them, so that they cannot "
            "be masked or cut. Make the model small first, from its weights in floating point, and quantise "
            "the small model."
        )
    require_weights(model)


UNPLANNABLE = "unplannable"
"""By this name a class of modules says why those cannot be planned, and what to do."""


def _is_packed(module: nn.Module) -> bool:
    """Whether torch.ao has put the weights of a module into an object of its own."""
    return any(isinstance(value, torch.ScriptObject) for value in vars(module).values())


def _instead_of(given: Any) -> str:
    """What to pass in the place of something that is no module."""
    if isinstance(given, Tensor | tuple | list | dict):
        return "pass a torch.nn.Module, and the example input after it: plan_speedup(model, x)"
    if isinstance(inner := getattr(given, "model", None), nn.Module):
        return f"pass its .model, a {type(inner).__name__}"
    return "pass a torch.nn.Module"


def require_weights(model: nn.Module) -> None:
    """Raise if the forward computes with other weights than the model's parameters hold.

    So it is where a library keeps them elsewhere and brings them before each forward: masks and cuts in the
    parameters would go unheeded. Parameters on the meta device that nobody brings are fine.

    Raises:
        ModelError: names the first such module or parameter, and says what to do.
    """
    for path, module in model.named_modules():
        hook = next((hook for hook in _hooks(module) if _brings_weights(hook, module)), None)
        if hook is not None:
            where = f"module {path!r}" if path else "the model itself"
            raise ModelError(
                f"the weights of {where} are offloaded: they are not in its parameters, and a hook of "
                f"accelerate ({type(hook).__name__}) brings them before each forward. Load the model whole, "
                "without offloading (no device_map that does); or, once its weights are loaded, take the "
                "hooks off: accelerate.hooks.remove_hook_from_module(model, recurse=True). Without the "
                'memory for that, plan on a model made under torch.device("meta") or init_empty_weights(), '
                "which has no hooks."
            )
    require_shapes(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        require_plain_tensor(name, tensor)


def require_plain_tensor(name: str, tensor: Tensor) -> None:
    """Raise if `tensor` is of a class that keeps its numbers in its own way: sharded, quantised, lazy.

    Raises:
        ModelError: says what is in its place, and what to do.
    """
    kind = type(tensor)
    if getattr(kind, "__torch_dispatch__", None) is Tensor.__torch_dispatch__:
        return
    raise ModelError(
        f"tensor {name!r} is a {kind.__module__}.{kind.__qualname__}, which keeps its numbers elsewhere "
        "(in parts on several devices, quantised, or packed), so that it cannot be masked or cut. Plan and "
        "cut the model before it is sharded or quantised; shard or quantise the small model. Of a sharded "
        "model, full_tensor() or torch.distributed.checkpoint gives the whole state."
    )


def require_shapes(model: nn.Module) -> None:
    """Raise if parameters are partitioned, so that not even their shapes are those of the model.

    Raises:
        ModelError: names the first such parameter, and says what to do.
    """
    for name, parameter in model.named_parameters():
        if _is_partitioned(parameter):
            raise ModelError(
                f"parameter {name!r} is partitioned by DeepSpeed (ZeRO-3), so that this process holds a part "
                "of it only. Load the model whole, without deepspeed.zero.Init, for instance from a "
                "checkpoint that was consolidated by zero_to_fp32.py."
            )


def _hooks(module: nn.Module) -> Iterator[Any]:
    """The hooks that accelerate hung on a module; it is not imported, for who uses it has done so."""
    pending = [vars(module).get("_hf_hook")]
    while pending:
        hook = pending.pop(0)
        if hook is not None:
            yield hook
            pending.extend(getattr(hook, "hooks", ()))


def _brings_weights(hook: Any, module: nn.Module) -> bool:
    """Whether the hook offloads tensors that the module has, and not only moves inputs."""
    if getattr(hook, "offload", False) is not True:
        return False
    inner = getattr(hook, "place_submodules", False) is True
    tensors: list[Tensor] = [*module.parameters(recurse=inner)]
    if getattr(hook, "offload_buffers", False) is True:
        tensors += [*module.buffers(recurse=inner)]
    return bool(tensors)


def _is_partitioned(parameter: nn.Parameter) -> bool:
    """Whether DeepSpeed has taken the numbers out of it, until they are gathered."""
    return hasattr(parameter, "ds_id") and not parameter.numel() and getattr(parameter, "ds_numel", 1) != 0


def _is_exported(model: fx.GraphModule) -> bool:
    """Whether `eval()` was replaced by an error, as on the modules that torch.export returns."""
    return "eval" in vars(model)
