"""Is source from a file the model's own, with calls that state other numbers? Nothing else may run.

Rewritten forwards are text. Text that comes from a file is compared, as a syntax tree, with the source of
the class at hand, and may differ in what lowerings write only: numbers and lists of numbers as arguments
and in subscripts, and the few calls that a call may become. So the file has a say in which numbers the
model's own code computes with, but cannot make it call anything that it does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from types import FunctionType, MappingProxyType
from typing import Any

from attrs import frozen

from speedup.errors import ForeignSourceError
from speedup.forwards.kept_functions import own_name, stand_in
from speedup.forwards.source import source_file
from speedup.ir.edits import Rewritten
from speedup.ir.graph import Frame
from speedup.lowerings import HELPERS, LOWERINGS
from speedup.lowerings.spreading import are_spread
from speedup.lowerings.syntax import is_literal
from speedup.modules.functions import names_of, unwrap


def require_restated(
    kind: type, functions: Iterable[Rewritten], attributes: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Raise unless `functions` are methods of `kind` that only state other numbers.

    A function among the `attributes` of an object of that class may stand in the place of the attribute.

    Raises:
        ForeignSourceError: one of them does something else, or the source of `kind` is not to be had.
    """
    for function in functions:
        owner = next((one for one in kind.__mro__ if function.name in vars(one)), None)
        original = None if owner is None else vars(owner)[function.name]
        _check(function, original, kind.__name__, attributes)


def _check(function: Rewritten, original: Any, owner: str, attributes: Mapping[str, Any]) -> None:
    plain = unwrap(original)
    name = f"{function.name!r} of {owner}"
    old = _definition(plain) if isinstance(plain, FunctionType) else None
    if old is None:
        raise ForeignSourceError(
            f"the plan rewrites {name}, the source of which cannot be found, so that it cannot be compared. "
            "Load it where the model's source is at hand, or plan again there."
        )
    comparison = _Comparison(_stand_ins(plain, attributes))
    if not set(function.borrowed) <= set(HELPERS) or not comparison.agree(
        [old], _parsed(function.source), False
    ):
        raise ForeignSourceError(
            f"the plan holds source for {name} that is not its own with other numbers: the class has changed "
            "since planning, or the file was tampered with. Nothing of it was run. Plan again."
        )
    for helper in function.helpers:
        _check(helper, names_of(plain).get(helper.name), owner, {})


def _stand_ins(method: FunctionType, attributes: Mapping[str, Any]) -> Mapping[str, ast.expr]:
    """What a method may say in the place of attributes that hold functions, by how these are written."""
    own, found = own_name(method), {}
    for name, function in attributes.items() if own is not None else ():
        node = stand_in(function, method) if isinstance(function, FunctionType) else None
        if node is not None:
            found[f"{own}.{name}"] = node
    return found


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


@frozen(eq=False)
class _Comparison:
    """Compares source with the model's own; `stand_ins` may be written in the place of attributes."""

    stand_ins: Mapping[str, ast.expr]

    def agree(self, old: Any, new: Any, is_argument: bool) -> bool:
        """Whether `new` is `old` but for restated numbers and calls; numbers may be new within arguments."""
        if isinstance(new, list):
            if not isinstance(old, list):
                return False
            alike = len(old) == len(new) and all(
                self.agree(a, b, is_argument) for a, b in zip(old, new, strict=True)
            )
            return alike or (is_argument and self._agree_but_for_one_spread(old, new))
        if not isinstance(new, ast.AST):
            return type(old) is type(new) and bool(old == new)
        if isinstance(old, ast.Attribute) and isinstance(new, ast.Lambda | ast.Name):
            return self.agree(self.stand_ins.get(ast.unparse(old)), new, False)
        if is_argument and isinstance(old, ast.expr | ast.Slice) and is_literal(new):
            return True
        if (
            is_argument
            and isinstance(old, ast.expr)
            and isinstance(new, ast.Tuple)
            and are_spread(old, new.elts)
        ):
            return True
        if type(old) is type(new) and all(
            self.agree(
                getattr(old, field, None), getattr(new, field, None), _is_argument(new, field, is_argument)
            )
            for field in new._fields
        ):
            return True
        if isinstance(old, ast.BinOp | ast.AugAssign):
            return any(one.may_replace_operation(old, new, self.agree) for one in LOWERINGS)
        return isinstance(old, ast.Call) and any(one.may_replace(old, new, self.agree) for one in LOWERINGS)

    def _agree_but_for_one_spread(self, old: list[Any], new: list[Any]) -> bool:
        """Whether `new` is `old` with numbers in the place of some that an element spreads."""
        star = next((n for n, one in enumerate(old) if isinstance(one, ast.Starred)), None)
        if star is None or len(new) < len(old):
            return False
        behind = len(new) - (len(old) - star - 1)
        before, spread, after = new[:star], new[star:behind], new[behind:]
        plain = [*zip(old[:star], before, strict=True), *zip(old[star + 1 :], after, strict=True)]
        return are_spread(old[star].value, spread) and all(self.agree(a, b, True) for a, b in plain)


def _is_argument(node: ast.AST, field: str, outer: bool) -> bool:
    match node:
        case ast.Call():
            return field != "func"
        case ast.Subscript():
            return field == "slice"
        case _:
            return outer
