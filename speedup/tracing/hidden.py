"""What code does with the sizes that it reads, told from its source: does it use them out of sight?

Of code that reads a size and does something else with it than arithmetic of tracked numbers, such as a lookup
or a call into C, only its source tells.
"""

from __future__ import annotations

import ast
import builtins
import inspect
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import _lru_cache_wrapper, lru_cache
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MappingProxyType, ModuleType
from typing import Any

import torch
from attrs import frozen
from torch import nn

from speedup.torch_api import modules_of
from speedup.tracing.frames import evaluated_at, is_library, syntax_of

_DEPTH, _MOST_HINTS = 3, 12
_LOOKUP, _UNREADABLE, _UNKNOWN = "a lookup", "code whose source is not at hand", "a function found by running"
_CONTAINERS = (list, tuple, dict, str, nn.ModuleList, nn.ModuleDict, nn.Sequential, nn.ParameterList)
# Functions and classes of C that take an int for what it is.
_OF_C = frozenset({hex, oct, bin, chr, bytes, bytearray, torch.Size, complex})


@frozen
class Hidden:
    """How code may use sizes out of sight, of which dimensions (None: any), and numbers that may matter."""

    how: str
    dims: frozenset[int] | None = None
    hints: tuple[int, ...] = ()

    @property
    def is_lookup(self) -> bool:
        """Whether the size only says which of several things is taken, as far as can be told."""
        return self.how in (_LOOKUP, _UNKNOWN)


def hidden_use(frame: FrameType) -> Hidden | None:
    """How the code of `frame`, which reads a size, may use it out of sight; None where it does not."""
    tree = syntax_of(frame.f_code)
    if tree is None:
        return Hidden(_UNREADABLE) if any(map(_may_hide, _names_in(frame))) else None
    how = _Reading(frame.f_globals, dict(frame.f_locals), _DEPTH).of(frame.f_code, (), ())
    return Hidden(how, _dims_read(tree), hints_of(frame)) if how else None


def _names_in(frame: FrameType) -> Iterator[Any]:
    """What the names in the code of `frame` stand for, those of attributes as attributes of `self`."""
    owner = frame.f_locals.get("self")
    for name in frame.f_code.co_names:
        yield frame.f_globals.get(name)
        if owner is not None:
            yield modules_of(owner).get(name) if isinstance(owner, nn.Module) else None
            yield inspect.getattr_static(owner, name, None)


def _may_hide(named: Any) -> bool:
    """Whether something that code without source names could take a number out of sight."""
    return isinstance(named, (*_CONTAINERS, FunctionType)) or bool(_hidden_in(named))


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
                if isinstance(holder, (*_CONTAINERS, set, frozenset)):
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


def _dims_read(tree: ast.AST) -> frozenset[int] | None:
    """The dimensions whose sizes a function reads, each by its number; None where it reads whole shapes."""
    whole, read = 0, set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr="shape"):
                whole += 1
            case ast.Call(func=ast.Attribute(attr="size"), args=[]) | ast.Call(func=ast.Name(id="len")):
                return None
            case ast.Call(func=ast.Attribute(attr="size"), args=[index]):
                read.add(_constant(index))
            case ast.Subscript(value=ast.Attribute(attr="shape"), slice=index):
                whole -= 1
                read.add(_constant(index))
    return None if whole or None in read else frozenset(n for n in read if n is not None)


def _constant(node: ast.expr) -> int | None:
    try:
        found = ast.literal_eval(node)
    except ValueError:
        return None
    return found if type(found) is int else None


@frozen(eq=False)
class _Reading:
    """Looks through source for what becomes of sizes; `outer` and `local` say what its names stand for."""

    outer: Mapping[str, Any]
    local: Mapping[str, Any]
    depth: int

    def of(self, code: CodeType, given: Collection[str], numbers: Collection[str]) -> str:
        """How a function uses sizes out of sight.

        `given` are its parameters that may hold something made from sizes, `numbers` those that are sizes.
        """
        tree = syntax_of(code)
        if tree is None:
            return ""
        sized = _names_of(tree, frozenset(given), _holds_size)
        numbers = _names_of(tree, frozenset(numbers), _is_size)
        return next(filter(None, (self._of_node(node, sized, numbers) for node in ast.walk(tree))), "")

    def _of_node(self, node: ast.AST, sized: Collection[str], numbers: Collection[str]) -> str:
        match node:
            case ast.Call(func=ast.Attribute(attr="numel", value=shape)) if _is_shape(shape):
                return "numel() of a shape"
            case ast.Call(func=function, args=arguments, keywords=keywords):
                given = (*arguments, *(k.value for k in keywords))
                if not any(_holds_size(a, sized) for a in given):
                    return ""
                places = [n for n, a in enumerate(arguments) if _is_size(a, numbers)]
                named = [k.arg for k in keywords if k.arg and _is_size(k.value, numbers)]
                return self._of_callee(function, places, named)
            case ast.Subscript(value=ast.Call(func=made), slice=index, ctx=ast.Load()):
                # What a function made, if that may be no tensor.
                return _LOOKUP if _is_size(index, numbers) and self._may_make_container(made) else ""
            case ast.Subscript(value=base, slice=index, ctx=ast.Load()) if _holds_size(index, sized):
                looked_up = isinstance(base, ast.Tuple | ast.List | ast.Dict | ast.Constant)
                found = looked_up or isinstance(_look_up(base, self.local, self.outer), _CONTAINERS)
                return _LOOKUP if found else ""
        return ""

    def _may_make_container(self, function: ast.expr) -> bool:
        """Whether a function that is called may return a list, a table or the like."""
        made = _look_up(function, self.local, ChainMap(dict(self.outer), vars(builtins)))
        if made is None:
            return not _may_be_tensors(function)
        code = getattr(made, "__code__", None)
        is_own = isinstance(code, CodeType) and not is_library(code)
        return is_own or made in (list, tuple, dict, sorted, reversed, str, zip, map)

    def _of_callee(self, function: ast.expr, places: Sequence[int], named: Sequence[str]) -> str:
        """What becomes of sizes in a call; `places` and `named` tell the arguments that are sizes."""
        callee = _look_up(function, self.local, ChainMap(dict(self.outer), vars(builtins)))
        if callee is None:
            # A name may be assigned later on; what most of these stand for works on tensors.
            is_named = isinstance(_root(function), ast.Name) or _may_be_tensors(function)
            return _UNKNOWN if (places or named) and not is_named else ""
        if isinstance(callee, BuiltinFunctionType | type) or _hidden_in(callee):
            return _hidden_in(callee)
        if isinstance(callee, staticmethod | classmethod):
            callee = callee.__func__
        owner = {"self": self.local["self"]} if "self" in self.local else {}
        if isinstance(callee, nn.Module):
            owner, callee = {"self": callee}, inspect.getattr_static(type(callee), "forward", None)
        if not isinstance(callee, FunctionType) or not self.depth:
            return ""
        code = callee.__code__
        if is_library(code):
            return ""
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        first = 1 if names[:1] == ("self",) else 0
        numbers = {*named, *(names[first + n] for n in places if first + n < len(names))}
        return _Reading(callee.__globals__, owner, self.depth - 1).of(code, names, numbers)


def _root(node: ast.expr) -> ast.expr:
    """What an attribute of an attribute is one of."""
    return _root(node.value) if isinstance(node, ast.Attribute) else node


def _may_be_tensors(function: ast.expr) -> bool:
    """Whether a call is written as one of a tensor's methods."""
    return isinstance(function, ast.Attribute) and hasattr(torch.Tensor, function.attr)


def _hidden_in(callee: Any) -> str:
    """How a function of C, a class of numbers or anything of numpy takes numbers out of sight; empty where
    it does not.
    """
    if isinstance(callee, BuiltinFunctionType):
        home = callee.__self__ if isinstance(callee.__self__, ModuleType) else None
        is_hidden = callee in _OF_C or (home is not None and home.__name__ in ("math", "operator"))
        return f"{callee.__name__}()" if is_hidden else ""
    if isinstance(callee, type) and (callee in _OF_C or callee.__module__ in ("decimal", "fractions")):
        return f"{callee.__name__}()"
    homes = (type(callee).__module__, getattr(callee, "__module__", None) or getattr(callee, "__name__", ""))
    return "numpy" if any(str(home).partition(".")[0] == "numpy" for home in homes) else ""


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


# Frames of one function come up in every trace of a model, and long functions take long.
@lru_cache(maxsize=1024)
def _names_of(
    tree: ast.AST, given: frozenset[str], holds: Callable[[ast.expr, Collection[str]], bool]
) -> frozenset[str]:
    """The names in a function that may have been assigned what `holds`; `given` do from the start."""
    found = set(given)
    while True:
        before = len(found)
        for node in ast.walk(tree):
            match node:
                case ast.Assign(targets=targets, value=value) if holds(value, found):
                    found.update(n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))
                case ast.AugAssign(target=target, value=value) | ast.NamedExpr(target=target, value=value):
                    if holds(value, found):
                        found.update(n.id for n in ast.walk(target) if isinstance(n, ast.Name))
        if len(found) == before:
            return frozenset(found)


def _holds_size(node: ast.expr, sized: Collection[str]) -> bool:
    """Whether an expression reads a shape, a length or a name that holds such a number."""
    for inner in ast.walk(node):
        match inner:
            case ast.Name(id=name) if name in sized:
                return True
            case ast.Attribute(attr="shape"):
                return True
            case ast.Call(func=ast.Attribute(attr="size" | "numel")) | ast.Call(func=ast.Name(id="len")):
                return True
    return False


def _is_size(node: ast.expr, sized: Collection[str]) -> bool:
    """Whether an expression is a number made from sizes, and no tensor that was made with them."""
    match node:
        case ast.Name(id=name):
            return name in sized
        case ast.BinOp(left=one, right=other):
            return _is_size(one, sized) or _is_size(other, sized)
        case ast.UnaryOp(operand=one) | ast.Starred(value=one) | ast.Subscript(value=one):
            return _is_size(one, sized) or _is_shape(node)
        case (
            ast.Tuple(elts=arguments)
            | ast.List(elts=arguments)
            | ast.Call(func=ast.Name(id="int" | "min" | "max" | "abs" | "round" | "float"), args=arguments)
        ):
            return any(_is_size(one, sized) for one in arguments)
        case ast.Attribute(attr="shape"):
            return True
        case ast.Call(func=ast.Attribute(attr="size" | "numel")) | ast.Call(func=ast.Name(id="len")):
            return True
    return False


def _is_shape(node: ast.expr) -> bool:
    """Whether an expression is the shape of a tensor, or a part of it."""
    match node:
        case ast.Subscript(value=whole):
            return _is_shape(whole)
        case ast.Attribute(attr="shape") | ast.Call(func=ast.Attribute(attr="size")):
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
        return None if holder is None else inspect.getattr_static(holder, node.attr, None)
    return None
