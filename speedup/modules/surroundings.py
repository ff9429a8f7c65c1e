"""What the code around a model keeps between calls: in globals, classes, closures and caches of functions.

A forward that remembers a table there would, when it is traced, remember one without data, and use that in
the next call. So what calls of our own left there is taken out again.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import _lru_cache_wrapper
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, TypeGuard

from attrs import frozen
from torch import Tensor, nn

from speedup.modules.closures import objects_held_by
from speedup.modules.functions import is_filled

_FOREIGN = frozenset({*sys.stdlib_module_names, "torch", "numpy", "speedup"})
# Tables that every module has: those of the traced clone are its own.
_OF_MODULES = frozenset(vars(nn.Module()))
_CONTAINERS = (dict, OrderedDict, defaultdict, list, set)
# Steps from the classes of the modules to what their code keeps something in; depth of containers.
_STEPS, _DEPTH = 4, 3
IsLeft = Callable[[object], bool]


@contextmanager
def surroundings_kept(model: nn.Module, is_left: IsLeft) -> Iterator[None]:
    """Take out on leaving what calls of `model` left around it: what `is_left`, and containers of such.

    What was in their place before is put there again. Caches of functions that were filled are emptied.
    """
    before = [(place, place.content()) for place in _places_around(model)]
    held = (value for _, content in before if isinstance(content, dict) for value in content.values())
    caches = {
        id(cache): (cache, cache.cache_info().misses) for cache in map(_unbound, held) if _is_cache(cache)
    }
    try:
        yield
    finally:
        for place, content in before:
            place.restore(content, lambda value: _holds(value, is_left, _DEPTH))
        for cache, misses in caches.values():
            if cache.cache_info().misses != misses:
                cache.cache_clear()


def is_tensor(value: object) -> bool:
    """Whether it is a tensor, as tables that a forward remembers are."""
    return isinstance(value, Tensor)


@frozen(eq=False)
class _Place:
    """Something that holds values by name or in order."""

    holder: Any

    def content(self) -> Any:
        """What it holds now, to be given to `restore`."""
        held = self.holder
        if isinstance(held, type | MutableMapping):
            return dict(vars(held) if isinstance(held, type) else held)
        return held.cell_contents if isinstance(held, CellType) else held.copy()

    def restore(self, before: Any, is_left: IsLeft) -> None:
        """Put what it held before in the place of what `is_left` of a trace."""
        held = self.holder
        if isinstance(held, CellType):
            if is_filled(held) and held.cell_contents is not before and is_left(held.cell_contents):
                held.cell_contents = before
        elif isinstance(held, type | MutableMapping):
            self._restore_names(before, is_left)
        elif sorted(map(id, held)) != sorted(map(id, before)) and any(map(is_left, held)):
            held.clear()
            (held.extend if isinstance(held, list) else held.update)(before)

    def _restore_names(self, before: dict[Any, Any], is_left: IsLeft) -> None:
        if not before and not self.content():
            return
        now = list(self.content().items())
        if len(now) == len(before) and all(
            a is c and b is d for (a, b), (c, d) in zip(now, before.items(), strict=True)
        ):
            return
        # Keys of a table may be tracked numbers, which ask to be hashed: they are compared by identity.
        old = {id(name): value for name, value in before.items()}
        left = [
            name
            for name, value in now
            if (id(name) not in old and is_left(name))
            or (value is not old.get(id(name), before) and is_left(value))
        ]
        if isinstance(self.holder, type):
            for name in left:
                setattr(self.holder, name, before[name]) if name in before else delattr(self.holder, name)
        elif all(isinstance(name, str) for name in left):
            for name in left:
                self.holder.pop(name)
            self.holder.update({name: before[name] for name in left if name in before})
        elif left:
            gone = set(map(id, left))
            self.holder.clear()
            self.holder.update({n: old.get(id(n), v) for n, v in now if id(n) in old or id(n) not in gone})


def _holds(value: object, is_left: IsLeft, depth: int) -> bool:
    """Whether a value is left by a call, or a container of such."""
    if is_left(value):
        return True
    if not depth or isinstance(value, str | bytes | type | Tensor | nn.Module):
        return False
    parts: Iterable[object] = ()
    if isinstance(value, dict):
        parts = (*value.keys(), *value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        parts = value
    elif type(value).__module__.partition(".")[0] not in _FOREIGN:
        parts = list(getattr(value, "__dict__", {}).values())
    return any(_holds(part, is_left, depth - 1) for part in parts)


def _places_around(model: nn.Module) -> Iterator[_Place]:
    """Where code that the forward of `model` may run keeps something: what it reaches in a few steps."""
    seen: set[int] = set()
    now: list[object] = list(dict.fromkeys(type(module) for module in model.modules()))
    now += [v for module in model.modules() for name, v in vars(module).items() if name not in _OF_MODULES]
    for _ in range(_STEPS):
        following: list[object] = []
        for one in map(_unbound, now):
            if id(one) not in seen and not _is_foreign(one):
                seen.add(id(one))
                yield from map(_Place, _kept_by(one))
                following += _reached_from(one)
                if isinstance(one, FunctionType) and id(one.__globals__) not in seen:
                    seen.add(id(one.__globals__))
                    yield _Place(one.__globals__)
                    following += one.__globals__.values()
        now = following


def _kept_by(one: object) -> Iterator[Any]:
    """What may hold something for `one`, globals left aside."""
    if isinstance(one, FunctionType):
        yield from (cell for cell in one.__closure__ or () if is_filled(cell))
        yield one.__dict__
    elif isinstance(one, type) or type(one) in _CONTAINERS:
        yield one
    elif not isinstance(one, ModuleType | nn.Module | Tensor) and isinstance(_attributes(one), dict):
        yield _attributes(one)


def _reached_from(one: object) -> Iterable[object]:
    if isinstance(one, type):
        return (*one.__mro__, *vars(one).values())
    if isinstance(one, FunctionType):
        return objects_held_by(one)
    if isinstance(one, ModuleType):
        return [value for value in vars(one).values() if isinstance(value, FunctionType)]
    if isinstance(one, property):
        return one.fget, one.fset
    return (one.__wrapped__,) if _is_cache(one) else (type(one),)


def _attributes(one: object) -> Any:
    return getattr(one, "__dict__", None)


def _unbound(one: Any) -> Any:
    return one.__func__ if isinstance(one, staticmethod | classmethod | MethodType) else one


def _is_cache(one: object) -> TypeGuard[_lru_cache_wrapper[Any]]:
    return isinstance(one, _lru_cache_wrapper)


def _is_foreign(one: object) -> bool:
    """Whether it is nothing that code of models keeps anything in: torch's, Python's, or a plain value."""
    if one is None or isinstance(one, str | int | float | bytes | tuple | frozenset):
        return True
    if isinstance(one, dict | list | set):
        # Those of other classes may do anything when they are looked at.
        return type(one) not in _CONTAINERS
    named = one if isinstance(one, type | FunctionType | ModuleType) or _is_cache(one) else type(one)
    name = getattr(named, "__name__" if isinstance(named, ModuleType) else "__module__", None)
    is_package = isinstance(named, ModuleType) and hasattr(named, "__path__")
    return not isinstance(name, str) or name.partition(".")[0] in _FOREIGN or is_package
