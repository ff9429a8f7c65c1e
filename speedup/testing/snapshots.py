"""Everything about a model and the process that planning must leave as it was, as one value."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from speedup.torch_api import version_of


@attrs.frozen
class TensorState:
    """A parameter or buffer: which object it is and what it holds, bit for bit."""

    name: str
    identity: int
    version: int
    address: int
    requires_grad: bool
    has_grad: bool
    content: bytes


@attrs.frozen
class ModuleState:
    """A module: its class, its mode, and the identity of all that hangs on it, hooks included."""

    name: str
    kind: type[nn.Module]
    training: bool
    attributes: tuple[tuple[str, int], ...]
    entries: tuple[tuple[str, int], ...]


@attrs.frozen
class ModelState:
    """All of a model's modules and tensors."""

    modules: tuple[ModuleState, ...]
    tensors: tuple[TensorState, ...]


@attrs.frozen
class ProcessState:
    """The global state that a library call must not disturb."""

    torch_random: bytes
    python_random: object
    numpy_random: bytes
    grad_enabled: bool
    inference_mode: bool
    default_dtype: torch.dtype
    default_device: torch.device


def model_state(model: nn.Module) -> ModelState:
    """The state of a model now."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return ModelState(
        tuple(_module_state(name, module) for name, module in model.named_modules()),
        tuple(_tensor_state(name, tensor) for name, tensor in tensors),
    )


def process_state() -> ProcessState:
    """The state of the process now."""
    # numpy offers the legacy state only as a tuple that holds an array.
    name, keys, *rest = np.random.get_state(legacy=True)
    return ProcessState(
        torch_random=torch.get_rng_state().numpy().tobytes(),
        python_random=random.getstate(),
        numpy_random=repr((name, np.asarray(keys).tobytes(), rest)).encode(),
        grad_enabled=torch.is_grad_enabled(),
        inference_mode=torch.is_inference_mode_enabled(),
        default_dtype=torch.get_default_dtype(),
        default_device=torch.get_default_device(),
    )


def changes(before: ModelState, after: ModelState) -> Iterator[str]:
    """What differs between two states of one model, in words."""
    for one, other in itertools.zip_longest(before.modules, after.modules):
        if one != other:
            yield f"module {(one or other).name!r}"
    for held, now in itertools.zip_longest(before.tensors, after.tensors):
        if held != now:
            yield f"tensor {(held or now).name!r}"


def changes_of_process(before: ProcessState, after: ProcessState) -> Iterator[str]:
    """What differs between two states of the process, by name."""
    for field in attrs.fields(ProcessState):
        if getattr(before, field.name) != getattr(after, field.name):
            yield field.name.replace("_", " ")


def tensor_bytes(tensor: Tensor) -> bytes:
    """A tensor's values, bit for bit."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _module_state(name: str, module: nn.Module) -> ModuleState:
    registries = {key: value for key, value in vars(module).items() if isinstance(value, dict)}
    return ModuleState(
        name,
        type(module),
        module.training,
        tuple((key, id(value)) for key, value in vars(module).items()),
        tuple(
            (f"{registry}[{key!r}]", id(value))
            for registry, entries in registries.items()
            for key, value in entries.items()
        ),
    )


def _tensor_state(name: str, tensor: Tensor) -> TensorState:
    return TensorState(
        name=name,
        identity=id(tensor),
        version=version_of(tensor),
        address=tensor.data_ptr(),
        requires_grad=tensor.requires_grad,
        has_grad=tensor.grad is not None,
        content=tensor_bytes(tensor),
    )
