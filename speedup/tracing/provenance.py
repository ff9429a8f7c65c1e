"""Numbers that remember which tensor sizes and module attributes they came from.

While a model is traced, `x.shape` and `self.heads` hand out `TrackedInt`s: ordinary ints that
carry their expression through Python arithmetic. Operators that receive one are annotated with
it, so the frozen graph knows that an argument was `x.shape[1] // 2` and not a literal 32.

Comparisons are recorded as guards, since the forward may branch on them. Whatever turns a
tracked number into an untracked one (`float(n)`, `len(x)`) marks its roots as escaped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from speedup.spec.callsites import Running, running_frames
from speedup.spec.expressions import FUNCTIONS, Arithmetic, Expression, Guard, Root, SizeOf, roots_in
from speedup.tracing.adapting import ADAPTING
from speedup.tracing.attributes import replace_integers
from speedup.tracing.numbers import number_type

META_KEY = "speedup"


class Record:
    """What one trace saw of numbers and calls; filled during that trace only.

    `assigned` names buffers that the forward puts another tensor in the place of.
    """

    def __init__(self) -> None:
        self.guards: list[tuple[Arithmetic, bool]] = []
        self.escaped: list[Root] = []
        self.assigned: dict[str, None] = {}
        self.calls: dict[tuple[Running, ...], int] = {}

    def frozen_guards(self) -> tuple[Guard, ...]:
        """The guards without repetitions."""
        return tuple(dict.fromkeys(Guard(e, o) for e, o in self.guards))


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
                escape(self)
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
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if expression.operands[0] != expression.operands[1] and not caller.startswith("torch.nn.modules."):
            self.record.guards.append((expression, outcome))
        return outcome

    return method


def escape(item: Any) -> None:
    """Mark the roots of a number that leaves the trace's sight as escaped: they may not change."""
    if isinstance(item, _Tracked):
        item.record.escaped.extend(roots_in(item.expression))


def _escaping(name: str) -> Callable[..., Any]:
    """A method that works on plain numbers: what comes of them is out of sight."""

    def method(*operands: Any) -> Any:
        plain = getattr(_plain(operands[0]), f"__{name}__", None)
        if plain is None:
            return NotImplemented
        for operand in operands:
            escape(operand)
        return plain(*map(_plain, operands[1:]))

    return method


def _as_float(self: Any) -> Any:
    """What `torch.sym_float` makes of a tracked number, also where it meets a number read from a tensor."""
    own = _read_back(self) if get_proxy_mode() is not None else None
    return float(self) if own is None else torch.sym_float(own)  # type: ignore[no-untyped-call]


def _truth(self: Any) -> bool:
    outcome = bool(_plain(self))
    self.record.guards.append((Arithmetic("ne", (self.expression, 0)), outcome))
    return outcome


_METHODS: dict[str, Callable[..., Any]] = {
    **{f"__{n}__": _arithmetic(n) for n in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow")},
    **{f"__r{n}__": _arithmetic(n, True) for n in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow")},
    **{f"__{n}__": _arithmetic(n) for n in ("neg", "abs", "floor", "ceil")},
    **{
        f"__{r}{n}__": _escaping(r + n)
        for r in ("", "r")
        for n in ("lshift", "rshift", "and", "or", "xor", "divmod")
    },
    "__bool__": _truth,
    "__sym_float__": _as_float,
    **{f"__{n}__": _escaping(n) for n in ("str", "repr", "format", "round", "int", "float", "trunc")},
    **{f"__{n}__": _comparison(n) for n in ("eq", "ne", "lt", "le", "gt", "ge")},
}

TrackedInt: Any = type(
    "TrackedInt",
    (_Tracked, int),
    {
        **_METHODS,
        "__hash__": int.__hash__,
        "__deepcopy__": lambda self, memo: int.__int__(self),
        "__reduce__": lambda self: (int, (int.__int__(self),)),
    },
)
TrackedFloat: Any = type(
    "TrackedFloat",
    (_Tracked, float),
    {
        **_METHODS,
        "__hash__": float.__hash__,
        "__deepcopy__": lambda self, memo: float.__float__(self),
        "__reduce__": lambda self: (float, (float.__float__(self),)),
    },
)


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
            return self._shape(args[0], func(*args))
        if func in (torch.Tensor.size, torch.Tensor.numel, torch.numel, torch.Tensor.__len__):
            return self._size(func, args, kwargs)
        mode = get_proxy_mode()
        if mode is None:
            return func(*args, **kwargs)
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

    def _shape(self, tensor: Any, shape: torch.Size) -> torch.Size:
        root = self._root(tensor)
        if root is None:
            return shape
        return torch.Size([tracked(int(n), SizeOf(root, d), self.record) for d, n in enumerate(shape)])

    def _size(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor, shape = args[0], self._shape(args[0], torch.Size(args[0].shape))
        if func == torch.Tensor.size:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            return shape if dim is None else shape[dim]
        if func == torch.Tensor.__len__:
            root = self._root(tensor)
            if root is not None:
                self.record.escaped.append(SizeOf(root, 0))
            return func(*args, **kwargs)
        total: Any = 1
        for extent in shape:
            total = total * extent
        return total


def track_attributes(model: nn.Module, record: Record) -> None:
    """Replace, in place, every integer that a module of `model` keeps by a tracked one."""
    replace_integers(model, lambda attribute: cast(int, tracked(attribute.number, attribute, record)))
