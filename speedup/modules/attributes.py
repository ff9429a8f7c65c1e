"""Integers that modules keep and their forwards read: `num_heads`, `config.hidden_size`, `window[0]`.

While a clone is traced they are replaced by numbers that remember where they came from; in a
small model they are set to new ones. Objects that modules share, such as a config, are copied
before they are changed, so that each module gets its own.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import attrs
from torch import nn

from speedup.ir.expressions import AttributeOf

_STEPS = re.compile(r"(?:^|\.)(\w+)|\[(\d+)\]|\['([^']*)'\]")
_CONFIG_NAMES = re.compile(r"config|cfg|args|params|options|spec", re.IGNORECASE)
_OF_ANY_MODULE = frozenset(dir(nn.Module))
# What most attributes are, and no integer is in.
_PLAIN = frozenset((str, bool, float, type(None)))
_DEPTH = 3

Replace = Callable[[AttributeOf], int]


def replace_integers(model: nn.Module, replace: Replace) -> None:
    """Put `replace(attribute)` for every integer attribute of every module of `model`, in place."""
    of_classes: dict[type, dict[str, int]] = {}
    for path, module in model.named_modules():
        if type(module) not in of_classes:
            of_classes[type(module)] = _class_integers(type(module))
        for name, value in list(_own_attributes(module, of_classes[type(module)])):
            found = _replace(value, path, name, replace, _DEPTH)
            if found is not value:
                vars(module)[name] = found


def _own_attributes(module: nn.Module, of_class: dict[str, int]) -> Iterator[tuple[str, Any]]:
    """What a module's forward finds as `self.name`: its own attributes, then its classes' integers."""
    own = vars(module)
    for name, value in own.items():
        if name not in _OF_ANY_MODULE and not isinstance(value, nn.Module):
            yield name, value
    yield from ((name, value) for name, value in of_class.items() if name not in own)


def _class_integers(kind: type) -> dict[str, int]:
    """The integers that a module of class `kind` finds in it, or in one that it comes from."""
    found: dict[str, Any] = {}
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        # What a class says hides what those say that it comes from, whatever that is.
        found.update((name, value) for name, value in vars(base).items() if name not in found)
    return {n: v for n, v in found.items() if type(v) is int and not n.startswith("__")}


def _replace(value: Any, path: str, name: str, replace: Replace, depth: int) -> Any:
    """`value` with its integers replaced; the same object when there are none."""
    if type(value) is int:
        return replace(AttributeOf(path, name, value))
    if not depth or type(value) in _PLAIN:
        return value
    parts = list(_parts(value))
    found = {key: _replace(part, path, f"{name}{step}", replace, depth - 1) for key, step, part in parts}
    if all(found[key] is part for key, _, part in parts):
        return value
    return _with_parts(value, found)


def _parts(value: Any) -> Iterator[tuple[Any, str, Any]]:
    """What `value` consists of: key, step of a name, part."""
    if type(value) in (tuple, list):
        yield from ((n, f"[{n}]", part) for n, part in enumerate(value))
    elif type(value) is dict:
        yield from ((k, f"['{k}']", part) for k, part in value.items() if isinstance(k, str))
    elif _is_config(value):
        yield from ((k, f".{k}", part) for k, part in vars(value).items() if not k.startswith("__"))


def _is_config(value: Any) -> bool:
    """Whether an object only holds settings, so that a copy of it is as good as itself."""
    if isinstance(value, type | nn.Module) or not hasattr(value, "__dict__"):
        return False
    if dataclasses.is_dataclass(value) or attrs.has(type(value)) or isinstance(value, SimpleNamespace):
        return True
    return bool(_CONFIG_NAMES.search(type(value).__name__))


def _with_parts(value: Any, parts: dict[Any, Any]) -> Any:
    """A copy of `value` with other parts; `value` itself is not changed."""
    if type(value) in (tuple, list):
        return type(value)(parts[n] for n in range(len(value)))
    made = copy.copy(value)
    (made if type(made) is dict else vars(made)).update(parts)
    return made


def set_attribute(module: nn.Module, name: str, number: Any) -> None:
    """Set `name`, a name as in `AttributeOf`, on `module`; containers on the way are copied."""
    first, *steps = _steps(name)
    vars(module)[first] = _set(getattr(module, first, None), steps, number)


def attribute_of(module: nn.Module, name: str) -> Any:
    """What `module` holds as `name`, a name as in `AttributeOf`; None where there is no such thing."""
    first, *steps = _steps(name)
    value = getattr(module, first, None)
    for step in steps:
        value = {str(key): part for key, _, part in _parts(value)}.get(step)
    return value


def _steps(name: str) -> list[str]:
    return [a or b or c for a, b, c in _STEPS.findall(name)]


def _set(value: Any, steps: list[str], number: Any) -> Any:
    if not steps:
        return number
    key: Any = int(steps[0]) if type(value) in (tuple, list) else steps[0]
    parts = {k: part for k, _, part in _parts(value)}
    return _with_parts(value, {**parts, key: _set(parts[key], steps[1:], number)})
