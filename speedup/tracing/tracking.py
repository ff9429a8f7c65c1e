"""The mode under which a model is traced: sizes come out tracked, calls are noted on what they create."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from speedup.ir.callsites import running_frames
from speedup.ir.expressions import Arithmetic, Expression, SizeOf, evaluate_expression, roots_in
from speedup.modules.attributes import replace_integers
from speedup.torch_api import CUSTOM, get_proxy_mode, tree_leaves
from speedup.tracing.adapting import ADAPTING
from speedup.tracing.attempts import is_tried
from speedup.tracing.checks import checked_truth
from speedup.tracing.frames import users_frame
from speedup.tracing.hidden import IN_C
from speedup.tracing.provenance import META_KEY, Tracked, plain_number, plain_numbers, track
from speedup.tracing.reading import READING, Reading, State, is_selection, positions
from speedup.tracing.record import Record
from speedup.tracing.tape import node_of


def _flat_numbers(arguments: Any) -> Iterator[Any]:
    """The numbers in a Python call's arguments, those inside slices included."""
    for leaf in tree_leaves(arguments):
        if isinstance(leaf, slice):
            yield from (b for b in (leaf.start, leaf.stop, leaf.step) if isinstance(b, int))
        elif isinstance(leaf, int | float) and not isinstance(leaf, bool):
            yield leaf


# Python code of torch's own that checks sizes against each other out of the trace's sight.
_RIGID = (torch.nn.functional.multi_head_attention_forward,)


def _quotient(number: Expression, divisor: Expression) -> Expression:
    return Arithmetic("ceil", (Arithmetic("truediv", (number, divisor)),))


# Calls that make as many tensors as their arguments say: how many, from the dimension's extent.
_PARTS: Mapping[str, Callable[[SizeOf, Any], Expression]] = {
    "unbind": lambda size, _: size,
    "__iter__": lambda size, _: size,
    "split": _quotient,
    "chunk": lambda size, count: _quotient(size, _quotient(size, count)),
}


_SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]


_INDEXING = frozenset({"__getitem__"})
_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_SQUEEZES = frozenset({torch.squeeze, torch.Tensor.squeeze, torch.Tensor.squeeze_})


_OF_NUMBERS = frozenset({torch.sym_float, torch.sym_int, torch.sym_max, torch.sym_min, torch.sym_not})
# Code of torch's own that hands sizes to C, and gives up what it traces where these are numbers of a trace.
_UNTRACKED = "torch._functorch"


# What says something about all sizes of a tensor together.
_OF_ALL_SIZES: Mapping[Any, str] = {
    torch.Tensor.stride: "stride()",
    torch.Tensor.nbytes.__get__: "nbytes",  # type: ignore[attr-defined]
    torch.Tensor.untyped_storage: "its storage",
    torch.Tensor.storage: "its storage",
}


class Tracking(TorchFunctionMode):
    """Hands out tracked sizes during a trace and annotates the nodes that each Python call creates.

    `node.meta["custom"]["speedup"]` then holds `"root"`, an id, on nodes whose sizes were read, and
    on nodes that a call created its tracked `"numbers"`, the `"call"` itself as an index into the
    record, whether it is `"rigid"`, and for calls that adapt to sizes by themselves which these are.
    `torch.export` preserves `meta["custom"]` through all its passes.

    `gives` says whether Python gets the numbers of `state` where it asks for them; else it is noted that
    it asked.
    """

    def __init__(self, record: Record, gives: bool = False) -> None:
        super().__init__()
        self.record = record
        self.gives = gives
        self.state: State | None = None
        self._roots = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func`; track the sizes it returns, annotate the nodes it creates."""
        kwargs = kwargs or {}
        if func == _SHAPE:
            return self._shape(args[0], func(*args), sys._getframe(1))
        if func in (torch.Tensor.size, torch.Tensor.numel, torch.numel, torch.Tensor.__len__):
            return self._size(func, args, kwargs)
        if func in _OF_ALL_SIZES:
            self._hide(args[0], _OF_ALL_SIZES[func], sys._getframe(1))
        if func == _DATA:
            # Only as detached can a tensor of a trace be followed.
            func = torch.Tensor.detach
        mode = get_proxy_mode()
        if mode is None:
            return func(*plain_numbers(args), **plain_numbers(kwargs))
        reading = self._reading(func, args, kwargs, getattr(mode.tracer, "root", None))
        if reading is not None:
            if getattr(func, "__name__", "") not in _INDEXING:
                return reading.call(func, plain_numbers(args), plain_numbers(kwargs))
            args = (args[0], reading.call(positions, args[1:], {}))
        if func == torch.Tensor.__bool__ and (truth := checked_truth(sys._getframe(1))) is not None:
            self.record.checked.append(args[0])
            return truth
        self._count_parts(func, args, kwargs)
        self._compare_with_one(func, args, kwargs)
        nodes = mode.tracer.graph.nodes
        last = next(iter(reversed(nodes)), None)
        notes = self._notes(func, args, kwargs)
        try:
            result = self._call(func, args, kwargs)
        except Exception:
            self._note_attempt((args, kwargs), None)
            raise
        for node in reversed(nodes):
            if node is last:
                break
            node.meta.setdefault(CUSTOM, {}).setdefault(META_KEY, {}).update(notes)
        self._note_attempt((args, kwargs), result)
        return result

    def _call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a call returns for the plain numbers, if it is not made to compute with tracked ones."""
        if func not in _OF_NUMBERS:
            return func(*plain_numbers(args), **plain_numbers(kwargs))
        self.record.is_noting = False
        try:
            return func(*args, **kwargs)
        finally:
            self.record.is_noting = True

    def _reading(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], root: object
    ) -> Reading | None:
        """The numbers of the model's state that a call asks for; None where it does not, or gets none."""
        name = getattr(func, "__name__", "")
        arguments: Any = (args, kwargs)
        if name in _INDEXING:
            arguments = args[1:]
        is_asking = name in READING or (name == "where" and len(args) + len(kwargs) == 1)
        if not is_asking and not (name in _INDEXING and any(map(is_selection, tree_leaves(arguments)))):
            return None
        found = None if self.state is None else self.state.find(arguments, root)
        if found is None or not self.gives:
            self.record.reads_state |= found is not None
            return None
        self.record.consulted.update(dict.fromkeys(found.names))
        frame = users_frame(sys._getframe(2))
        for number, expression in found.numbers:
            self.record.opaque_roots.extend(roots_in(expression))
            self.record.use(expression, number, name, frame, may_repeat=True, hints=None)
        return found

    def _note_attempt(self, arguments: Any, result: Any) -> None:
        """Note a call that fails at some sizes only, maybe, where the forward goes on if it does."""
        outer = sys._getframe(2)
        if not is_tried(outer):
            return
        given = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]
        numbers = [n for n in map(plain_number, _flat_numbers(arguments)) if isinstance(n, int)]
        # What takes one tensor and no number takes any sizes.
        if len(given) < 2 and not numbers:
            return
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)][:1]
        rooted = [(t, self._root(t)) for t in (given if result is None else made)]
        sizes = [SizeOf(root, dim) for t, root in rooted if root is not None for dim in range(t.ndim)]
        if sizes:
            stated = [abs(n) for n in numbers] if result is None else []
            self.record.attempt([*sizes, *stated], result is not None, users_frame(outer))

    def _notes(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        calls = self.record.calls
        running = running_frames(sys._getframe(2))
        notes: dict[str, Any] = {"call": calls.setdefault(running, len(calls)), "rigid": func in _RIGID}
        notes["function"] = getattr(func, "__name__", "")
        numbers = [(plain_number(n), self._own(n)) for n in _flat_numbers((args, kwargs))]
        if getattr(func, "__name__", "") in ADAPTING:
            notes["adapting"] = func.__name__, tuple(number for number, _ in numbers)
        if any(expression is not None for _, expression in numbers):
            notes["numbers"] = tuple(numbers)
        return notes

    def _own(self, number: Any) -> Expression | None:
        """The expression of a number of this trace; one that a cache kept from another has none."""
        is_own = isinstance(number, Tracked) and number.record is self.record
        return number.expression if is_own else None

    def _root(self, tensor: Any) -> int | None:
        node = node_of(tensor)
        if node is None:
            return None
        notes = node.meta.setdefault(CUSTOM, {}).setdefault(META_KEY, {})
        if "root" not in notes:
            notes["root"] = self._roots
            self._roots += 1
        return cast(int, notes["root"])

    def _count_parts(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that as many tensors come of a call as a dimension is long, or fits parts of one length."""
        parts = _PARTS.get(getattr(func, "__name__", ""))
        if parts is None or not args or not isinstance(args[0], torch.Tensor) or not args[0].ndim:
            return
        given = (*args[1:], *kwargs.values())
        place = {"split": 1, "chunk": 1}.get(getattr(func, "__name__", ""), 0)
        length = plain_number(given[0]) if place and given else None
        if place and type(length) is not int:
            return
        dim = kwargs.get("dim", args[place + 1] if len(args) > place + 1 else 0)
        root = self._root(args[0])
        if root is not None and type(plain_number(dim)) is int:
            axis = plain_number(dim) % args[0].ndim
            expression = parts(SizeOf(root, axis), length)
            frame = users_frame(sys._getframe(2))
            number = evaluate_expression(expression, lambda size: args[0].shape[axis])
            self.record.use(expression, number, "as many tensors", frame, hints=None)

    def _compare_with_one(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Note that a call takes away all dimensions of extent 1, which others may be at other sizes."""
        if func not in _SQUEEZES or len(args) != 1 or kwargs or not isinstance(args[0], torch.Tensor):
            return
        root, frame = self._root(args[0]), users_frame(sys._getframe(2))
        for dim, extent in enumerate(args[0].shape) if root is not None else ():
            self.record.guard(Arithmetic("eq", (SizeOf(cast(int, root), dim), 1)), extent == 1, frame)

    def _hide(self, tensor: Any, how: str, reader: FrameType) -> None:
        """Note that code in the frame `reader` uses something that follows from all sizes of a tensor."""
        root, frame = self._root(tensor), users_frame(reader)
        for dim, size in enumerate(tensor.shape) if root is not None and frame is not None else ():
            self.record.opaque_roots.append(SizeOf(cast(int, root), dim))
            self.record.use(SizeOf(cast(int, root), dim), size, how, frame, may_repeat=how == IN_C)

    def _shape(self, tensor: Any, shape: torch.Size, reader: FrameType) -> torch.Size:
        """The sizes that code in the frame `reader` reads, tracked."""
        is_untracked = reader.f_globals.get("__name__", "").startswith(_UNTRACKED)
        root = None if is_untracked else self._root(tensor)
        if root is None:
            return shape
        if self.record.hands_out_ints:
            self._hide(tensor, IN_C, reader)
        return torch.Size([track(int(n), SizeOf(root, d), self.record) for d, n in enumerate(shape)])

    def _size(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor = args[0]
        root = self._root(tensor)
        shape = self._shape(tensor, torch.Size(tensor.shape), sys._getframe(2))
        if func == torch.Tensor.size:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            return shape if dim is None else shape[plain_number(dim)]
        if func == torch.Tensor.__len__:
            if root is not None:
                frame = users_frame(sys._getframe(2))
                self.record.opaque_roots.append(SizeOf(root, 0))
                self.record.use(SizeOf(root, 0), tensor.shape[0], "len()", frame, hints=None)
            return func(*args, **kwargs)
        total: Any = 1
        for extent in shape:
            total = total * extent
        return total


def track_attributes(model: nn.Module, record: Record) -> None:
    """Replace, in place, every integer that a module of `model` keeps by a tracked one."""
    replace_integers(model, lambda attribute: cast(int, track(attribute.number, attribute, record)))
