"""Everything about a model and the global random state that planning must leave as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from attrs import frozen
from torch import Tensor, nn


@frozen(eq=False)
class Snapshot:
    """A model at one moment: facts by name that compare with `==`, and every tensor's bytes, copied."""

    facts: Mapping[str, object]
    contents: Mapping[str, Tensor]


def snapshot(model: nn.Module) -> Snapshot:
    """The state of `model` and of the global CPU generator now."""
    tensors = dict(_tensors(model))
    facts = {
        **_module_facts(model),
        **_tensor_facts(tensors),
        "torch RNG": bytes(torch.get_rng_state().tolist()),
    }
    return Snapshot(facts, {name: _bytes_of(tensor) for name, tensor in tensors.items()})


def differences(before: Snapshot, after: Snapshot) -> tuple[str, ...]:
    """Names of all that changed between two snapshots of the same model: empty for an untouched one."""
    facts = [
        name for name in _either(before.facts, after.facts) if before.facts.get(name) != after.facts.get(name)
    ]
    contents = [
        f"values of {name}"
        for name, content in before.contents.items()
        if name in after.contents and not torch.equal(content, after.contents[name])
    ]
    return (*facts, *contents)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield name, tensor
        if tensor.grad is not None:
            yield f"{name}.grad", tensor.grad


def _tensor_facts(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    return {
        f"identity, version or flags of {name}": (
            id(tensor),
            tensor._version,
            tensor.requires_grad,
            tensor.shape,
        )
        for name, tensor in tensors.items()
    }


def _module_facts(model: nn.Module) -> dict[str, object]:
    """Per module its class, mode, attributes and the entries of its registries (hooks), all by identity."""
    facts: dict[str, object] = {}
    for path, module in model.named_modules():
        where = path or "the model"
        facts[f"class or mode of {where}"] = (type(module), module.training)
        facts[f"attributes of {where}"] = {key: id(value) for key, value in vars(module).items()}
        for key, value in vars(module).items():
            if isinstance(value, dict):
                facts[f"{key} of {where}"] = [(entry, id(held)) for entry, held in value.items()]
    return facts


def _bytes_of(tensor: Tensor) -> Tensor:
    # NaN and negative zero must count, so values are compared as bytes.
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).clone()


def _either(one: Mapping[str, object], other: Mapping[str, object]) -> Iterator[str]:
    return iter({**one, **other})
