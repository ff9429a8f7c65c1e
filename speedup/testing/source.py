"""Values as Python source: the expression that makes a value, broken into lines where it is long."""

from __future__ import annotations

from typing import Any

import attrs

from speedup.testing.spec import Spec

_WIDTH = 96


def expression(value: object, room: int = _WIDTH) -> str:
    """The expression that makes `value`: a spec, an attrs value, a tuple of such, or anything by its repr.

    What is at its default is left out; torch.nn's classes are written with `nn.` before their name.
    """
    flat = _flat(value)
    if len(flat) <= room:
        return flat
    head, parts, tail = _taken_apart(value)
    if not parts:
        return flat
    lines = [f"{name}{expression(part, room - 5 - len(name))}," for name, part in parts]
    return "\n".join([head, *(f"    {line}" for part in lines for line in part.splitlines()), tail])


def names_in(value: object) -> frozenset[str]:
    """The names of the classes that `expression(value)` calls, torch.nn's as `nn`."""
    head, parts, _ = _taken_apart(value)
    own = {head.rstrip("(").partition(".")[0]} - {""}
    return frozenset(own).union(*(names_in(part) for _, part in parts))


def _flat(value: object) -> str:
    head, parts, tail = _taken_apart(value)
    if not head:
        return repr(value)
    inside = ", ".join(f"{name}{_flat(part)}" for name, part in parts)
    # A tuple of one needs its comma.
    return f"{head}{inside}{',' if head == '(' and len(parts) == 1 else ''}{tail}"


def _taken_apart(value: object) -> tuple[str, list[tuple[str, object]], str]:
    """What stands before the parts, the parts with what stands before each, and what stands behind them."""
    if isinstance(value, Spec):
        options = [(f"{name}=", option) for name, option in value.options]
        return f"{_class_name(value.make)}(", [*(("", part) for part in value.arguments), *options], ")"
    if isinstance(value, tuple):
        return "(", [("", part) for part in value], ")"
    if attrs.has(type(value)):
        return f"{type(value).__name__}(", _fields(value), ")"
    return "", [], ""


def _class_name(make: type) -> str:
    return f"nn.{make.__name__}" if make.__module__.startswith("torch.nn.") else make.__name__


def _fields(value: object) -> list[tuple[str, object]]:
    """The arguments of an attrs value: required ones by position, others where not at their default."""
    parts: list[tuple[str, object]] = []
    kind: Any = type(value)
    for field in attrs.fields(kind):
        given = getattr(value, field.name)
        if field.default is attrs.NOTHING:
            parts.append(("", given))
        elif given != field.default:
            parts.append((f"{field.name}=", given))
    return parts
