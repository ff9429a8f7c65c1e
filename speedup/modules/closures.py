"""Functions that hold a model in a closure or a default, such as `self.f = lambda x: self.layer(x)`.

A deep copy hands functions over as they are, so that a copied model would keep calling the
layers of the original. Twins of such functions refer to the copy instead.
"""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CellType, FunctionType
from typing import Any

from attrs import frozen
from torch import nn

from speedup.modules.functions import is_filled

Parts = Callable[[object], Iterable[object]]


@frozen(eq=False)
class Twin:
    """A function and its copy, whose cells are empty until `fill` runs; `reaches` tells what to copy."""

    # mypy takes functions in attributes for methods.
    old: Any
    new: Any
    reaches: Callable[[object], bool]

    def fill(self, memo: dict[int, Any]) -> None:
        """Give the new function what the old one holds, the parts of the model as `memo` has them."""

        def copied(value: Any) -> Any:
            return copy.deepcopy(value, memo) if self.reaches(value) else value

        for old, new in zip(self.old.__closure__ or (), self.new.__closure__ or (), strict=True):
            if new is not old:
                new.cell_contents = copied(old.cell_contents)
        if self.old.__defaults__ is not None:
            self.new.__defaults__ = tuple(map(copied, self.old.__defaults__))
        if self.old.__kwdefaults__ is not None:
            self.new.__kwdefaults__ = {k: copied(v) for k, v in self.old.__kwdefaults__.items()}
        self.new.__dict__.update({k: copied(v) for k, v in self.old.__dict__.items()})


def objects_held_by(function: FunctionType) -> Iterator[object]:
    """What a function refers to besides its globals."""
    for cell in function.__closure__ or ():
        if is_filled(cell):
            yield cell.cell_contents
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from function.__dict__.values()


def twins_of(model: nn.Module, functions: Iterable[FunctionType], parts: Parts) -> tuple[Twin, ...]:
    """Twins of those of `functions`, which `model` holds, that hold a part of it in turn, and of those that
    these hold.

    `parts` gives what an object that is no function holds directly.
    """
    owned = {id(module) for module in model.modules()}
    owned |= {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    # The values keep the objects alive, so that no id is used twice.
    known: dict[int, tuple[object, bool]] = {}

    def reaches(value: object) -> bool:
        if id(value) not in known:
            known[id(value)] = value, any(id(v) in owned for v in walk([value], parts))
        return known[id(value)][1]

    held = [v for v in walk(functions, parts) if isinstance(v, FunctionType)]
    return tuple(Twin(f, _hollow(f, reaches), reaches) for f in held if any(map(reaches, objects_held_by(f))))


def walk(start: Iterable[object], parts: Parts) -> Iterator[object]:
    """The objects of `start` and everything they hold, each once. `parts` gives what an object that is no
    function holds directly.
    """
    seen: dict[int, object] = {}
    pending = list(start)
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        yield value
        pending.extend(objects_held_by(value) if isinstance(value, FunctionType) else parts(value))


def _hollow(function: FunctionType, reaches: Callable[[object], bool]) -> FunctionType:
    """A copy of `function` with empty cells for those that hold a part of the model; it shares the others."""
    cells = tuple(
        CellType() if is_filled(cell) and reaches(cell.cell_contents) else cell
        for cell in function.__closure__ or ()
    )
    twin = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells or None)
    twin.__qualname__, twin.__module__ = function.__qualname__, function.__module__
    twin.__doc__ = function.__doc__
    _copy_annotations(function, twin)
    return twin


def _copy_annotations(function: FunctionType, twin: FunctionType) -> None:
    """Give `twin` the annotations of `function`, which since Python 3.14 are evaluated by whoever asks for
    them, and may name what does not exist while a program runs.
    """
    lazily = getattr(function, "__annotate__", None) if sys.version_info >= (3, 14) else None
    if lazily is None:
        twin.__annotations__ = function.__annotations__
    else:
        setattr(twin, "__annotate__", lazily)  # noqa: B010  no attribute of functions that types know here


def renew_weak_references(model: nn.Module, memo: Mapping[int, Any]) -> None:
    """Point weak references that modules keep to modules of `model` at the copies in `memo`."""
    for module in model.modules():
        twin = memo.get(id(module))
        for name, value in vars(module).items():
            referent = value() if type(value) is weakref.ref else None
            if twin is not None and isinstance(referent, nn.Module) and id(referent) in memo:
                vars(twin)[name] = weakref.ref(memo[id(referent)])
