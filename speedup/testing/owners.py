"""Which modules of a model own parameters, and what their surroundings say of heads."""

from __future__ import annotations

import attrs
from torch import nn

from speedup.testing.masks import Sizes

_HEAD_COUNTS = ("heads", "num_heads", "n_head", "n_heads", "num_attention_heads", "num_key_value_heads")

Parameters = tuple[tuple[str, Sizes], ...]


@attrs.frozen
class MaskedModule:
    """A module's own parameters by name and shape, and how many heads its surroundings say it makes."""

    parameters: Parameters
    heads: int | None = None

    @property
    def rows(self) -> int:
        """How many rows the first parameter has."""
        sizes = self.parameters[0][1]
        return sizes[first_dim(sizes)]


def owners_of(model: nn.Module) -> tuple[MaskedModule, ...]:
    """The modules that own parameters, in order, a tied parameter under its first name.

    Without the directions of weight_norm: where one is all zero, the masked model gives NaN.
    """
    found: dict[str, list[tuple[str, Sizes]]] = {}
    for name, parameter in model.named_parameters():
        if not name.endswith((".original1", ".weight_v")) and parameter.numel():
            found.setdefault(name.rpartition(".")[0], []).append((name, tuple(parameter.shape)))
    modules = dict(model.named_modules(remove_duplicate=False))
    return tuple(MaskedModule(tuple(own), _heads_around(path, modules)) for path, own in found.items())


def _heads_around(path: str, modules: dict[str, nn.Module]) -> int | None:
    """How many heads the module, or the nearest that holds it, says there are."""
    while True:
        for name in _HEAD_COUNTS:
            count = getattr(modules[path], name, None)
            if type(count) is int and count > 1:
                return count
        if not path:
            return None
        path = path.rpartition(".")[0]


def first_dim(sizes: Sizes) -> int:
    """The first dimension that has more than one slice."""
    return next((dim for dim, size in enumerate(sizes) if size > 1), 0)
