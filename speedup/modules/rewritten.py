"""Modules with a rewritten forward: the same class, but for methods whose source was changed.

The source is text, so that such a module can be read, pickled, and built again from a plan
without tracing. It runs with the globals, closure and defaults of the function it replaces.
"""

from __future__ import annotations

import ast
import hashlib
import linecache
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

from attrs import astuple, evolve
from torch import nn

from speedup._stable import stable
from speedup.errors import SpeedupError
from speedup.ir.edits import Rewritten
from speedup.lowerings import HELPERS
from speedup.modules.functions import enclosed_names, unwrap

_ATTRIBUTE = "_speedup_rewritten"
_MADE: dict[tuple[int, Any], type[nn.Module]] = {}


def rewrite_module(module: nn.Module, functions: tuple[Rewritten, ...]) -> None:
    """Make `module` run `functions` in place of its methods of the same names."""
    module.__class__ = rewritten_class(type(module), functions)


def rewritten_class(base: type[nn.Module], functions: tuple[Rewritten, ...]) -> type[nn.Module]:
    """A class that is `base` in everything but the methods `functions`; the same one every time."""
    key = (id(base), functions)
    if key not in _MADE:
        # The class keeps its base alive, so that the id stays its own.
        _MADE[key] = _made_class(base, functions)
    return _MADE[key]


def rewritten_functions_of(kind: type) -> tuple[Rewritten, ...]:
    """What a class that `rewritten_class` made runs in place of its base's methods; none of any other."""
    known: tuple[Rewritten, ...] = vars(kind).get(_ATTRIBUTE, ())
    return known


def _made_class(base: type[nn.Module], functions: tuple[Rewritten, ...]) -> type[nn.Module]:
    known = rewritten_functions_of(base)
    if known:
        # Written anew from the class that can be imported, so that it can be pickled.
        return rewritten_class(base.__mro__[1], _merge(known, functions))
    members: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reduce,
        _ATTRIBUTE: functions,
    }
    made: type[nn.Module] = type(base.__name__, (base,), members | built_methods(base, functions))
    return made


def built_methods(base: type[nn.Module], functions: tuple[Rewritten, ...]) -> dict[str, Any]:
    """What `functions` define, by name, in place of the methods of `base`.

    Raises:
        SpeedupError: they cannot be built.
    """
    found: dict[str, Any] = {}
    for function in functions:
        owner = next((c for c in base.__mro__ if function.name in vars(c)), None)
        if owner is None:
            raise SpeedupError(f"{base.__name__} has no method {function.name!r} that could be rewritten")
        found[function.name] = build_function(function, vars(owner)[function.name], owner)
    return found


def _merge(old: tuple[Rewritten, ...], new: tuple[Rewritten, ...]) -> tuple[Rewritten, ...]:
    """What was rewritten once and then again: the new sources, with all that either needs."""
    known = {f.name: f for f in old}
    for function in new:
        before = known.get(function.name, function)
        helpers = _merge(before.helpers, function.helpers)
        borrowed = tuple(dict.fromkeys((*before.borrowed, *function.borrowed)))
        known[function.name] = evolve(function, helpers=helpers, borrowed=borrowed)
    return tuple(known.values())


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    state = self.__getstate__()  # type: ignore[no-untyped-call]
    plain = tuple(astuple(function) for function in rewritten_functions_of(type(self)))
    return restore_rewritten, (type(self).__mro__[1], plain), state


@stable
def restore_rewritten(base: type[nn.Module], functions: tuple[Any, ...]) -> nn.Module:
    """A module without state of the class that `base` is with these functions, which may be plain tuples."""
    made = rewritten_class(base, tuple(_from_plain(function) for function in functions))
    return made.__new__(made)


def _from_plain(function: Any) -> Rewritten:
    if isinstance(function, Rewritten):
        return function
    name, source, helpers, borrowed = function
    return Rewritten(name, source, tuple(_from_plain(helper) for helper in helpers), borrowed)


def build_function(
    function: Rewritten, original: Callable[..., Any], owner: type | None
) -> Callable[..., Any]:
    """The function that `function`'s source defines, in the surroundings of `original`.

    Raises:
        SpeedupError: `original` is no Python function, or the source does not fit it.
    """
    plain = unwrap(original)
    if not isinstance(plain, FunctionType):
        raise SpeedupError(f"{function.name!r} is a {type(plain).__name__}, no function to rewrite")
    names = _surroundings(plain, owner)
    for helper in function.helpers:
        names[helper.name] = build_function(helper, plain.__globals__[helper.name], None)
    for name in function.borrowed:
        names[name] = HELPERS[name]
    if function.name in names:
        raise SpeedupError(f"{function.name!r} is also the name of something that it uses")
    file = f"<speedup {function.name} {hashlib.sha256(function.source.encode()).hexdigest()[:16]}>"
    scope: dict[str, Any] = {}
    try:
        exec(compile(_within(function.source, names), file, "exec"), plain.__globals__, scope)
        made: Callable[..., Any] = scope["_made"](**names)
    except Exception as error:
        raise SpeedupError(f"the rewritten source of {function.name!r} does not compile: {error}") from error
    inner = unwrap(made)
    inner.__defaults__, inner.__kwdefaults__ = plain.__defaults__, plain.__kwdefaults__
    # Tracebacks, and a later plan, read the source from here.
    text = function.source
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    return made


def _within(source: str, names: Iterable[str]) -> ast.Module:
    """A function `_made` that takes `names` and returns the function that `source` defines in their sight."""
    (function,) = ast.parse(source).body
    outer = ast.parse(f"def _made({', '.join(names)}):\n    return {getattr(function, 'name', None)}").body[0]
    assert isinstance(outer, ast.FunctionDef), "this is what was written"
    private = (n for n in ast.walk(function) if isinstance(n, ast.Attribute) and _is_private(n.attr))
    if (found := next(private, None)) is not None:
        raise SpeedupError(f"{found.attr!r} is a name that only its class's own source can spell")
    outer.body.insert(0, function)
    return ast.Module([outer], [])


def _is_private(name: str) -> bool:
    return name.startswith("__") and not name.endswith("__")


def _surroundings(function: FunctionType, owner: type | None) -> dict[str, Any]:
    """The names that `function` finds in enclosing scopes, and its class for `super()`."""
    return ({} if owner is None else {"__class__": owner}) | enclosed_names(function)
