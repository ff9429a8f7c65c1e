"""The source of running functions: find what a frame was evaluating, and the function around it.

Positions are Python's own: lines from 1, columns in bytes of the UTF-8 text.
"""

from __future__ import annotations

import ast
import linecache
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cmp_to_key, lru_cache
from types import CodeType
from typing import Any, TypeGuard

from attrs import field, frozen

from speedup.ir.graph import Frame
from speedup.lowerings.syntax import Change, Extent, Position, end_of, last_name, start_of
from speedup.modules.functions import unwrap

Function = ast.FunctionDef | ast.AsyncFunctionDef
Expr = ast.Call | ast.Subscript
Operation = ast.BinOp | ast.AugAssign
Assignment = ast.Assign | ast.AnnAssign


@frozen(eq=False)
class SourceFile:
    """A parsed file: `calls` and subscripts by where they end, functions by where they start.

    `operations`, such as `a + b`, are found by where they start and end.
    """

    lines: tuple[bytes, ...]
    calls: Mapping[tuple[type, int, int], Expr] = field(repr=False)
    operations: Mapping[tuple[int, int, int, int], Operation] = field(repr=False)
    functions: Mapping[tuple[int, str], Function] = field(repr=False)

    def text(self, start: Position, end: Position) -> str:
        """The text between two positions."""
        if start[0] == end[0]:
            return self.lines[start[0] - 1][start[1] : end[1]].decode()
        first, last = self.lines[start[0] - 1][start[1] :], self.lines[end[0] - 1][: end[1]]
        return b"".join([first, *self.lines[start[0] : end[0] - 1], last]).decode()

    def function(self, frame: Frame) -> Function | None:
        """The definition of the function that `frame` runs; None for lambdas and comprehensions."""
        return self.functions.get((frame.first_line, frame.function.rpartition(".")[2]))

    def expression(self, frame: Frame) -> Expr | Operation | None:
        """The call, subscript or operation that `frame` was evaluating, if it was one."""
        if frame.span in self.operations:
            return self.operations[frame.span]
        _, _, line, column = frame.span
        return self.calls.get((ast.Call, line, column)) or self.calls.get((ast.Subscript, line, column))

    def with_changes(self, function: Function, changes: Iterable[tuple[Extent, Change]]) -> str:
        """The text of `function`, decorators included, at no indentation, with `changes` made.

        Each of these is told with the expression that it is within: one may be in another.
        """
        first = definition_line(function)
        last = function.end_lineno or first
        return _dedent(b"".join(self._changed(first, last, changes)).decode().rstrip() + "\n")

    def expression_with_changes(self, node: ast.expr, changes: Iterable[tuple[Extent, Change]]) -> str:
        """The same of an expression."""
        (first, left), (last, right) = start_of(node), end_of(node)
        outside = len(self.lines[last - 1]) - right
        text = b"".join(self._changed(first, last, changes))
        return text[left : len(text) - outside].decode()

    def _changed(self, first: int, last: int, changes: Iterable[tuple[Extent, Change]]) -> list[bytes]:
        """The lines from `first` to `last` with `changes` made."""
        lines = list(self.lines[first - 1 : last])
        for _, change in sorted(changes, key=cmp_to_key(_compare_changes), reverse=True):
            (top, left), (bottom, right) = change.start, change.end
            head, tail = lines[top - first][:left], lines[bottom - first][right:]
            lines[top - first : bottom - first + 1] = [head + change.text.encode() + tail]
        return lines


def _compare_changes(one: tuple[Extent, Change], other: tuple[Extent, Change]) -> int:
    """Above 0 where `one` is to be made first, from the last to the first; what is put in at the same place
    later then stands before it.
    """
    (own, a), (others, b) = one, other
    if (a.start, a.end) != (b.start, b.end):
        return 1 if (a.start, a.end) > (b.start, b.end) else -1
    if own == others:
        return 0
    is_within = others[0] <= own[0] and own[1] <= others[1]
    inner = own if is_within else others
    # Behind an inner expression its own text comes first; before it that of the outer one.
    return -1 if is_within == (a.start == inner[1]) else 1


@lru_cache(maxsize=256)
def _dedent(text: str) -> str:
    """The function `text` at no indentation. Lines inside strings stay as they are."""
    margin = text[: len(text) - len(text.lstrip(" \t"))]
    if not margin:
        return text
    try:
        tree = ast.parse(f"if 1:\n{text}")
    except SyntaxError:
        return textwrap.dedent(text)
    strings = (n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) or _is_text(n))
    within = {line for n in strings for line in range(n.lineno, n.end_lineno or n.lineno)}
    lines = text.split("\n")
    return "\n".join(
        line if number in within else line.removeprefix(margin) if line.startswith(margin) else line.lstrip()
        for number, line in enumerate(lines, 1)
    )


def _is_text(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)


def definition_line(function: Function) -> int:
    """Where Python says that the function's code starts: at its first decorator."""
    return min([function.lineno, *(d.lineno for d in function.decorator_list)])


def source_file(file: str) -> SourceFile | None:
    """The parsed file; None when its text is not to be had."""
    lines = linecache.getlines(file)
    return _parse("".join(lines)) if lines else None


@lru_cache(maxsize=256)
def _parse(text: str) -> SourceFile | None:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None
    calls: dict[tuple[type, int, int], Expr] = {}
    operations: dict[tuple[int, int, int, int], Operation] = {}
    functions: dict[tuple[int, str], Function] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call | ast.Subscript):
            calls[type(node), *end_of(node)] = node
        elif isinstance(node, ast.BinOp | ast.AugAssign):
            operations[(*start_of(node), *end_of(node))] = node
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions[definition_line(node), node.name] = node
    # Of bytes, as of source, only line feeds and carriage returns end a line.
    return SourceFile(tuple(text.encode().splitlines(keepends=True)), calls, operations, functions)


def first_argument(function: Function) -> str | None:
    """The name of the first argument, which of a method is the object; None of a static method."""
    if any(last_name(one) in ("staticmethod", "classmethod") for one in function.decorator_list):
        return None
    return next((one.arg for one in (*function.args.posonlyargs, *function.args.args)), None)


def is_fresh(statement: ast.AugAssign, function: Function, made: Callable[[Assignment], bool]) -> bool:
    """Whether nothing but the name that `statement`, such as `a += b`, changes can hold what it changes.

    So it is where that name was given it when it was `made`, as an assignment says, and has only been read
    since to be given what a call makes of it. A new tensor in its place is then as good.
    """
    if not isinstance(statement.target, ast.Name):
        return False
    name = statement.target.id
    for one in _before(statement, function):
        if isinstance(one, Assignment) and _gives(one, name) and made(one):
            return True
        steps = [node for node in ast.walk(one) if isinstance(node, Assignment) and _gives(node, name)]
        # A name that is given anew without what it held holds something else before.
        if any(not any(part.id == name for part in _names(_value_of(step))) for step in steps):
            return False
        passed_on = {id(part) for step in steps for part in _names(step)}
        if any(part.id == name and id(part) not in passed_on for part in _names(one)):
            return False
    return False


def _gives(statement: Assignment, name: str) -> bool:
    """Whether it gives the result of a call or an operation to the name, and to nothing else."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=target)], value=ast.Call() | ast.BinOp()):
            return target == name
        case ast.AnnAssign(target=ast.Name(id=target), value=ast.Call() | ast.BinOp()):
            return target == name
    return False


def _value_of(statement: Assignment) -> ast.expr:
    assert statement.value is not None, "what gives something has a value"
    return statement.value


def _names(node: ast.AST) -> Iterator[ast.Name]:
    return (one for one in ast.walk(node) if isinstance(one, ast.Name))


def _before(statement: ast.stmt, function: Function) -> Iterator[ast.AST]:
    """What has run before `statement`, the last first, as long as that is the same each time.

    Nothing of a statement in a loop, where what stands behind it may have run before too.
    """
    loops = (node for node in ast.walk(function) if isinstance(node, ast.For | ast.AsyncFor | ast.While))
    if any(node is statement for loop in loops for node in ast.walk(loop)):
        return
    inside: ast.AST = statement
    while True:
        around, block = next(
            (node, own)
            for node in ast.walk(function)
            for own in _blocks(node)
            if any(o is inside for o in own)
        )
        number = next(n for n, one in enumerate(block) if one is inside)
        yield from reversed(block[:number])
        if not isinstance(around, ast.If):
            return
        yield around.test
        inside = around


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        found = getattr(node, name, None)
        if isinstance(found, list):
            yield found


def is_code(function: Any, frame: Frame) -> bool:
    """Whether `function`, decorators taken off, is the one that `frame` runs."""
    return _runs(unwrap(function), frame)


def is_wrapper(function: Any, frame: Frame) -> bool:
    """Whether `frame` runs what a decorator put around `function`."""
    while hasattr(function, "__wrapped__"):
        if _runs(function, frame):
            return True
        function = function.__wrapped__
    return False


def _runs(function: Any, frame: Frame) -> bool:
    code = getattr(function, "__code__", None)
    return (
        isinstance(code, CodeType)
        and (code.co_filename, code.co_firstlineno) == (frame.file, frame.first_line)
        and code.co_qualname == frame.function
    )
