"""Checks of data: where code raises an error unless a tensor is true, the forward goes on only if it is.

`assert (x >= 0).all()` and `if torch.isnan(x).any(): raise ...` decide nothing else. So a trace goes on as
well; what is checked counts as returned.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FrameType

from speedup.tracing.frames import syntax_of


def checked_truth(frame: FrameType | None) -> bool | None:
    """What a tensor that is asked in `frame` whether it is true has to be for the forward to go on.

    None where the code goes on in any case, or where that cannot be told.
    """
    return None if frame is None else _truth_at(frame.f_code, frame.f_lineno)


@lru_cache(maxsize=1024)
def _truth_at(code: CodeType, line: int) -> bool | None:
    tree = syntax_of(code)
    place = line - code.co_firstlineno + 1
    for node in () if tree is None else ast.walk(tree):
        match node:
            case ast.Assert(test=test):
                wanted = True
            case ast.If(test=test, body=[*_, ast.Raise()], orelse=[]):
                wanted = False
            case _:
                continue
        if node.lineno <= place <= (test.end_lineno or test.lineno):
            # Which of its parts is asked for cannot be told: they have to be alike.
            truths = set(_truths(test, wanted))
            return truths.pop() if len(truths) == 1 else None
    return None


def _truths(test: ast.expr, wanted: bool) -> Iterator[bool | None]:
    """What each part of a test must be for the whole to be as `wanted`; None where there is a choice."""
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield from _truths(operand, not wanted)
        case ast.BoolOp(op=ast.And(), values=values) if wanted:
            for value in values:
                yield from _truths(value, wanted)
        case ast.BoolOp(op=ast.Or(), values=values) if not wanted:
            for value in values:
                yield from _truths(value, wanted)
        case ast.Compare(ops=[_, _, *_]) if not wanted:
            yield None
        case ast.BoolOp() | ast.IfExp() | ast.NamedExpr():
            yield None
        case _:
            yield wanted
