"""Numbers that remember which tensor sizes and module attributes they came from.

While a model is traced, `x.shape` and `self.heads` hand out `TrackedInt`s: ordinary ints that
carry their expression through Python arithmetic. Operators that receive one are annotated with
it, so the frozen graph knows that an argument was `x.shape[1] // 2` and not a literal 32.

Comparisons are recorded as guards, since the forward may branch on them. Whatever turns a
tracked number into an untracked one (`float(n)`, `len(x)`) marks its roots as opaque.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

import torch
from torch.fx import Node

from speedup.ir.expressions import (
    FUNCTIONS,
    Arithmetic,
    Expression,
    roots_in,
)
from speedup.torch_api import CUSTOM, get_proxy_mode
from speedup.tracing.frames import caller, is_library, users_frame
from speedup.tracing.hidden import is_calling_cached, is_message
from speedup.tracing.numbers import number_type
from speedup.tracing.record import Record
from speedup.tracing.sinks import watched

META_KEY = "speedup"


def notes_of(node: Node) -> dict[str, Any]:
    """What the tracking mode wrote down about the Python call that created `node`."""
    return (node.meta.get(CUSTOM) or {}).get(META_KEY) or {}


class Tracked:
    """Mixin of tracked numbers: `expression` and the `record` of the trace they belong to."""

    expression: Expression
    record: Record


def _expression(operand: Any) -> Expression:
    return operand.expression if isinstance(operand, Tracked) else cast(Expression, operand)


def plain_number(operand: Any) -> Any:
    """A number without its provenance."""
    if isinstance(operand, TrackedInt):
        return int.__int__(operand)
    if isinstance(operand, TrackedFloat):
        return float.__float__(operand)
    return operand


def _is_number(operand: Any) -> bool:
    return type(plain_number(operand)) in (int, float, bool)


def is_tracked(item: object) -> bool:
    """Whether it is a number with its provenance."""
    return isinstance(item, Tracked)


def track(number: float, expression: Expression, record: Record) -> Any:
    """`number` with its provenance."""
    kind = TrackedInt if isinstance(number, int) else TrackedFloat
    result = kind(number)
    result.expression = expression
    result.record = record
    return result


def _read_back(number: Any) -> Any:
    """A tracked number as one that the forward reads from a tensor, so that both kinds go together.

    None where the trace would lose sight of it.
    """
    dtype = torch.int64 if isinstance(number, int) else torch.float64
    found = torch.scalar_tensor(number, dtype=dtype).item()
    return None if number_type(found) is None else found


def _arithmetic(name: str, reflected: bool = False) -> Callable[..., Any]:
    function = FUNCTIONS[name]

    def method(self: Any, *others: Any) -> Any:
        if len(others) > 1:
            return _marking_opaque(name)(self, *others)
        if not all(_is_number(o) for o in others):
            if any(number_type(o) is not None for o in others):
                own = _read_back(self)
                operands = (*others, own) if reflected else (own, *others)
                return NotImplemented if own is None else function(*operands)
            if any(isinstance(o, str | list | tuple) for o in others):
                # So many items in a list, and as many turns of a loop over it.
                mark_opaque(self, "a repeated list")
            return NotImplemented
        operands = (*others, self) if reflected else (self, *others)
        number = function(*(plain_number(o) for o in operands))
        if type(number) not in (int, float):
            return number
        return track(number, Arithmetic(name, tuple(_expression(o) for o in operands)), self.record)

    return method


# Functions of torch that compare sizes to raise an error or to warn, and for nothing else.
_CHECKING = frozenset({torch.nn.functional.affine_grid.__code__})


def _only_checks(frame: FrameType) -> bool:
    """Whether what is compared in `frame` decides nothing: torch.nn checks its input against its own
    hyper-parameters, which change along.
    """
    if frame.f_globals.get("__name__", "").startswith("torch.nn.modules."):
        return True
    inner: FrameType | None = frame
    # What takes the least of several numbers compares them in a frame of its own.
    while inner is not None and is_library(inner.f_code):
        if inner.f_code in _CHECKING:
            return True
        inner = inner.f_back
    return False


def _comparison(name: str) -> Callable[[Any, Any], Any]:
    function = FUNCTIONS[name]

    def method(self: Any, other: Any) -> Any:
        if number_type(other) is not None:
            own = _read_back(self)
            return NotImplemented if own is None else function(own, other)
        if not _is_number(other):
            return NotImplemented
        outcome = function(plain_number(self), plain_number(other))
        expression = Arithmetic(name, (_expression(self), _expression(other)))
        frame = sys._getframe(1)
        if expression.operands[0] != expression.operands[1] and not _only_checks(frame):
            self.record.guard(expression, outcome, users_frame(frame))
        return outcome

    return method


def mark_opaque(item: Any, how: str = "") -> None:
    """Mark the roots of a number that leaves the trace's sight as opaque: they may not change.

    `how` says by which use, where Python code may go another way by it.
    """
    if isinstance(item, Tracked):
        item.record.opaque_roots.extend(roots_in(item.expression))
        if how:
            expression, number = item.expression, plain_number(item)
            if how == "int()":
                # Different numbers give one.
                expression, number = Arithmetic("trunc", (expression,)), int(number)
            frame = caller(1)
            if frame is None or how != _TEXT or not is_message(frame):
                item.record.use(expression, number, how, frame, may_repeat=True, hints=None)


_TEXT = "text"
_SPOKEN = {"str": _TEXT, "repr": _TEXT, "format": _TEXT}


def _marking_opaque(name: str) -> Callable[..., Any]:
    """A method that works on plain numbers: what comes of them is out of sight."""

    def method(*operands: Any) -> Any:
        function = getattr(plain_number(operands[0]), f"__{name}__", None)
        if function is None:
            return NotImplemented
        for operand in operands:
            mark_opaque(operand, _SPOKEN.get(name, f"{name}()"))
        return function(*map(plain_number, operands[1:]))

    return method


def _as_float(self: Any) -> Any:
    """What `torch.sym_float` makes of a tracked number, also where it meets a number read from a tensor."""
    own = _read_back(self) if get_proxy_mode() is not None else None
    return float(self) if own is None else torch.sym_float(own)  # type: ignore[no-untyped-call]


def _truth(self: Any) -> bool:
    outcome = bool(plain_number(self))
    self.record.guard(Arithmetic("ne", (self.expression, 0)), outcome, caller(1))
    return outcome


def _hash(self: Any) -> int:
    """The number's hash, so that it is found in tables; but caches of functions must not find it.

    What a cache keeps for the plain number, or for one of another trace, has lost sight of this one.
    """
    frame = users_frame(sys._getframe(1))
    if frame is not None and is_calling_cached(frame):
        return hash((id(self.record), self.expression))
    if frame is not None and frame is sys._getframe(1):
        self.record.use(self.expression, plain_number(self), "a lookup", frame, may_repeat=True, hints=None)
    return hash(plain_number(self))


def _ask(name: str) -> Callable[..., Any]:
    """A method of plain numbers that says something about one."""

    def method(self: Any, *arguments: Any, **options: Any) -> Any:
        self.record.opaque_roots.extend(roots_in(self.expression))
        self.record.use(self.expression, plain_number(self), f"{name}()", caller(0), may_repeat=True)
        return getattr(plain_number(self), name)(*map(plain_number, arguments), **options)

    return method


def _round(self: Any, digits: int | None = None) -> Any:
    return _arithmetic("round")(self) if digits is None else _marking_opaque("round")(self, digits)


_METHODS: dict[str, Callable[..., Any]] = {
    **{f"__{n}__": _arithmetic(n) for n in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow")},
    **{f"__r{n}__": _arithmetic(n, True) for n in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow")},
    **{f"__{n}__": _arithmetic(n) for n in ("neg", "abs", "floor", "ceil", "trunc")},
    **{
        f"__{r}{n}__": _marking_opaque(r + n)
        for r in ("", "r")
        for n in ("lshift", "rshift", "and", "or", "xor")
    },
    "__divmod__": lambda self, other: (self // other, self % other),
    "__rdivmod__": lambda self, other: (other // self, other % self),
    "__bool__": _truth,
    **{f"__{n}__": _marking_opaque(n) for n in ("str", "repr", "format", "int", "float")},
    "__round__": _round,
    "__sym_float__": _as_float,
    **{f"__{n}__": _comparison(n) for n in ("eq", "ne", "lt", "le", "gt", "ge")},
}

TrackedInt: Any = type(
    "TrackedInt",
    (Tracked, int),
    {
        **_METHODS,
        **{name: _ask(name) for name in ("bit_length", "bit_count", "to_bytes", "as_integer_ratio")},
        "__hash__": _hash,
        "__deepcopy__": lambda self, memo: int.__int__(self),
        "__reduce__": lambda self: (int, (int.__int__(self),)),
    },
)
TrackedFloat: Any = type(
    "TrackedFloat",
    (Tracked, float),
    {
        **_METHODS,
        **{name: _ask(name) for name in ("is_integer", "hex", "as_integer_ratio")},
        "__hash__": _hash,
        "__deepcopy__": lambda self, memo: float.__float__(self),
        "__reduce__": lambda self: (float, (float.__float__(self),)),
    },
)


@contextmanager
def follow_numbers(record: Record) -> Iterator[None]:
    """Follow tracked numbers of `record` into Python's own functions, until the end."""

    def count(arguments: tuple[Any, ...], how: str) -> None:
        frame = caller(2)
        for argument in arguments:
            if isinstance(argument, Tracked):
                record.use(
                    argument.expression, plain_number(argument), how, frame, may_repeat=True, hints=None
                )

    def compute(name: str, arguments: tuple[Any, ...]) -> Any:
        number = FUNCTIONS[name](*map(plain_number, arguments))
        if not all(_is_number(a) for a in arguments) or type(number) not in (int, float):
            return number
        return track(number, Arithmetic(name, tuple(_expression(a) for a in arguments)), record)

    with watched(lambda item: isinstance(item, Tracked), count, compute):
        yield
