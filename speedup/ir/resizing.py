"""What the values of a graph would measure in a call with inputs of other sizes.

The ops are run on tensors without data, with the numbers that the forward derives from sizes derived
anew. It holds as long as the forward takes the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    recompute,
    sizes_in,
)
from speedup.ir.graph import Graph, Op, Shape, Value, call_arguments
from speedup.ir.operators import functional_form

_RECURRENT = ("lstm", "gru", "rnn_")
Unit = frozenset[tuple[int, int]]
"""Dimensions of inputs, each by the input's number and its own."""


def resized_shapes(graph: Graph, shapes: Sequence[Shape], wanted: Iterable[int]) -> Mapping[int, Shape]:
    """The shapes of the values `wanted`, by index, if the inputs have these `shapes`.

    Those that come after an op that does not run at these sizes are missing.
    """
    chosen = frozenset(wanted)
    found: _Found = dict(graph.once("state without data", lambda: _state(graph)))
    found.update((v.index, _empty(shape, v)) for v, shape in zip(graph.inputs, shapes, strict=True))
    runs: _Runs = graph.once("runs without data", _Runs)
    needed: dict[frozenset[int], Sequence[_Step]] = graph.once("needed for sizes", dict)
    if chosen not in needed:
        needed[chosen] = [runs.step(graph, number) for number in _needed(graph, chosen)]
    for step in needed[chosen]:
        try:
            results = runs.results(step, found) if step.given is None else step.given
        except Exception:  # operators raise anything where sizes do not fit
            break
        found.update(zip(step.results, results, strict=False))
    return {index: found[index].shape for index in chosen if index in found}


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


@frozen(eq=False)
class _Step:
    """An op to be run. Ops of one `kind` make the same of `operands` of the same sizes and equal `numbers`.

    `given` is what it makes where that is the same in every call.
    """

    op: Op
    kind: int
    operands: tuple[int, ...]
    numbers: tuple[Expression, ...]
    results: tuple[int, ...]
    given: tuple[_Sized, ...] | None


@frozen(eq=False)
class _Runs:
    """What ops have made of tensors without data.

    Layers are many and sizes few: what an op has made of some sizes it makes of them again. None where it
    does not run.
    """

    kinds: dict[Any, int] = field(factory=dict)
    steps: dict[int, _Step] = field(factory=dict)
    seen: dict[Any, Sequence[_Sized] | None] = field(factory=dict)

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
        # What these make hangs on the sizes that they were traced at.
        itself = op.index if op.is_inner or op.name.startswith(_RECURRENT) else None
        kind = (op.target, itself, _form_of(arguments), tuple(r.dtype for r in op.results))
        heeded = () if op.is_inner or _is_pointwise(op) else derived_in(arguments)
        numbers = tuple(one.expression for one in heeded)
        results = tuple(r.index for r in op.results)
        place = self.kinds.setdefault(kind, len(self.kinds))
        return _Step(op, place, tuple(v.index for v in op.operands), numbers, results, given)

    def results(self, step: _Step, found: _Found) -> Sequence[_Sized]:
        def lookup(root: Root) -> Any:
            return found[root.value].shape[root.dim] if isinstance(root, SizeOf) else root.number

        numbers = tuple(_key_of(evaluate_expression(one, lookup)) for one in step.numbers)
        key = step.kind, tuple(found[index].key for index in step.operands), numbers
        if key not in self.seen:
            self.seen[key] = None
            self.seen[key] = tuple(map(_sized, _run(step.op, found, lookup)))
        made = self.seen[key]
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


def _check_recurrent(op: Op, found: _Found) -> None:
    """Refuse states that do not fit the data of a recurrent layer: torch's own code would read past them."""
    data, *states = (v for v in op.operands if v.ndim == op.operands[0].ndim and not v.is_state)
    given = found[data.index].shape
    batch = 0 if op.get("batch_first") or data.ndim < 3 else 1
    fits = given[-1] == data.shape[-1] and all(
        (shape := found[v.index].shape)[-1] == v.shape[-1]
        and shape[-2] == (given[batch] if v.shape[-2] == data.shape[batch] else v.shape[-2])
        and shape[:-2] == v.shape[:-2]
        for v in states
    )
    if not fits:
        raise ValueError(f"the states of {op.label} do not fit its data")


def _run(op: Op, found: _Found, lookup: Lookup) -> Sequence[Any]:
    """What the op makes of what was `found`."""
    if op.name.startswith(_RECURRENT):
        _check_recurrent(op, found)

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
