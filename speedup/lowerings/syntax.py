"""Calls as they are written, and changes of their text.

Positions are Python's own: lines from 1, columns in bytes of the UTF-8 text.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from attrs import frozen

from speedup.ir.graph import Op

Position = tuple[int, int]
Extent = tuple[Position, Position]
"""Where an expression starts and ends."""


@frozen
class Change:
    """Replace what lies between two (line, column) positions by `text`."""

    start: Position
    end: Position
    text: str


@frozen(eq=False)
class WrittenCall:
    """A call of an operator: its name as written, the tensor it is about, the other arguments."""

    node: ast.Call
    name: str
    tensor: ast.expr
    arguments: tuple[ast.expr, ...]
    is_method: bool

    def keyword(self, name: str) -> ast.expr | None:
        """The argument given by the keyword `name`."""
        return next((k.value for k in self.node.keywords if k.arg == name), None)

    def renamed(self, name: str) -> Change:
        """The call of function or method `name` in place of this one's."""
        start, end = start_of(self.node.func), end_of(self.node.func)
        if isinstance(self.node.func, ast.Attribute):
            return Change((end[0], end[1] - len(self.node.func.attr)), end, name)
        return Change(start, end, f"torch.{name}")


def read_call(node: ast.Call, scope: Mapping[str, Any]) -> WrittenCall | None:
    """The parts of a call; None when what it is about is spread from an iterable, or no tensor.

    `scope` tells modules, such as `torch` or `nn.functional`, from objects.
    """
    if any(k.arg is None for k in node.keywords):
        return None
    if isinstance(node.func, ast.Attribute):
        if not isinstance(_value_of(node.func.value, scope), ModuleType):
            return WrittenCall(node, node.func.attr, node.func.value, tuple(node.args), True)
        name = node.func.attr
    elif isinstance(node.func, ast.Name):
        name = node.func.id
    else:
        return None
    tensor = node.args[0] if node.args else next((k.value for k in node.keywords if k.arg == "input"), None)
    if tensor is None or isinstance(tensor, ast.Starred):
        return None
    return WrittenCall(node, name, tensor, tuple(node.args[1:]), False)


def _value_of(node: ast.expr, scope: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return scope.get(node.id)
    if isinstance(node, ast.Attribute):
        outer = _value_of(node.value, scope)
        return getattr(outer, node.attr, None) if isinstance(outer, ModuleType) else None
    return None


def start_of(node: ast.expr | ast.stmt) -> Position:
    """Where the text of `node` begins."""
    return node.lineno, node.col_offset


def end_of(node: ast.expr | ast.stmt) -> Position:
    """Where the text of `node` has ended."""
    return node.end_lineno or node.lineno, node.end_col_offset or node.col_offset


def replace(node: ast.expr, value: Any) -> Change:
    """The literal `value` in place of `node`."""
    return Change(start_of(node), end_of(node), repr(value))


def is_literal(node: Any) -> bool:
    """Whether `node` is a number, or a list of numbers."""
    match node:
        case ast.Constant(value=bool() | int() | float()):
            return True
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            return True
        case ast.List(elts=elements):
            return all(is_literal(one) and not isinstance(one, ast.List) for one in elements)
    return False


def is_constant(node: ast.expr, value: Any) -> bool:
    """Whether `node` is written as `value`, one of None, Ellipsis and the like."""
    return isinstance(node, ast.Constant) and node.value is value


def is_full_slice(node: ast.expr) -> bool:
    """Whether `node` is a `:`."""
    return isinstance(node, ast.Slice) and (node.lower, node.upper, node.step) == (None, None, None)


def elements_of(node: ast.Subscript) -> list[ast.expr]:
    """What stands in the brackets, one by one."""
    return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]


def subjects_of(call: ast.Call) -> Iterable[ast.expr]:
    """What a call may be about: that whose method it is, or its first argument."""
    if isinstance(call.func, ast.Attribute):
        yield call.func.value
    yield from call.args[:1]


def last_name(node: ast.expr) -> str:
    """The name that a function is called by, without what it is reached through."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def element_of(node: ast.Subscript, op: Op) -> ast.expr | None:
    """The element of a subscript that became `op`, a slice or select along its own dimension.

    Only subscripts without `None` and with at most this one index other than full slices are read.
    """
    elements = elements_of(node)
    if any(is_constant(e, None) for e in elements):
        return None
    telling = [e for e in elements if not is_full_slice(e) and not is_constant(e, Ellipsis)]
    if len(telling) == 1:
        return telling[0]
    axis: int = op["dim"] % op.operands[0].ndim
    if any(not isinstance(e, ast.Slice) for e in elements) or axis >= len(elements):
        return None
    return elements[axis]
