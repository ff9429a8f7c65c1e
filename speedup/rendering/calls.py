"""The calls that a plan was made for, in one line."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from speedup.ir.inputs import Example

# A cache may hold a tensor for each of a hundred layers.
_MOST_PARTS = 4


def calls_line(example: Example, others: Sequence[Example] = (), found: Sequence[Example] = ()) -> str:
    """How many calls a plan was made for, and the shapes in each: `x`, the others, those that were found."""
    count = 1 + len(others) + len(found)
    kinds = (f"x {call_text(example)}", *_list_arguments("others", others), *_list_arguments("found", found))
    return f"planned for {count} {'call' if count == 1 else 'calls'}: {'; '.join(kinds)}"


def call_text(example: Example) -> str:
    """The arguments of a call, with its shape for each tensor: `(1, 3, 8, 8)`, `{ids: (1, 5), scale: 2}`."""
    args, kwargs = example.call(example.tensors)
    if len(args) == 1 and not kwargs:
        return _argument_text(args[0])
    parts = [_argument_text(arg) for arg in args] + [
        f"{name}: {_argument_text(value)}" for name, value in kwargs.items()
    ]
    return f"{{{', '.join(parts)}}}"


def _list_arguments(name: str, calls: Sequence[Example]) -> Iterator[str]:
    if calls:
        yield f"{name}: {', '.join(dict.fromkeys(map(call_text, calls)))}"


def _argument_text(value: Any) -> str:
    match value:
        case Tensor():
            return str(tuple(value.shape))
        case Mapping():
            return f"{{{_parts([f'{key}: {_argument_text(part)}' for key, part in value.items()])}}}"
        case list() | tuple():
            return f"[{_parts([_argument_text(part) for part in value])}]"
        case int() | float() | str() | None:
            return reprlib.repr(value)
        case _:
            return type(value).__name__


def _parts(parts: Sequence[str]) -> str:
    more = [f"{len(parts) - _MOST_PARTS} more"] if len(parts) > _MOST_PARTS else []
    return ", ".join([*parts[:_MOST_PARTS], *more])
