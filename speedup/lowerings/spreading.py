"""A sequence with some of its numbers changed, as source writes it: what is in between is spread."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from speedup.lowerings.syntax import is_literal


def is_steady(node: ast.expr) -> bool:
    """Whether `node` may be evaluated several times: names, attributes, sizes and parts of these."""
    match node:
        case ast.Name():
            return True
        case (
            ast.Attribute(value=value)
            | ast.Call(func=ast.Attribute(value=value, attr="size"), args=[], keywords=[])
        ):
            return is_steady(value)
        case ast.Subscript(value=value, slice=index):
            bounds = (index.lower, index.upper, index.step) if isinstance(index, ast.Slice) else (index,)
            return is_steady(value) and all(one is None or is_literal(one) for one in bounds)
    return False


def with_numbers(node: ast.expr, numbers: Mapping[int, Any], count: int) -> str:
    """The `count` elements of the sequence `node`, with `numbers` by place in the place of its own."""
    text = ast.unparse(node)
    parts: list[str] = []
    first = 0
    for place, number in sorted(numbers.items()):
        if place > first:
            parts.append(f"*{text}[{first or ''}:{place}]")
        parts.append(repr(number))
        first = place + 1
    return ", ".join(parts if first == count else [*parts, f"*{text}[{first}:]"])


def are_spread(old: ast.expr, new: Sequence[ast.expr]) -> bool:
    """Whether `new` are parts of the sequence `old`, spread, and numbers in the place of its own."""
    return all(is_literal(one) or _is_part_of(old, one) for one in new)


def _is_part_of(sequence: ast.expr, one: ast.expr) -> bool:
    match one:
        case ast.Starred(value=ast.Subscript(value=value) as part):
            return is_steady(part) and ast.dump(value) == ast.dump(sequence)
    return False
