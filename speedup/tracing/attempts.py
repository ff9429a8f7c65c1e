"""Calls that the forward tries: where operators refuse some sizes and the code goes on, that is a branch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FrameType

from speedup.tracing.frames import is_library, is_outside, syntax_of


def is_tried(frame: FrameType | None) -> bool:
    """Whether code of the model catches what is raised at `frame`, there or further out in the forward."""
    while frame is not None and not is_outside(frame):
        code = frame.f_code
        if code.co_exceptiontable and not is_library(code) and _catches(code, frame.f_lineno):
            return True
        frame = frame.f_back
    return False


@lru_cache(maxsize=1024)
def _catches(code: CodeType, line: int) -> bool:
    tree = syntax_of(code)
    place = line - code.co_firstlineno + 1
    return tree is not None and any(
        body[0].lineno <= place <= (body[-1].end_lineno or body[-1].lineno) for body in _caught(tree)
    )


def _caught(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    """The statements of a function during which exceptions are caught."""
    for node in ast.walk(tree):
        match node:
            case ast.Try(body=body, handlers=handlers) | ast.TryStar(body=body, handlers=handlers):
                # What is only raised anew, or as another error, is no other way to go on.
                if not all(isinstance(handler.body[-1], ast.Raise) for handler in handlers):
                    yield body
            case ast.With(items=items, body=body):
                if any("suppress" in ast.unparse(item.context_expr) for item in items):
                    yield body
