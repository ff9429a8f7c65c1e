"""Numbers that remember which tensor sizes and module attributes they came from.

While a model is traced, `x.shape` and `self.heads` hand out `TrackedInt`s: ordinary ints that
carry their expression through Python arithmetic. Operators that receive one are annotated with
it, so the frozen graph knows that an argument was `x.shape[1] // 2` and not a literal 32.

Comparisons are recorded as guards, since the forward may branch on them. Whatever turns a
tracked number into an untracked one (`float(n)`, `len(x)`) marks its roots as escaped.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, cast

import torch
from torch import nn
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from speedup.spec.callsites import Running, running_frames
from speedup.spec.expressions import (
    FUNCTIONS,
    Arithmetic,
    Expression,
    Guard,
    Root,
    SizeOf,
    Use,
    evaluate_expression,
    roots_in,
    sizes_in,
)
from speedup.tracing.adapting import ADAPTING
from speedup.tracing.attributes import replace_integers
from speedup.tracing.numbers import number_type
from speedup.tracing.sinks import (
    Hidden,
    caller,
    calls_cached,
    hidden_use,
    hints_of,
    place,
    users_frame,
    watched,
)

META_KEY = "speedup"


class Record:
    """What one trace saw of numbers and calls; filled during that trace only.

    `assigned` names buffers that the forward puts another tensor in the place of.
    """

    def __init__(self) -> None:
        self.guards: list[Guard] = []
        self.uses: list[Use] = []
        self.escaped: list[Root] = []
        self.assigned: dict[str, None] = {}
        self.calls: dict[tuple[Running, ...], int] = {}
        self._hidden: dict[CodeType, Hidden | None] = {}
        self._seen: Counter[Any] = Counter()

    def frozen_guards(self) -> tuple[Guard, ...]:
        """The guards without repetitions."""
        return tuple(dict.fromkeys(self.guards))

    def frozen_uses(self) -> tuple[Use, ...]:
        """The uses without repetitions."""
        return tuple(dict.fromkeys(self.uses))

    def guard(self, expression: Arithmetic, outcome: bool, frame: FrameType | None) -> None:
        """Note a comparison that the user's code in `frame` made."""
        where, key = self._place(frame)
        self.guards.append(Guard(expression, outcome, where, key))

    def use(
        self,
        expression: Expression,
        number: Any,
        how: str,
        frame: FrameType | None,
        *,
        may_repeat: bool = False,
        hints: tuple[int, ...] = (),
    ) -> None:
        """Note that the user's code in `frame` used a number out of sight."""
        if next(sizes_in(expression), None) is not None and frame is not None:
            where, key = self._place(frame)
            self.uses.append(Use(expression, number, how, may_repeat, hints, where, key))

    def read(self, sizes: Sequence[int], root: int, frame: FrameType | None) -> None:
        """Note that code reads the sizes of a tensor: if it may hide what it does with them, as used."""
        if frame is None:
            return
        if frame.f_code not in self._hidden:
            self._hidden[frame.f_code] = hidden_use(frame)
        hidden = self._hidden[frame.f_code]
        for dim, size in enumerate(sizes) if hidden is not None else ():
            if hidden.dims is None or {dim, dim - len(sizes)} & hidden.dims:
                self.escaped.append(SizeOf(root, dim))
                self.use(SizeOf(root, dim), size, hidden.how, frame, may_repeat=True, hints=hidden.hints)

    def _place(self, frame: FrameType | None) -> tuple[str, Any]:
        where, key = place(frame)
        self._seen[key] += 1
        return where, (key, self._seen[key])


class _Tracked:
    """Mixin of tracked numbers: `expression` and the `record` of the trace they belong to."""

    expression: Expression
    record: Record


def _expression(operand: Any) -> Expression:
    return operand.expression if isinstance(operand, _Tracked) else cast(Expression, operand)


def _plain(operand: Any) -> Any:
    if isinstance(operand, TrackedInt):
        return int.__int__(operand)
    if isinstance(operand, TrackedFloat):
        return float.__float__(operand)
    return operand


def _is_number(operand: Any) -> bool:
    return type(_plain(operand)) in (int, float, bool)


def tracked(number: float, expression: Expression, record: Record) -> Any:
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
            return _escaping(name)(self, *others)
        if not all(_is_number(o) for o in others):
            if any(number_type(o) is not None for o in others):
                own = _read_back(self)
                operands = (*others, own) if reflected else (own, *others)
                return NotImplemented if own is None else function(*operands)
            if any(isinstance(o, str | list | tuple) for o in others):
                # So many items in a list, and as many turns of a loop over it.
                escape(self, "a repeated list")
            return NotImplemented
        operands = (*others, self) if reflected else (self, *others)
        number = function(*(_plain(o) for o in operands))
        if type(number) not in (int, float):
            return number
        return tracked(number, Arithmetic(name, tuple(_expression(o) for o in operands)), self.record)

    return method


def _comparison(name: str) -> Callable[[Any, Any], Any]:
    function = FUNCTIONS[name]

    def method(self: Any, other: Any) -> Any:
        if number_type(other) is not None:
            own = _read_back(self)
            return NotImplemented if own is None else function(own, other)
        if not _is_number(other):
            return NotImplemented
        outcome = function(_plain(self), _plain(other))
        expression = Arithmetic(name, (_expression(self), _expression(other)))
        # torch.nn checks its input against its own hyper-parameters, which change along.
        frame = sys._getframe(1)
        module = frame.f_globals.get("__name__", "")
        if expression.operands[0] != expression.operands[1] and not module.startswith("torch.nn.modules."):
            self.record.guard(expression, outcome, users_frame(frame))
        return outcome

    return method


def escape(item: Any, how: str = "") -> None:
    """Mark the roots of a number that leaves the trace's sight as escaped: they may not change.

    `how` says by which use, where Python code may go another way by it.
    """
    if isinstance(item, _Tracked):
        item.record.escaped.extend(roots_in(item.expression))
        if how:
            expression, number = item.expression, _plain(item)
            if how == "int()":
                # Different numbers give one.
                expression, number = Arithmetic("trunc", (expression,)), int(number)
            item.record.use(expression, number, how, caller(1))


_SPOKEN = {"str": "text", "repr": "text", "format": "text"}


def _escaping(name: str) -> Callable[..., Any]:
    """A method that works on plain numbers: what comes of them is out of sight."""

    def method(*operands: Any) -> Any:
        plain = getattr(_plain(operands[0]), f"__{name}__", None)
        if plain is None:
            return NotImplemented
        for operand in operands:
            escape(operand, _SPOKEN.get(name, f"{name}()"))
        return plain(*map(_plain, operands[1:]))

    return method


def _as_float(self: Any) -> Any:
    """What `torch.sym_float` makes of a tracked number, also where it meets a number read from a tensor."""
    own = _read_back(self) if get_proxy_mode() is not None else None
    return float(self) if own is None else torch.sym_float(own)  # type: ignore[no-untyped-call]


def _truth(self: Any) -> bool:
    outcome = bool(_plain(self))
    self.record.guard(Arithmetic("ne", (self.expression, 0)), outcome, caller(1))
    return outcome


def _hash(self: Any) -> int:
    """The number's hash, so that it is found in tables; but caches of functions must not find it.

    What a cache keeps for the plain number, or for one of another trace, has lost sight of this one.
    """
    frame = users_frame(sys._getframe(1))
    if frame is not None and calls_cached(frame):
        return hash((id(self.record), self.expression))
    if frame is not None and frame is sys._getframe(1):
        self.record.escaped.extend(roots_in(self.expression))
        self.record.use(
            self.expression, _plain(self), "a lookup", frame, may_repeat=True, hints=hints_of(frame)
        )
    return hash(_plain(self))


def _asked(name: str) -> Callable[..., Any]:
    """A method of plain numbers that says something about one."""

    def method(self: Any, *arguments: Any, **options: Any) -> Any:
        self.record.escaped.extend(roots_in(self.expression))
        self.record.use(self.expression, _plain(self), f"{name}()", caller(0), may_repeat=True)
        return getattr(_plain(self), name)(*map(_plain, arguments), **options)

    return method


def _rounded(self: Any, digits: int | None = None) -> Any:
    return _arithmetic("round")(self) if digits is None else _escaping("round")(self, digits)


_METHODS: dict[str, Callable[..., Any]] = {
    **{f"__{n}__": _arithmetic(n) for n in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow")},
    **{f"__r{n}__": _arithmetic(n, True) for n in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow")},
    **{f"__{n}__": _arithmetic(n) for n in ("neg", "abs", "floor", "ceil", "trunc")},
    **{
        f"__{r}{n}__": _escaping(r + n)
        for r in ("", "r")
        for n in ("lshift", "rshift", "and", "or", "xor", "divmod")
    },
    "__bool__": _truth,
    **{f"__{n}__": _escaping(n) for n in ("str", "repr", "format", "int", "float")},
    "__round__": _rounded,
    "__sym_float__": _as_float,
    **{f"__{n}__": _comparison(n) for n in ("eq", "ne", "lt", "le", "gt", "ge")},
}

TrackedInt: Any = type(
    "TrackedInt",
    (_Tracked, int),
    {
        **_METHODS,
        **{name: _asked(name) for name in ("bit_length", "bit_count", "to_bytes", "as_integer_ratio")},
        "__hash__": _hash,
        "__deepcopy__": lambda self, memo: int.__int__(self),
        "__reduce__": lambda self: (int, (int.__int__(self),)),
    },
)
TrackedFloat: Any = type(
    "TrackedFloat",
    (_Tracked, float),
    {
        **_METHODS,
        **{name: _asked(name) for name in ("is_integer", "hex", "as_integer_ratio")},
        "__hash__": _hash,
        "__deepcopy__": lambda self, memo: float.__float__(self),
        "__reduce__": lambda self: (float, (float.__float__(self),)),
    },
)


@contextmanager
def followed(record: Record) -> Iterator[None]:
    """Follow tracked numbers of `record` into Python's own functions, until the end."""

    def count(arguments: tuple[Any, ...], how: str) -> None:
        frame = caller(2)
        for argument in arguments:
            if isinstance(argument, _Tracked):
                record.escaped.extend(roots_in(argument.expression))
                record.use(argument.expression, _plain(argument), how, frame, may_repeat=True)

    def compute(name: str, arguments: tuple[Any, ...]) -> Any:
        number = FUNCTIONS[name](*map(_plain, arguments))
        if not all(_is_number(a) for a in arguments) or type(number) not in (int, float):
            return number
        return tracked(number, Arithmetic(name, tuple(_expression(a) for a in arguments)), record)

    with watched(lambda item: isinstance(item, _Tracked), count, compute):
        yield


def _flat_numbers(arguments: Any) -> Iterator[Any]:
    """The numbers in a Python call's arguments, those inside slices included."""
    for leaf in pytree.tree_leaves(arguments):
        if isinstance(leaf, slice):
            yield from (b for b in (leaf.start, leaf.stop, leaf.step) if isinstance(b, int))
        elif isinstance(leaf, int | float) and not isinstance(leaf, bool):
            yield leaf


def _node_of(tensor: Any) -> Node | None:
    mode = get_proxy_mode()
    if mode is None or not isinstance(tensor, torch.Tensor):
        return None
    slot = get_proxy_slot(tensor, mode.tracer, None)
    return None if slot is None else slot.proxy.node


# Python code of torch's own that checks sizes against each other out of the trace's sight.
_RIGID = (torch.nn.functional.multi_head_attention_forward,)
# Calls that make as many tensors as their arguments say: how many, from the dimension's extent.
_PARTS: Mapping[str, Callable[[SizeOf, Any], Expression]] = {
    "unbind": lambda size, _: size,
    "__iter__": lambda size, _: size,
    "split": lambda size, length: _quotient(size, length),
    "chunk": lambda size, count: _quotient(size, _quotient(size, count)),
}


def _quotient(number: Expression, divisor: Expression) -> Expression:
    return Arithmetic("ceil", (Arithmetic("truediv", (number, divisor)),))


_SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]


class Tracking(TorchFunctionMode):
    """Hands out tracked sizes during a trace and annotates the nodes that each Python call creates.

    `node.meta["custom"]["speedup"]` then holds `"root"`, an id, on nodes whose sizes were read, and
    on nodes that a call created its tracked `"numbers"`, the `"call"` itself as an index into the
    record, whether it is `"rigid"`, and for calls that adapt to sizes by themselves which these are.
    `torch.export` preserves `meta["custom"]` through all its passes.
    """

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record
        self._roots = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func`; track the sizes it returns, annotate the nodes it creates."""
        kwargs = kwargs or {}
        if func == _SHAPE:
            return self._read(args[0], func(*args))
        if func in (torch.Tensor.size, torch.Tensor.numel, torch.numel, torch.Tensor.__len__):
            return self._size(func, args, kwargs)
        if func is torch.Tensor.stride:
            self._hide(args[0], "stride()")
        mode = get_proxy_mode()
        if mode is None:
            return func(*args, **kwargs)
        self._count_parts(func, args, kwargs)
        nodes = mode.tracer.graph.nodes
        last = next(iter(reversed(nodes)), None)
        notes = self._notes(func, args, kwargs)
        result = func(*args, **kwargs)
        for node in reversed(nodes):
            if node is last:
                break
            node.meta.setdefault("custom", {}).setdefault(META_KEY, {}).update(notes)
        return result

    def _notes(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        calls = self.record.calls
        running = running_frames(sys._getframe(2))
        notes: dict[str, Any] = {"call": calls.setdefault(running, len(calls)), "rigid": func in _RIGID}
        numbers = [(_plain(n), self._own(n)) for n in _flat_numbers((args, kwargs))]
        if getattr(func, "__name__", "") in ADAPTING:
            notes["adapting"] = func.__name__, tuple(number for number, _ in numbers)
        if any(expression is not None for _, expression in numbers):
            notes["numbers"] = tuple(numbers)
        return notes

    def _own(self, number: Any) -> Expression | None:
        """The expression of a number of this trace; one that a cache kept from another has none."""
        is_own = isinstance(number, _Tracked) and number.record is self.record
        return number.expression if is_own else None

    def _root(self, tensor: Any) -> int | None:
        node = _node_of(tensor)
        if node is None:
            return None
        notes = node.meta.setdefault("custom", {}).setdefault(META_KEY, {})
        if "root" not in notes:
            notes["root"] = self._roots
            self._roots += 1
        return cast(int, notes["root"])

    def _count_parts(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Note that as many tensors come of a call as a dimension is long, or fits parts of one length."""
        parts = _PARTS.get(getattr(func, "__name__", ""))
        if parts is None or not args or not isinstance(args[0], torch.Tensor) or not args[0].ndim:
            return
        given = (*args[1:], *kwargs.values())
        place = {"split": 1, "chunk": 1}.get(getattr(func, "__name__", ""), 0)
        length = _plain(given[0]) if place and given else None
        if place and type(length) is not int:
            return
        dim = kwargs.get("dim", args[place + 1] if len(args) > place + 1 else 0)
        root = self._root(args[0])
        if root is not None and type(_plain(dim)) is int:
            axis = _plain(dim) % args[0].ndim
            expression = parts(SizeOf(root, axis), length)
            frame = users_frame(sys._getframe(2))
            number = evaluate_expression(expression, lambda size: args[0].shape[axis])
            self.record.use(expression, number, "as many tensors", frame)

    def _hide(self, tensor: Any, how: str) -> None:
        """Note that something that follows from all sizes of a tensor is used."""
        root, frame = self._root(tensor), users_frame(sys._getframe(2))
        for dim, size in enumerate(tensor.shape) if root is not None and frame is not None else ():
            self.record.escaped.append(SizeOf(cast(int, root), dim))
            self.record.use(SizeOf(cast(int, root), dim), size, how, frame)

    def _read(self, tensor: Any, shape: torch.Size) -> torch.Size:
        """The sizes that a forward reads, tracked."""
        root = self._root(tensor)
        if root is not None:
            self.record.read(tuple(shape), root, users_frame(sys._getframe(2)))
        return self._shape(tensor, shape)

    def _shape(self, tensor: Any, shape: torch.Size) -> torch.Size:
        root = self._root(tensor)
        if root is None:
            return shape
        return torch.Size([tracked(int(n), SizeOf(root, d), self.record) for d, n in enumerate(shape)])

    def _size(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor = args[0]
        root = self._root(tensor)
        frame = users_frame(sys._getframe(2))
        if root is not None:
            self.record.read(tuple(tensor.shape), root, frame)
        shape = self._shape(tensor, torch.Size(tensor.shape))
        if func == torch.Tensor.size:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            return shape if dim is None else shape[dim]
        if func == torch.Tensor.__len__:
            if root is not None:
                self.record.escaped.append(SizeOf(root, 0))
                self.record.use(SizeOf(root, 0), tensor.shape[0], "len()", frame)
            return func(*args, **kwargs)
        total: Any = 1
        for extent in shape:
            total = total * extent
        return total


def track_attributes(model: nn.Module, record: Record) -> None:
    """Replace, in place, every integer that a module of `model` keeps by a tracked one."""
    replace_integers(model, lambda attribute: cast(int, tracked(attribute.number, attribute, record)))
