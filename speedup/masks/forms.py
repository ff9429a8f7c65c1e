"""The forms that people have masks in, read as a mapping from names to masks.

A state dict of a model under `torch.nn.utils.prune` holds them among its weights; a wrapper around the model
(data parallel, compiled) has put its own name before all others; and keys may be modules and parameters
themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

# What wrappers call the model that they are around: torch.nn.DataParallel and its kin, torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")


def pruned_state(given: Mapping[str, object]) -> Mapping[str, object]:
    """The masks in the state dict of a pruned model, by the names of the weights; `given` if it is none.

    A checkpoint may hold that state dict as one of its entries.
    """
    for held in (given, *(value for value in given.values() if isinstance(value, Mapping))):
        names = [str(name).removesuffix("_mask") for name in held if str(name).endswith("_mask")]
        pruned = [name for name in names if f"{name}_orig" in held]
        if pruned and all(isinstance(value, Tensor) for value in held.values()):
            return {name: held[f"{name}_mask"] for name in pruned}
    return given


def without_wrapper(given: Mapping[Any, object], modules: Collection[str]) -> Mapping[Any, object]:
    """`given` without the name of a wrapper that all keys begin with, where the model has no such module."""
    for prefix in _WRAPPERS:
        wrapped = [isinstance(key, str) and f"{key}.".startswith(prefix) for key in given]
        if given and all(wrapped) and prefix.removesuffix(".") not in modules:
            inner = {str(key)[len(prefix) :]: value for key, value in given.items()}
            return without_wrapper(inner, modules)
    return given


def name_of_key(key: object, model: nn.Module) -> object:
    """The name of what a key is: a module or parameter of `model`, or a pair of a module and a name in it.

    Anything else is handed back.
    """
    match key:
        case nn.Parameter():
            return next((name for name, held in model.named_parameters() if held is key), key)
        case nn.Module():
            return next((path for path, held in model.named_modules() if held is key), key)
        case (nn.Module() as module, str() as local):
            path = name_of_key(module, model)
            return f"{path}.{local}".lstrip(".") if isinstance(path, str) else key
        case _:
            return key
