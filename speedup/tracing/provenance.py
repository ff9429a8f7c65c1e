"""Numbers that remember which tensor sizes and module attributes they came from.

While a model is traced, `x.shape` and `self.heads` hand out `TrackedInt`s: numbers that pass for ints and
carry their expression through Python arithmetic. Operators that receive one are annotated with
it, so the frozen graph knows that an argument was `x.shape[1] // 2` and not a literal 32.

They are no ints, so that code in C has to ask them for one, and is seen: `items[n]`, `items[:n]`, `"%d" % n`,
`islice(items, n)`, `numpy.zeros(n)`. torch takes them as it takes its own symbolic numbers; before an
operator runs, `Tracking` puts the plain ones in their place.

Comparisons are recorded as guards, since the forward may branch on them. Whatever turns a
tracked number into an untracked one (`float(n)`, `len(x)`) marks its roots as opaque.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
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
from speedup.torch_api import CUSTOM, get_proxy_mode, tree_map
from speedup.tracing.frames import caller, is_library, users_frame
from speedup.tracing.hidden import index_use, is_calling_cached, is_message
from speedup.tracing.numbers import number_type
from speedup.tracing.record import Record
from speedup.tracing.sinks import watched

META_KEY = "speedup"


def notes_of(node: Node) -> dict[str, Any]:
    """What the tracking mode wrote down about the Python call that created `node`."""
    return (node.meta.get(CUSTOM) or {}).get(META_KEY) or {}


class Tracked:
    """Mixin of tracked numbers: the plain `number`, its `expression` and the `record` of the trace."""

    number: Any
    expression: Expression
    record: Record


def _expression(operand: Any) -> Expression:
    return operand.expression if isinstance(operand, Tracked) else cast(Expression, operand)


def plain_number(operand: Any) -> Any:
    """A number without its provenance."""
    return operand.number if isinstance(operand, Tracked) else operand


def plain_numbers(arguments: Any) -> Any:
    """Arguments of a call without the provenance of the numbers in them; the same object if there is none."""
    if isinstance(arguments, Tracked):
        return arguments.number
    if type(arguments) is dict:
        plain = {key: plain_numbers(one) for key, one in arguments.items()}
        return plain if any(plain[key] is not one for key, one in arguments.items()) else arguments
    if type(arguments) is slice:
        bounds = (arguments.start, arguments.stop, arguments.step)
        return slice(*map(plain_number, bounds)) if any(map(is_tracked, bounds)) else arguments
    if type(arguments) in (tuple, list, torch.Size):
        items = [plain_numbers(one) for one in arguments]
        is_same = all(new is old for new, old in zip(items, arguments, strict=True))
        return arguments if is_same else type(arguments)(items)
    if isinstance(arguments, tuple | list):
        # One whose fields have names, say.
        return tree_map(plain_number, arguments)
    return arguments


def _is_number(operand: Any) -> bool:
    return type(plain_number(operand)) in (int, float, bool)


def is_tracked(item: object) -> bool:
    """Whether it is a number with its provenance."""
    return isinstance(item, Tracked)


def track(number: float, expression: Expression, record: Record) -> Any:
    """`number` with its provenance."""
    is_int = isinstance(number, int)
    if record.hands_out_ints:
        result = (_ActualInt if is_int else _ActualFloat)(number)
    else:
        kind = TrackedInt if is_int else TrackedFloat
        result = kind.__new__(kind)
    result.number = int(number) if is_int else number
    result.expression = expression
    result.record = record
    return result


def _read_back(number: Any) -> Any:
    """A tracked number as one that the forward reads from a tensor, so that both kinds go together.

    None where the trace would lose sight of it.
    """
    dtype = torch.int64 if isinstance(number, int) else torch.float64
    # Among arguments of a call that is noted, the number is told of already.
    given = number if number.record.is_noting else plain_number(number)
    found = torch.scalar_tensor(given, dtype=dtype).item()
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
        # A table compares what it has found by its hash, which is noted.
        is_found = self.record.looked_up == (frame, frame.f_lasti)
        if not is_found and expression.operands[0] != expression.operands[1] and not _only_checks(frame):
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
            if frame is None or how != TEXT or not is_message(frame):
                item.record.use(expression, number, how, frame, may_repeat=True, hints=None)


TEXT = "text"
"""How text uses a number."""
_SPOKEN = {"str": TEXT, "repr": TEXT, "format": TEXT}


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


def _as_index(self: Any) -> int:
    """The plain number, for code in C: it looks up by it, counts by it or computes with it."""
    self.record.opaque_roots.extend(roots_in(self.expression))
    frame = caller(0)
    if frame is not None:
        self.record.use(self.expression, self.number, index_use(frame), frame, may_repeat=True, hints=None)
    return cast(int, self.number)


def _as_node(self: Any) -> Any:
    """What torch's own symbolic numbers compute with: the number as one of them."""
    own = _read_back(self) if get_proxy_mode() is not None else None
    if own is None:
        raise AttributeError(_NO_NODE)
    return own.node


def _as_array(self: Any, dtype: Any = None, copy: bool | None = None) -> Any:
    """What numpy makes of the number."""
    mark_opaque(self, "numpy")
    import numpy

    return numpy.array(self.number, dtype=dtype)


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
        self.record.looked_up = frame, frame.f_lasti
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


# `torch.export` has `max` and `min` ask a symbolic number, so these cannot ask back.
def _larger(self: Any, other: Any) -> Any:
    return other if other > self else self


def _smaller(self: Any, other: Any) -> Any:
    return other if other < self else self


_NO_NODE = "a number out of the trace's sight has no node"


def insists_on_ints(error: BaseException | None) -> bool:
    """Whether a forward may have raised an error as it called code in C that takes nothing but ints.

    `json.dumps`, `datetime.timedelta` and `torch.LongTensor([n])` do not ask for one.
    """
    words = str(error)
    return isinstance(error, TypeError) or TrackedInt.__name__ in words or _NO_NODE in words


_ASKED_OF_INTS = ("bit_length", "bit_count", "to_bytes", "as_integer_ratio", "conjugate", "is_integer")
_ASKED_OF_FLOATS = ("is_integer", "hex", "as_integer_ratio", "conjugate")


def _tracked_type(name: str, base: type, plain: type, asked: Iterable[str]) -> Any:
    """The type of numbers that pass for those of type `plain`; code in C takes them for those of `base`."""
    methods = {
        **_METHODS,
        **{name: _ask(name) for name in asked},
        "__class__": property(lambda self: plain),
        "__hash__": _hash,
        "__index__": _as_index if plain is int else None,
        "__array__": _as_array,
        "__deepcopy__": lambda self, memo: self.number,
        "__copy__": lambda self: self.number,
        "__reduce__": lambda self: (plain, (self.number,)),
        "node": property(_as_node),
        "real": property(lambda self: self),
        "imag": property(lambda self: plain(0)),
        "__sym_max__": _larger,
        "__sym_min__": _smaller,
    }
    return type(name, (Tracked, base), {k: m for k, m in methods.items() if m is not None})


TrackedInt: Any = _tracked_type("TrackedInt", torch.SymInt, int, _ASKED_OF_INTS)
TrackedFloat: Any = _tracked_type("TrackedFloat", torch.SymFloat, float, _ASKED_OF_FLOATS)
# For forwards that call what takes nothing else. What becomes of them in C is not seen.
_ActualInt: Any = _tracked_type("ActualInt", int, int, _ASKED_OF_INTS)
_ActualFloat: Any = _tracked_type("ActualFloat", float, float, _ASKED_OF_FLOATS)


@contextmanager
def follow_numbers(record: Record) -> Iterator[None]:
    """Follow tracked numbers of `record` into Python's own functions, until the end."""

    def count(arguments: tuple[Any, ...], how: str) -> tuple[Any, ...]:
        frame = caller(2)
        for argument in arguments:
            if isinstance(argument, Tracked):
                record.use(
                    argument.expression, plain_number(argument), how, frame, may_repeat=True, hints=None
                )
        return tuple(map(plain_number, arguments))

    def compute(name: str, arguments: tuple[Any, ...]) -> Any:
        number = FUNCTIONS[name](*map(plain_number, arguments))
        if not all(_is_number(a) for a in arguments) or type(number) not in (int, float):
            return number
        return track(number, Arithmetic(name, tuple(_expression(a) for a in arguments)), record)

    with watched(lambda item: isinstance(item, Tracked), count, compute):
        yield
