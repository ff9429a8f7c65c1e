"""What the values of a graph would measure in a call with inputs of other sizes.

The ops are run on tensors without data, with the numbers that the forward derives from sizes derived
anew. It holds as long as the forward takes the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor

from speedup.ir.expressions import (
    Argument,
    Derived,
    Expression,
    Lookup,
    Root,
    Settled,
    SizeOf,
    derived_in,
    evaluate_expression,
    is_lost,
    recompute,
    sizes_in,
)
from speedup.ir.graph import Graph, Op, Shape, Value, call_arguments
from speedup.ir.operators import functional_form

_VIEWS = ("view", "_unsafe_view")
_RECURRENT = ("lstm", "gru", "rnn_")
# Bounds of what a process remembers.
_MOST_KINDS, _MOST_MADE = 1 << 14, 1 << 16
Unit = frozenset[tuple[int, int]]
"""Dimensions of inputs, each by the input's number and its own."""


def resized_shapes(graph: Graph, shapes: Sequence[Shape], wanted: Iterable[int]) -> Mapping[int, Shape]:
    """The shapes of the values `wanted`, by index, if the inputs have these `shapes`.

    Those that come after an op that does not run at these sizes are missing.
    """
    chosen = frozenset(wanted)
    found, _ = _run_at(graph, shapes, chosen)
    return {index: found[index].shape for index in chosen if index in found}


def count_runs(graph: Graph, shapes: Sequence[Shape], wanted: Iterable[int]) -> tuple[int, int]:
    """Of the ops that the values `wanted` come from, how many run before one does not, and all of them."""
    chosen = frozenset(wanted)
    return _run_at(graph, shapes, chosen)[1], len(_steps(graph, chosen))


def _run_at(graph: Graph, shapes: Sequence[Shape], wanted: frozenset[int]) -> tuple[_Found, int]:
    """What the ops make before one does not run, and how many do."""
    found: _Found = dict(graph.once("state without data", lambda: _state(graph)))
    found.update((v.index, _empty(shape, v)) for v, shape in zip(graph.inputs, shapes, strict=True))
    runs: _Runs = graph.once("runs without data", _Runs)
    steps = _steps(graph, wanted)
    for number, step in enumerate(steps):
        try:
            results = runs.results(step, found) if step.given is None else step.given
        except Exception:  # operators raise anything where sizes do not fit
            return found, number
        found.update(zip(step.results, results, strict=False))
    return found, len(steps)


def _steps(graph: Graph, wanted: frozenset[int]) -> Sequence[_Step]:
    """The ops that the values come from, in order."""
    runs: _Runs = graph.once("runs without data", _Runs)
    needed: dict[frozenset[int], Sequence[_Step]] = graph.once("needed for sizes", dict)
    if wanted not in needed:
        needed[wanted] = [runs.step(graph, number) for number in _needed(graph, wanted)]
    return needed[wanted]


def changing_together(shapes: Iterable[tuple[int, Shape]], first: int = 0) -> Mapping[Unit, int]:
    """Dimensions of numbered inputs that may change together, from dimension `first` on, with their extent.

    Those of one extent; of these, the same dimension of several inputs; and each by itself.
    """
    places: dict[int, list[tuple[int, int]]] = {}
    for number, shape in shapes:
        for dim in range(first, len(shape)):
            places.setdefault(shape[dim], []).append((number, dim))
    found = {frozenset(together): extent for extent, together in places.items()}
    for extent, together in places.items():
        for dim in dict.fromkeys(dim for _, dim in together):
            found[frozenset(place for place in together if place[1] == dim)] = extent
        found.update((frozenset({place}), extent) for place in together)
    return found


@frozen(eq=False)
class _Sized:
    """A tensor without data, or a number, and what it is as far as sizes go."""

    held: Any
    key: Any

    @property
    def shape(self) -> Shape:
        return tuple(self.held.shape) if isinstance(self.held, Tensor) else ()


_Found = dict[int, _Sized]


def _sized(held: Any) -> _Sized:
    return _Sized(held, _key_of(held))


def _empty(shape: Shape, value: Value) -> _Sized:
    return _sized(torch.empty(shape, dtype=value.dtype, device="meta"))


def _state(graph: Graph) -> _Found:
    return {value.index: _empty(value.shape, value) for value in graph.state}


@frozen(cache_hash=True)
class _Kind:
    """What tells ops apart that make other results of operands of the same sizes and equal numbers.

    `itself` is the graph, and the op, where what it makes hangs on more.
    """

    target: Any
    itself: Any
    form: Any
    dtypes: tuple[torch.dtype, ...]
    default: torch.dtype


@frozen(eq=False)
class _Step:
    """An op that is run on `operands`, with `numbers`; `given` is what it makes where that never changes.

    It runs only while the extents that `unseen` says are so: nothing is known of its numbers at others.
    """

    op: Op
    kind: _Kind
    operands: tuple[int, ...]
    numbers: tuple[Expression, ...]
    unseen: tuple[tuple[SizeOf, int], ...]
    results: tuple[int, ...]
    given: tuple[_Sized, ...] | None


@lru_cache(maxsize=_MOST_KINDS)
def _interned(kind: _Kind) -> _Kind:
    """The first that was equal: one object is compared in no time."""
    return kind


_made: dict[Any, Sequence[_Sized] | None] = {}
"""What ops have made of tensors without data, by their kind and what they were given; None where one does
not run. Layers are many and sizes few, in all graphs of a process.
"""


@frozen(eq=False)
class _Runs:
    """How the ops of a graph are run on tensors without data."""

    steps: dict[int, _Step] = field(factory=dict)
    # Stands for the graph where kinds of ops are told apart.
    name: object = field(factory=object)

    def step(self, graph: Graph, number: int) -> _Step:
        if number not in self.steps:
            self.steps[number] = self._step(graph, graph.ops[number])
        return self.steps[number]

    def _step(self, graph: Graph, op: Op) -> _Step:
        arguments = tuple(op.arguments.values())
        given: tuple[_Sized, ...] | None = None
        if all(graph.is_fixed(r) for r in op.results):
            given = tuple(_empty(r.shape, r) for r in op.results)
        elif op.results and all(r.is_number for r in op.results):
            # Which numbers the forward reads from tensors decides no size.
            given = tuple(_sized(1.0 if r.dtype.is_floating_point else 1) for r in op.results)
        dtypes = tuple(r.dtype for r in op.results)
        kind = _Kind(op.target, self._itself(op), _form_of(arguments), dtypes, torch.get_default_dtype())
        heeded = () if op.is_inner or _is_pointwise(op) else derived_in(arguments)
        numbers = tuple(one.expression for one in heeded)
        unseen = (size for one in numbers if is_lost(one) for size in sizes_in(one))
        as_traced = tuple((size, graph.values[size.value].shape[size.dim]) for size in unseen)
        results = tuple(r.index for r in op.results)
        operands = tuple(v.index for v in op.operands)
        return _Step(op, _interned(kind), operands, numbers, as_traced, results, given)

    def _itself(self, op: Op) -> Any:
        if op.is_inner or op.name.startswith(_RECURRENT):
            # What these make hangs on the sizes that they were traced at.
            return self.name, op.index
        # The code of an operator that is not torch's own may become another.
        return None if op.target.namespace == "aten" else self.name

    def results(self, step: _Step, found: _Found) -> Sequence[_Sized]:
        def lookup(root: Root) -> Any:
            return found[root.value].shape[root.dim] if isinstance(root, SizeOf) else root.number

        if any(lookup(size) != extent for size, extent in step.unseen):
            raise ValueError(f"nothing is known of the numbers of {step.op.label} at these sizes")
        numbers = tuple(_key_of(evaluate_expression(one, lookup)) for one in step.numbers)
        key = step.kind, tuple(found[index].key for index in step.operands), numbers
        if key not in _made:
            if len(_made) >= _MOST_MADE:
                _made.clear()
            _made[key] = None
            _made[key] = tuple(map(_sized, _run(step.op, found, lookup)))
        made = _made[key]
        if made is None:
            raise ValueError(f"{step.op.label} does not run at these sizes")
        return made


def _is_pointwise(op: Op) -> bool:
    return torch.Tag.pointwise in functional_form(op.target).tags


def _form_of(argument: Argument) -> Any:
    """What an argument of an op is but for its values and for the numbers that follow from sizes."""
    if isinstance(argument, Value | Derived):
        return type(argument)
    if isinstance(argument, Settled):
        return _key_of(argument.number)
    return tuple(map(_form_of, argument)) if isinstance(argument, tuple) else _key_of(argument)


def _needed(graph: Graph, wanted: frozenset[int]) -> Sequence[int]:
    """The ops that the values come from, or whose sizes these are computed with, in order."""
    found: set[int] = set()
    pending = list(wanted)
    while pending:
        producer = graph.producer[pending.pop()]
        if producer is not None and producer not in found:
            found.add(producer)
            op = graph.ops[producer]
            pending.extend(v.index for v in op.operands)
            for derived in derived_in(tuple(op.arguments.values())):
                pending.extend(size.value for size in sizes_in(derived.expression))
    return sorted(found)


def _recurrent(op: Op, found: _Found) -> Sequence[Tensor]:
    """What a recurrent layer or cell makes: torch's own way to that takes it apart, step by step.

    Raises:
        ValueError: the states do not fit the data, which torch's own code would read past, or there is none.
    """
    source = op.operands[0]
    data, states = found[source.index].shape, _states(op)
    batch = 0 if op.get("batch_first") or source.ndim < 3 else 1
    made = []
    for v in states:
        shape = found[v.index].shape
        across = data[batch] if v.shape[-2] == source.shape[batch] else v.shape[-2]
        fits = shape[-1] == v.shape[-1] and shape[:-2] == v.shape[:-2] and (v.is_state or shape[-2] == across)
        if not fits:
            raise ValueError(f"the states of {op.label} do not fit its data")
        made.append((*shape[:-2], across, shape[-1]))
    if data[-1] != source.shape[-1]:
        raise ValueError(f"the data of {op.label} have other features")
    if "_cell" not in op.name:
        if data[1 - batch] == 0:
            raise ValueError(f"{op.label} has no step to make")
        made.insert(0, (*data[:-1], op.results[0].shape[-1]))
    return [torch.empty(s, dtype=r.dtype, device="meta") for s, r in zip(made, op.results, strict=True)]


def _states(op: Op) -> Sequence[Value]:
    """The states that a recurrent layer or cell starts from."""
    given = op["hx"]
    return (given,) if isinstance(given, Value) else given


def _run(op: Op, found: _Found, lookup: Lookup) -> Sequence[Any]:
    """What the op makes of what was `found`."""
    if op.name.startswith(_RECURRENT) and "batch_sizes" not in op.arguments:
        return _recurrent(op, found)

    def fill(argument: Any) -> Any:
        if isinstance(argument, Value):
            return found[argument.index].held
        if isinstance(argument, tuple):
            return [fill(part) for part in argument]
        return recompute(argument, lookup)

    if op.is_inner:
        data = found[op.operands[0].index].held
        if isinstance(data, Tensor):
            return [data.new_empty(_inner_shape(op.operands[0].shape, tuple(data.shape), op.result.shape))]
    if _is_pointwise(op):
        # Torch's own ways to the same shape take many times longer.
        given = [found[v.index].shape for v in op.operands]
        shape = torch.broadcast_shapes(*given)  # type: ignore[no-untyped-call]
        return [torch.empty(shape, dtype=result.dtype, device="meta") for result in op.results]
    filled = {name: fill(argument) for name, argument in op.arguments.items()}
    if "device" in filled:
        filled["device"] = torch.device("meta")
    if op.name in _VIEWS and "size" in filled:
        # Strides of tensors without data are not those of the ones that the forward views.
        return [torch.reshape(filled["self"], filled["size"])]
    positional, keywords = call_arguments(op, filled)
    results = functional_form(op.target)(*positional, **keywords)
    return results if isinstance(results, list | tuple) else [results]


def _key_of(argument: Any) -> Any:
    """What an argument is as far as sizes go."""
    if isinstance(argument, Tensor):
        return tuple(argument.shape), argument.stride(), argument.dtype
    try:
        hash(argument)
    except TypeError:
        return object()
    # 1 and True would be one key, and so would 1 and 1.0.
    return type(argument), argument


def _inner_shape(old: Shape, new: Shape, made: Shape) -> Shape:
    """What a view inside a function of torch makes of `new` where it made `made` of `old`.

    Where dimensions are taken apart, the first that can takes the change: it is the batch that such
    functions put together with others, and it leads.
    """
    found: list[int] = []
    source = target = 0
    while target < len(made) or source < len(old):
        first, start = source, target
        source, target = min(source + 1, len(old)), min(target + 1, len(made))
        while prod(old[first:source]) != prod(made[start:target]):
            if prod(old[first:source]) < prod(made[start:target]) and source < len(old):
                source += 1
            elif target < len(made):
                target += 1
            else:
                return made
        sizes = list(made[start:target])
        before, after = prod(old[first:source]), prod(new[first:source])
        place = next((n for n, size in enumerate(sizes) if size * after % before == 0), None)
        if place is not None and before != after:
            sizes[place] = sizes[place] * after // before
        found += sizes
    return tuple(found)
