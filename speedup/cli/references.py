"""What a command line names: a model by its factory, weights by their file."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from speedup.errors import ModelReferenceError, WeightsError

Factory = Callable[[], nn.Module]

# Under these keys training scripts put the state next to other things.
_NESTED = ("state_dict", "model", "model_state_dict")


def factory_of(reference: str) -> Factory:
    """The function that `package.module:factory` or `path/to/file.py:factory` names.

    What it returns when it is called without arguments must be a module. A name of a module object stands
    for a factory that returns it. The current directory is searched first, as by `python -m`.

    Raises:
        ModelReferenceError: the reference has another form, leads nowhere, or to something else.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise ModelReferenceError(
            f"model {reference!r}: write package.module:factory or path/to/file.py:factory, "
            "for instance torchvision.models:resnet18"
        )
    found = _attribute(_module(place, reference), name, reference)
    if isinstance(found, nn.Module):
        return lambda: found
    if not callable(found):
        raise ModelReferenceError(
            f"model {reference!r}: {name!r} is {type(found).__name__}; name a function "
            "or class that returns the model"
        )
    return lambda: _make(found, reference)


def model_of(reference: str, weights: Path | None) -> nn.Module:
    """The model that `reference` names, with the state in the file `weights` where one is given.

    Raises:
        ModelReferenceError: as `factory_of`.
        WeightsError: the file is missing, damaged, or holds no state of this model.
    """
    return fill_model(factory_of(reference)(), weights)


def fill_model(model: nn.Module, weights: Path | None) -> nn.Module:
    """`model` itself, with the state in the file `weights` where one is given.

    Raises:
        WeightsError: the file is missing, damaged, or holds no state of this model.
    """
    if weights is not None:
        _fill(model, read_state(weights), weights)
    return model


def hollow_model(factory: Factory) -> nn.Module:
    """The model that `factory` makes, without memory for its weights.

    Raises:
        ModelReferenceError: as the factory does.
    """
    with torch.device("meta"):
        return factory()


def makes_other_weights(factory: Factory, model: nn.Module) -> bool:
    """Whether `factory` makes a model with other weights than `model` has, which it made.

    It is asked for another one only where there is a weight to compare.
    """
    state = dict(model.named_parameters())
    if not state or any(parameter.is_meta for parameter in state.values()):
        return False
    other = factory()
    pairs = ((state.get(name), parameter) for name, parameter in other.named_parameters())
    return any(mine is not None and not torch.equal(mine, parameter) for mine, parameter in pairs)


def read_state(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a `.safetensors` file or in one that `torch.save` wrote; nothing in it is executed.

    Raises:
        WeightsError: the file is missing, damaged, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(importlib.import_module("safetensors.torch").load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"weights {str(path)!r}: there is no such file") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"weights {str(path)!r}: refused, as the file holds more than tensors; save model.state_dict()"
        ) from error
    except Exception as error:  # a damaged file makes torch.load raise nearly anything
        raise WeightsError(
            f"weights {str(path)!r}: cannot be read ({type(error).__name__}: {_first_line(error)}); "
            "save model.state_dict() with torch.save or safetensors"
        ) from error
    for key in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise WeightsError(
            f"weights {str(path)!r}: holds {type(found).__name__}, no state dict; save model.state_dict()"
        )
    return found


def _module(place: str, reference: str) -> ModuleType:
    if not place.endswith(".py"):
        return _import(place, reference)
    path = Path(place)
    if not path.is_file():
        raise ModelReferenceError(f"model {reference!r}: there is no file {place!r}")
    # Under its own name, so that classes in it can be found again; its neighbours can be imported.
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ModelReferenceError(f"model {reference!r}: {place!r} cannot be read as Python source")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ModelReferenceError(
            f"model {reference!r}: running {place!r} raised {type(error).__name__}: {_first_line(error)}"
        ) from error
    return module


def _import(place: str, reference: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(place)
    except Exception as error:
        raise ModelReferenceError(
            f"model {reference!r}: importing {place!r} raised {type(error).__name__}: {_first_line(error)}"
        ) from error


def _attribute(module: ModuleType, name: str, reference: str) -> Any:
    try:
        return reduce(getattr, name.split("."), module)
    except AttributeError as error:
        near = ", ".join(sorted(n for n, value in vars(module).items() if _may_make(value, n))[:8])
        raise ModelReferenceError(
            f"model {reference!r}: {module.__name__!r} has no {name!r}" + (f"; it has {near}" if near else "")
        ) from error


def _may_make(value: object, name: str) -> bool:
    return not name.startswith("_") and (callable(value) or isinstance(value, nn.Module))


def _make(factory: Callable[[], Any], reference: str) -> nn.Module:
    try:
        model = factory()
    except Exception as error:
        raise ModelReferenceError(
            f"model {reference!r}: calling it without arguments raised {type(error).__name__}: "
            f"{_first_line(error)}; write a function that makes the model and name that"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelReferenceError(
            f"model {reference!r}: it returned {type(model).__name__}, not a torch.nn.Module"
        )
    return model


def _fill(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).splitlines()[1:]
        said = " ".join(line.strip() for line in lines[:3]) or _first_line(error)
        raise WeightsError(f"weights {str(path)!r} do not fit this {type(model).__name__}: {said}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
