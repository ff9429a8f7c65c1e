"""The source of running functions: find what a frame was evaluating, and the function around it.

Positions are Python's own: lines from 1, columns in bytes of the UTF-8 text.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import CodeType
from typing import Any

from attrs import field, frozen

from speedup.graph import Frame

Function = ast.FunctionDef | ast.AsyncFunctionDef
Expr = ast.Call | ast.Subscript


@frozen
class Change:
    """Replace what lies between two (line, column) positions by `text`."""

    start: tuple[int, int]
    end: tuple[int, int]
    text: str


@frozen(eq=False)
class SourceFile:
    """A parsed file: `calls` and subscripts by where they end, functions by where they start."""

    lines: tuple[bytes, ...]
    calls: Mapping[tuple[type, int, int], Expr] = field(repr=False)
    functions: Mapping[tuple[int, str], Function] = field(repr=False)

    def text(self, start: tuple[int, int], end: tuple[int, int]) -> str:
        """The text between two positions."""
        if start[0] == end[0]:
            return self.lines[start[0] - 1][start[1] : end[1]].decode()
        first, last = self.lines[start[0] - 1][start[1] :], self.lines[end[0] - 1][: end[1]]
        return b"".join([first, *self.lines[start[0] : end[0] - 1], last]).decode()

    def function(self, frame: Frame) -> Function | None:
        """The definition of the function that `frame` runs; None for lambdas and comprehensions."""
        return self.functions.get((frame.first_line, frame.function.rpartition(".")[2]))

    def expression(self, frame: Frame) -> Expr | None:
        """The call or subscript that `frame` was evaluating, if it was one."""
        _, _, line, column = frame.span
        return self.calls.get((ast.Call, line, column)) or self.calls.get((ast.Subscript, line, column))

    def changed(self, function: Function, changes: Iterable[Change]) -> str:
        """The text of `function`, decorators included, with `changes` made, at no indentation."""
        first = first_line(function)
        last = function.end_lineno or first
        lines = list(self.lines[first - 1 : last])
        for change in sorted(changes, key=lambda c: c.start, reverse=True):
            (top, left), (bottom, right) = change.start, change.end
            head, tail = lines[top - first][:left], lines[bottom - first][right:]
            lines[top - first : bottom - first + 1] = [head + change.text.encode() + tail]
        return textwrap.dedent(b"".join(lines).decode()).rstrip() + "\n"


def first_line(function: Function) -> int:
    """Where Python says that the function's code starts: at its first decorator."""
    return min([function.lineno, *(d.lineno for d in function.decorator_list)])


def start_of(node: ast.expr) -> tuple[int, int]:
    """Where the text of `node` begins."""
    return node.lineno, node.col_offset


def end_of(node: ast.expr) -> tuple[int, int]:
    """Where the text of `node` has ended."""
    return node.end_lineno or node.lineno, node.end_col_offset or node.col_offset


def source_file(file: str) -> SourceFile | None:
    """The parsed file; None when its text is not to be had."""
    lines = linecache.getlines(file)
    return _parsed("".join(lines)) if lines else None


@lru_cache(maxsize=256)
def _parsed(text: str) -> SourceFile | None:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None
    calls: dict[tuple[type, int, int], Expr] = {}
    functions: dict[tuple[int, str], Function] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call | ast.Subscript):
            calls[type(node), *end_of(node)] = node
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions[first_line(node), node.name] = node
    return SourceFile(tuple(line.encode() for line in text.splitlines(keepends=True)), calls, functions)


def is_code(function: Any, frame: Frame) -> bool:
    """Whether `function`, decorators taken off, is the one that `frame` runs."""
    code = getattr(unwrapped(function), "__code__", None)
    return (
        isinstance(code, CodeType)
        and (code.co_filename, code.co_firstlineno) == (frame.file, frame.first_line)
        and code.co_qualname == frame.function
    )


def unwrapped(function: Any) -> Any:
    """The plain function below decorators and method wrappers."""
    try:
        found = inspect.unwrap(function)
    except ValueError:
        return function
    return getattr(found, "__func__", found)
