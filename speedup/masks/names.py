"""Which parameter of a model the name of a mask stands for."""

from __future__ import annotations

import difflib
import itertools
import reprlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import nn

from speedup.errors import MaskTargetError, UnknownNameError
from speedup.ir.paths import join_path
from speedup.masks.problems import RefusedError
from speedup.torch_api import parameters_of


@attrs.frozen(eq=False)
class Names:
    """All names of a model that a mask could be given under."""

    parameters: Mapping[str, nn.Parameter]
    canonical: Mapping[int, str]
    buffers: Collection[str]
    modules: Mapping[str, nn.Module]

    @classmethod
    def of(cls, model: nn.Module) -> Names:
        return cls(
            parameters=dict(model.named_parameters(remove_duplicate=False)),
            canonical={id(parameter): name for name, parameter in model.named_parameters()},
            buffers={name for name, _ in model.named_buffers(remove_duplicate=False)},
            modules=dict(model.named_modules(remove_duplicate=False)),
        )

    def require_module(self, name: str) -> None:
        """Refuse `name` unless it is that of a module."""
        if name not in self.modules:
            what = f"masks: there is no module {name!r}"
            raise RefusedError(name, what, _near(name, self.modules), UnknownNameError)


def flatten_masks(given: Mapping[Any, object]) -> Iterator[tuple[str, object]]:
    """The masks that are not None, those of a module each under module and parameter name joined.

    Raises:
        RefusedError: a name is no string.
    """
    for key, value in given.items():
        _require_string(key)
        if not isinstance(value, Mapping):
            inner = {key: value}
        else:
            for local in value:
                _require_string(local)
            inner = {join_path(key, local): mask for local, mask in value.items()}
        yield from ((name, mask) for name, mask in inner.items() if mask is not None)


def _require_string(name: object) -> None:
    if not isinstance(name, str):
        shown = reprlib.repr(name)
        what = f"masks: a name must be a str, not {type(name).__name__} ({shown})"
        advice = "Name parameters as `model.named_parameters()` does."
        if isinstance(name, nn.Module | nn.Parameter | tuple):
            advice += " Modules and parameters are taken for their names where they are the model's own."
        raise RefusedError(shown, what, advice)


def parameter_name(name: str, names: Names) -> str:
    """The parameter that a mask called `name` is for.

    Raises:
        RefusedError: there is none, or it is none that can be masked.
    """
    if name in names.parameters:
        return name
    if f"{name}_orig" in names.parameters and f"{name}_mask" in names.buffers:
        return f"{name}_orig"
    path, _, local = name.rpartition(".")
    sources = _sources(path, local, names)
    if sources:
        raise RefusedError(
            name,
            f"mask for {name!r}: it is computed, and zeros need not survive that",
            f"Mask {' or '.join(map(repr, sources))}, or see parametrize.remove_parametrizations,"
            " remove_weight_norm and remove_spectral_norm in torch.nn.utils.",
            MaskTargetError,
        )
    module = names.modules.get(path)
    if name in names.buffers or (module is not None and isinstance(vars(module).get(local), torch.Tensor)):
        kind = "a buffer" if name in names.buffers else "a plain tensor attribute"
        what = f"mask for {name!r}: it is {kind}, no parameter"
        raise RefusedError(name, what, "Drop this mask.", MaskTargetError)
    why, advice = _why_unknown(name, names)
    raise RefusedError(name, f"mask for {name!r}: {why}", advice, UnknownNameError)


def _sources(path: str, local: str, names: Names) -> list[str]:
    """The parameters that `local` of module `path` is computed from."""
    original = join_path(path, f"parametrizations.{local}.original")
    derived = (join_path(path, local + suffix) for suffix in ("_g", "_v", "_orig"))
    return [
        *(known for known in names.parameters if known.startswith(original)),
        *(known for known in derived if known in names.parameters),
    ]


def _why_unknown(name: str, names: Names) -> tuple[str, str]:
    """Why there is no parameter `name`, and what could have been meant."""
    path, _, local = name.rpartition(".")
    module = names.modules.get(path)
    if name in names.modules:
        return "it is a module", f"Name its parameter: {{{name!r}: {{'weight': mask}}}}."
    if module is None:
        return "no module or parameter is called that", _near(name, names.parameters)
    if local in parameters_of(module):
        return f"this {type(module).__name__} was made without {local!r} (it is None)", "Drop this mask."
    near = _near(local, dict(module.named_parameters()))
    return f"this {type(module).__name__} has no parameter {local!r}", near


def _near(name: str, known: Collection[str]) -> str:
    close = " or ".join(map(repr, difflib.get_close_matches(name, known, n=3, cutoff=0.5)))
    listed = ", ".join(map(repr, itertools.islice(known, 8))) or "none"
    return f"Check the name{f': did you mean {close}?' if close else '.'} There are {len(known)}: {listed}."
