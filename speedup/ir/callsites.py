"""Where in the source of a module's forward an operator call stands."""

from __future__ import annotations

from functools import lru_cache
from types import CodeType, FrameType

import torch

from speedup.ir.graph import Frame
from speedup.torch_api import CALL_IMPL, WRAPPED_CALL_IMPL

Running = tuple[CodeType, int]
"""A function's code and the offset of the instruction that it is at."""

_CALLED_BY = (CALL_IMPL, WRAPPED_CALL_IMPL)
_LIBRARY = torch.__file__.removesuffix("__init__.py")
_LAYERS = f"{_LIBRARY}nn/modules/"


def running_frames(frame: FrameType | None) -> tuple[Running, ...]:
    """The frames from the one that calls the operator out to the forward that a module call started.

    Functions of torch itself that merely pass the call on are left out.
    """
    found: list[Running] = []
    while frame is not None and frame.f_code not in _CALLED_BY:
        if not _is_dispatch(frame.f_code.co_filename):
            found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found) if frame is not None else ()


@lru_cache(maxsize=4096)
def _is_dispatch(file: str) -> bool:
    return file.startswith(_LIBRARY) and not file.startswith(_LAYERS)


@lru_cache(maxsize=4096)
def _spans(code: CodeType) -> tuple[tuple[int | None, ...], ...]:
    return tuple(code.co_positions())


def frame_of(running: Running) -> Frame | None:
    """The frame as data; None where Python kept no positions."""
    code, offset = running
    line, end_line, column, end_column = _spans(code)[offset // 2]
    if line is None or end_line is None or column is None or end_column is None:
        return None
    span = (line, column, end_line, end_column)
    return Frame(code.co_filename, code.co_qualname, code.co_firstlineno, span)
