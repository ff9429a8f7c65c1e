"""What a running function is below its decorators, and what it finds by name outside of itself."""

from __future__ import annotations

import inspect
from collections import ChainMap
from collections.abc import Mapping
from types import CellType
from typing import Any


def unwrap(function: Any) -> Any:
    """The plain function below decorators and method wrappers."""
    try:
        found = inspect.unwrap(function)
    except ValueError:
        return function
    return getattr(found, "__func__", found)


def enclosed_names(function: Any) -> dict[str, Any]:
    """What a plain function finds by name in the functions around it."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if is_filled(cell)}


def is_filled(cell: CellType) -> bool:
    """Whether a closure's cell holds something; an empty one raises what `hasattr` does not expect."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def names_of(function: Any) -> Mapping[str, Any]:
    """What a plain function finds by name outside of itself, builtins apart."""
    return ChainMap(enclosed_names(function), function.__globals__)
