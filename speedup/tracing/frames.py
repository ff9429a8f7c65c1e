"""Running frames: which of them are the model's own, where they stand, and the source of what they run."""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
import textwrap
from collections.abc import Mapping
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any

import torch

from speedup.torch_api import WRAPPED_CALL_IMPL

_LIBRARY = torch.__file__.removesuffix("__init__.py")
_OWN = __file__.removesuffix("frames.py")
# What traces the forward; frames outside of it are those of whoever plans.
_TRACER = f"{_OWN}flat.py"
_GENERATED = ("<eval_with_key", "<frozen ", "<attrs generated", "<__array_function__")


def users_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost frame from `frame` outwards that runs neither code of torch nor of the tracer.

    None where there is none within the forward that is traced.
    """
    while frame is not None and not _is_users(frame):
        frame = None if is_outside(frame) else frame.f_back
    return frame


def _is_users(frame: FrameType) -> bool:
    """Whether a frame runs code of the model; code that was typed in or executed has no file, but is some."""
    file = frame.f_code.co_filename
    if not file.startswith("<"):
        return not file.startswith((_LIBRARY, _OWN))
    home = frame.f_globals.get("__name__", "")
    return not file.startswith(_GENERATED) and home.partition(".")[0] not in ("torch", "speedup")


def is_library(code: CodeType) -> bool:
    """Whether it is code of torch or of the tracer."""
    return code.co_filename.startswith((_LIBRARY, _OWN))


def is_outside(frame: FrameType) -> bool:
    """Whether it is the frame that calls the forward which is traced."""
    return frame.f_code.co_filename == _TRACER


def caller(depth: int) -> FrameType | None:
    """The user's frame that led to the caller's caller number `depth`."""
    return users_frame(sys._getframe(depth + 1))


def place(frame: FrameType | None, paths: Mapping[int, str]) -> tuple[str, Any]:
    """The line that `frame` is at, as `file.py:12`, and a key for it that other traces share.

    The key says from where the line was come to: by which calls of functions, and of the modules whose
    `paths` are given by the identity of what they hold.
    """
    if frame is None:
        return "", None
    where = f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"
    key: list[Any] = []
    outer: FrameType | None = frame
    while outer is not None and not is_outside(outer):
        if outer.f_code is WRAPPED_CALL_IMPL:
            key.append(paths.get(id(vars(outer.f_locals["self"])), ""))
        elif _is_users(outer):
            key.append((outer.f_code, _position(outer.f_code, outer.f_lasti)))
        outer = outer.f_back
    return where, tuple(key)


# An instruction that has been run a few times may be run as another one of its expression.
@lru_cache(maxsize=4096)
def _position(code: CodeType, offset: int) -> tuple[int | None, int | None, int | None, int | None]:
    """The lines and columns of the expression that the code evaluates at `offset`."""
    return list(code.co_positions())[offset // 2]


@lru_cache(maxsize=1024)
def evaluated_at(code: CodeType, offset: int) -> ast.expr | None:
    """The expression that the code evaluates at `offset`."""
    line, end_line, column, end_column = _position(code, offset)
    if line is None or end_line is None or column is None or end_column is None:
        return None
    lines = [text.encode() for text in linecache.getlines(code.co_filename)[line - 1 : end_line]]
    if not lines:
        return None
    lines[-1] = lines[-1][:end_column]
    lines[0] = lines[0][column:]
    try:
        return ast.parse(f"({b''.join(lines).decode()})", mode="eval").body
    except (SyntaxError, ValueError):
        return None


@lru_cache(maxsize=1024)
def syntax_of(code: CodeType) -> ast.AST | None:
    """The source of the function with this code, parsed."""
    lines = linecache.getlines(code.co_filename)
    if not lines:
        return None
    if code.co_name == "<lambda>":
        return _lambda(code, "".join(lines))
    try:
        return ast.parse(textwrap.dedent("".join(inspect.getblock(lines[code.co_firstlineno - 1 :]))))
    except (SyntaxError, ValueError, IndexError):
        return None


def _lambda(code: CodeType, text: str) -> ast.AST | None:
    """The innermost lambda of the file `text` that the code is in."""
    tree = _parse(text)
    places = [(line, column) for line, _, column, _ in code.co_positions() if line and column]
    if tree is None or not places:
        return None
    first, last = min(places), max(places)
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Lambda)
        and (node.body.lineno, node.body.col_offset) <= first
        and last <= (node.end_lineno or node.lineno, node.end_col_offset or 0)
    ]
    return max(around, key=lambda node: (node.lineno, node.col_offset), default=None)


@lru_cache(maxsize=16)
def _parse(text: str) -> ast.AST | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None
