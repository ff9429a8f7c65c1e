"""Functions that a module keeps as attributes of its own, and what can stand in their place in its source.

A method that calls `self.act(x)` runs whatever `act` is. Where that is a lambda, its text can stand there
instead; where it is a function that the method finds by its name, that name can.
"""

from __future__ import annotations

import ast
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final

from attrs import frozen

from speedup.forwards.source import first_argument, is_code, source_file
from speedup.ir.graph import Frame
from speedup.modules.functions import names_of
from speedup.tracing.frames import syntax_of

_ABSENT: Final = object()
_FIXED = (ModuleType, FunctionType, BuiltinFunctionType, type)


@frozen(eq=False)
class Kept:
    """A call of a function that is an attribute: the attribute as it is `written`, and its `stand_in`."""

    function: FunctionType
    written: ast.Attribute
    stand_in: ast.Lambda | ast.Name


def kept_function(
    call: ast.AST | None, attributes: dict[str, Any], method: FunctionType, frame: Frame
) -> Kept | None:
    """The function that `call` in a method runs as `frame`, if it is one of the object's `attributes`.

    None where it is none, or where nothing can stand in its place.
    """
    own = own_name(method)
    match call:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attribute) as written) if name == own:
            function = attributes.get(attribute)
        case _:
            return None
    if not isinstance(function, FunctionType) or not is_code(function, frame):
        return None
    found = stand_in(function, method)
    return None if found is None else Kept(function, written, found)


def own_name(method: FunctionType) -> str | None:
    """What a method calls its object."""
    code = method.__code__
    file = source_file(code.co_filename)
    start = (code.co_firstlineno, 0, code.co_firstlineno, 0)
    frame = Frame(code.co_filename, code.co_qualname, code.co_firstlineno, start)
    definition = None if file is None else file.function(frame)
    return None if definition is None else first_argument(definition)


def stand_in(function: FunctionType, method: FunctionType) -> ast.Lambda | ast.Name | None:
    """What the source of `method` may say for `function`: a lambda, or its name; None where that would be
    something else there.
    """
    name = function.__name__
    if name != "<lambda>":
        return ast.Name(name, ast.Load()) if _is_same(name, {name: function}, method, True) else None
    tree = syntax_of(function.__code__)
    if not isinstance(tree, ast.Lambda) or function.__defaults__ or function.__kwdefaults__:
        return None
    bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound |= {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    shared = function.__globals__ is method.__globals__
    agree = all(
        _is_same(node.id, names_of(function), method, shared) for node in names if node.id not in bound
    )
    return tree if agree else None


def _is_same(name: str, there: Any, method: FunctionType, shared: bool) -> bool:
    """Whether a name is the same thing in `method`, and stays so where globals are not `shared`."""
    code = method.__code__
    if name in code.co_varnames or name in code.co_cellvars:
        return False
    one, other = there.get(name, _ABSENT), names_of(method).get(name, _ABSENT)
    return one is other and (shared or one is _ABSENT or isinstance(one, _FIXED))
