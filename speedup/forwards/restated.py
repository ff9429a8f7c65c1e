"""Is source from a file the model's own, with calls that state other numbers? Nothing else may run.

Rewritten forwards are text. Text that comes from a file is compared, as a syntax tree, with the source of
the class at hand, and may differ in what `phrasing` writes only: numbers and lists of numbers as arguments
and in subscripts, and the few calls that a call may become. So the file has a say in which numbers the
model's own code computes with, but cannot make it call anything that it does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from types import FunctionType
from typing import Any

from speedup.errors import ForeignSourceError
from speedup.forwards.source import source_file
from speedup.ir.edits import Rewritten
from speedup.ir.graph import Frame
from speedup.modules.functions import names_of, unwrapped

# Calls that give the parts of a tensor, which a split into given sizes gives too.
_PARTING = frozenset({"chunk", "unsafe_chunk", "tensor_split", "split", "unsafe_split"})
_BORROWED = frozenset({"torch", "partial_layer_norm"})


def require_restated(kind: type, functions: Iterable[Rewritten]) -> None:
    """Raise unless `functions` are methods of `kind` that only state other numbers.

    Raises:
        ForeignSourceError: one of them does something else, or the source of `kind` is not to be had.
    """
    for function in functions:
        owner = next((one for one in kind.__mro__ if function.name in vars(one)), None)
        _check(function, None if owner is None else vars(owner)[function.name], kind.__name__)


def _check(function: Rewritten, original: Any, owner: str) -> None:
    plain = unwrapped(original)
    name = f"{function.name!r} of {owner}"
    old = _definition(plain) if isinstance(plain, FunctionType) else None
    if old is None:
        raise ForeignSourceError(
            f"the plan rewrites {name}, the source of which cannot be found, so that it cannot be compared. "
            "Load it where the model's source is at hand, or plan again there."
        )
    if not set(function.borrowed) <= _BORROWED or not _agree([old], _parsed(function.source), False):
        raise ForeignSourceError(
            f"the plan holds source for {name} that is not its own with other numbers: the class has changed "
            "since planning, or the file was tampered with. Nothing of it was run. Plan again."
        )
    for helper in function.helpers:
        _check(helper, names_of(plain).get(helper.name), owner)


def _definition(function: FunctionType) -> ast.AST | None:
    code = function.__code__
    file = source_file(code.co_filename)
    span = (code.co_firstlineno, 0, code.co_firstlineno, 0)
    frame = Frame(code.co_filename, code.co_qualname, code.co_firstlineno, span)
    return None if file is None else file.function(frame)


def _parsed(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError):
        return []


def _agree(old: Any, new: Any, is_argument: bool) -> bool:
    """Whether `new` is `old` but for restated numbers and calls; within arguments, numbers may be new."""
    if isinstance(new, list):
        if not isinstance(old, list) or len(old) != len(new):
            return False
        return all(_agree(a, b, is_argument) for a, b in zip(old, new, strict=True))
    if not isinstance(new, ast.AST):
        return type(old) is type(new) and bool(old == new)
    if is_argument and isinstance(old, ast.expr | ast.Slice) and _is_literal(new):
        return True
    if type(old) is type(new) and all(
        _agree(getattr(old, field, None), getattr(new, field, None), _is_argument(new, field, is_argument))
        for field in new._fields
    ):
        return True
    return isinstance(old, ast.Call) and _restates(old, new)


def _is_argument(node: ast.AST, field: str, outer: bool) -> bool:
    match node:
        case ast.Call():
            return field != "func"
        case ast.Subscript():
            return field == "slice"
        case _:
            return outer


def _is_literal(node: Any) -> bool:
    """A number, or a list of numbers."""
    match node:
        case ast.Constant(value=bool() | int() | float()):
            return True
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            return True
        case ast.List(elts=elements):
            return all(_is_literal(one) and not isinstance(one, ast.List) for one in elements)
    return False


def _restates(old: ast.Call, new: ast.AST) -> bool:
    """Whether `new` is one of the expressions that stand for a call with other numbers."""
    match new, _last_name(old.func).rstrip("_"):
        case ast.Subscript(value=value, slice=index), _:
            return _is_index(index) and any(_agree(one, value, False) for one in _tensors(old))
        case ast.BinOp(left=ast.Call() as total, op=ast.Div(), right=right), "mean":
            return _is_literal(right) and _is_respoken(old, total, "sum")
        case ast.Call(func=ast.Name(id="partial_layer_norm"), args=args), "layer_norm":
            return _agree(old.args, args, True) and _keywords_agree(old, new)
        case ast.Call(), name if name in _PARTING:
            return _is_respoken(old, new, "split")
    return False


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _tensors(call: ast.Call) -> Iterable[ast.expr]:
    """What a call may be about: that whose method it is, or its first argument."""
    if isinstance(call.func, ast.Attribute):
        yield call.func.value
    yield from call.args[:1]


def _is_index(node: ast.expr) -> bool:
    elements = node.elts if isinstance(node, ast.Tuple) else [node]
    return all(
        (isinstance(one, ast.Slice) and (one.lower, one.upper, one.step) == (None, None, None))
        or _is_literal(one)
        for one in elements
    )


def _is_respoken(old: ast.Call, new: ast.Call, name: str) -> bool:
    """Whether `new` calls `name` where `old` calls another function of the same tensor or module."""
    if not isinstance(new.func, ast.Attribute) or new.func.attr != name:
        return False
    if isinstance(old.func, ast.Attribute):
        reached = _agree(old.func.value, new.func.value, False)
    else:
        reached = isinstance(new.func.value, ast.Name) and new.func.value.id == "torch"
    known = all(_is_literal(a) or any(_agree(b, a, True) for b in old.args) for a in new.args)
    return reached and known and _keywords_agree(old, new)


def _keywords_agree(old: ast.Call, new: ast.AST) -> bool:
    known = {keyword.arg: keyword.value for keyword in old.keywords}
    return isinstance(new, ast.Call) and all(
        keyword.arg is not None
        and (_is_literal(keyword.value) or _agree(known.get(keyword.arg), keyword.value, True))
        for keyword in new.keywords
    )
