"""The source around a number that leaves a trace's sight: what takes it, and which others may matter."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import _lru_cache_wrapper
from inspect import getattr_static
from types import FrameType, MappingProxyType
from typing import Any

from torch import nn

from speedup.torch_api import modules_of
from speedup.tracing.frames import evaluated_at, syntax_of

IN_C = "code in C"
"""How a number is used of which no more is known."""
_MOST_HINTS = 12
_CONTAINERS = (
    list,
    tuple,
    dict,
    str,
    set,
    frozenset,
    nn.ModuleList,
    nn.ModuleDict,
    nn.Sequential,
    nn.ParameterList,
)


def index_use(frame: FrameType) -> str:
    """What code that asks for a plain int does with it, in the expression that `frame` is at."""
    match evaluated_at(frame.f_code, frame.f_lasti):
        case ast.Subscript(slice=ast.Slice()):
            return "a slice"
        case ast.Subscript():
            return "a lookup"
        case ast.BinOp(op=ast.Mult()):
            return "a repeated list"
    return IN_C


def hints_of(frame: FrameType) -> tuple[int, ...]:
    """Numbers that stand in the code of `frame`, and the lengths and keys of what it looks up in."""
    tree = syntax_of(frame.f_code)
    found: dict[int, None] = {}
    dims = {id(node) for node in _dim_numbers(tree)} if tree is not None else ()
    for node in ast.walk(tree) if tree is not None else ():
        match node:
            case ast.Constant() if id(node) in dims:
                continue
            case ast.Constant(value=int() as number) if type(number) is int:
                found[number] = None
            case ast.Constant(value=str() as text) if text.isdecimal():
                found[int(text)] = None
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
                found[len(parts)] = None
            case ast.Subscript(value=base) | ast.Compare(comparators=[base]):
                holder = _look_up(base, frame.f_locals, frame.f_globals)
                if isinstance(holder, _CONTAINERS):
                    found[len(holder)] = None
                    keys = holder if isinstance(holder, dict | set | frozenset | nn.ModuleDict) else ()
                    told = [int(k) if isinstance(k, str) and k.isdecimal() else k for k in keys]
                    found = {k: None for k in told if type(k) is int} | found
    return tuple(n for n in found if n > 0)[:_MOST_HINTS]


def _dim_numbers(tree: ast.AST) -> Iterator[ast.AST]:
    """The numbers of dimensions in `x.shape[1]` and `x.size(1)`."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=ast.Attribute(attr="shape"), slice=index):
                yield from ast.walk(index)
            case ast.Call(func=ast.Attribute(attr="size"), args=[index]):
                yield from ast.walk(index)


def is_message(frame: FrameType) -> bool:
    """Whether the line that `frame` is at only makes the words of an error."""
    tree = syntax_of(frame.f_code)
    offset = frame.f_lineno - frame.f_code.co_firstlineno + 1
    for node in ast.walk(tree) if isinstance(tree, ast.Module) else ():
        is_check = isinstance(node, ast.Assert | ast.Raise)
        match node:
            case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
                is_check = "assert" in name or "warn" in name or name in ("_check", "debug", "info")
        if is_check and getattr(node, "lineno", 0) <= offset <= (getattr(node, "end_lineno", None) or 0):
            return True
    return False


def is_calling_cached(frame: FrameType) -> bool:
    """Whether `frame` is calling a function with an `lru_cache`, which looks its arguments up."""
    node = evaluated_at(frame.f_code, frame.f_lasti)
    if not isinstance(node, ast.Call):
        return False
    called = _look_up(node.func, frame.f_locals, frame.f_globals)
    inner = called.__func__ if isinstance(called, staticmethod | classmethod) else called
    return isinstance(inner, _lru_cache_wrapper)


def _look_up(node: ast.expr, local: Mapping[str, Any], outer: Mapping[str, Any]) -> Any:
    """What a name, an attribute or an item of what a name stands for is; None where that would run code."""
    if isinstance(node, ast.Name):
        return local.get(node.id, outer.get(node.id))
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Subscript):
        holder, key = _look_up(node.value, local, outer), _look_up(node.slice, local, outer)
        if isinstance(holder, nn.ModuleList | nn.ModuleDict):
            holder = dict(modules_of(holder)) if isinstance(key, str) else list(modules_of(holder).values())
        is_plain = type(holder) in (dict, list, tuple, MappingProxyType) and type(key) in (str, int, bool)
        try:
            return holder[key] if is_plain else None
        except (KeyError, IndexError, TypeError):
            return None
    if isinstance(node, ast.Attribute):
        holder = _look_up(node.value, local, outer)
        if isinstance(holder, nn.Module) and node.attr in modules_of(holder):
            return modules_of(holder)[node.attr]
        return None if holder is None else getattr_static(holder, node.attr, None)
    return None
