"""The names that pickles and files carry. They never change, however the library moves.

What is pickled names a function or class by its address, so those that a pickle may name have one here beside
the room that they live in; the keys of files stand here as constants. Addresses of earlier releases lead here
too (`_EARLIER`). `tests/data` holds files and pickles of each released format, which are never written again.

A name is added here together with a golden file, and none is ever taken away.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType
from typing import Any, Final, TypeVar

PLAN_KEY: Final = "speedup.plan"
"""The key of the plan in the metadata of a safetensors file, and the name of its format."""

TRAITS_KEYS: Final = ("speedup.files.traits", "speedup.traits")
"""Keys of what the tensors do not tell: the first is written, all are read."""

SPARSE_KEY: Final = "speedup.sparse"
"""The key of what the layers with sparse weights are, which only files of models with such have."""

EARLIER_PLANS_KEY: Final = "speedup.earlier_plans"
"""The key of a list of plans that were applied before, where a model was made smaller several times."""

_ROOMS = MappingProxyType(
    {
        "MultiheadAttention": "speedup.modules.attention",
        "Rewritten": "speedup.ir.edits",
        "restore_attention": "speedup.modules.attention",
        "restore_masks": "speedup.masks.value",
        "restore_plan": "speedup.plan",
        "restore_rewritten": "speedup.modules.rewritten",
        "restore_sparse_conv1d": "speedup.sparse.layers",
        "restore_sparse_conv2d": "speedup.sparse.layers",
        "restore_sparse_linear": "speedup.sparse.layers",
    }
)

# Address of an earlier release -> what its names are called here.
_EARLIER = MappingProxyType(
    {
        "speedup.attention": {"_restored": "restore_attention", "MultiheadAttention": "MultiheadAttention"},
        "speedup.forwards.rewritten": {"_restored": "restore_rewritten"},
        "speedup.spec": {},
        "speedup.spec.edits": {"Rewritten": "Rewritten"},
    }
)

F = TypeVar("F", bound=Callable[..., Any])


def stable(function: F) -> F:
    """Give `function`, which pickles will name, its address in this module."""
    assert function.__name__ in _ROOMS, f"{function.__name__} has no stable address"
    function.__module__ = __name__
    return function


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)


class _EarlierAddresses(MetaPathFinder, Loader):
    """Finds the modules of earlier releases that pickles name: they hold those names and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname in _EARLIER else None

    def exec_module(self, module: ModuleType) -> None:
        names = _EARLIER[module.__name__]

        def find(name: str) -> Any:
            if name not in names:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            return getattr(import_module(__name__), names[name])

        vars(module)["__getattr__"] = find


sys.meta_path.append(_EarlierAddresses())
