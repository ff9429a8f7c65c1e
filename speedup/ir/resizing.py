"""What the values of a graph would measure in a call with inputs of other sizes.

The ops are run on tensors without data, with the numbers that the forward derives from sizes derived
anew. It holds as long as the forward takes the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from speedup.ir.expressions import Root, SizeOf, derived_in, recompute, sizes_in
from speedup.ir.graph import Graph, Op, Shape, Value, call_arguments
from speedup.ir.operators import functional_form

_RECURRENT = ("lstm", "gru", "rnn_")
Unit = frozenset[tuple[int, int]]
"""Dimensions of inputs, each by the input's number and its own."""
_Meta = Mapping[int, Tensor | float]


def resized_shapes(graph: Graph, shapes: Sequence[Shape], wanted: Iterable[int]) -> Mapping[int, Shape]:
    """The shapes of the values `wanted`, by index, if the inputs have these `shapes`.

    Those that come after an op that does not run at these sizes are missing.
    """
    chosen = frozenset(wanted)
    tensors: dict[int, Tensor | float] = {
        value.index: _empty(shape, value) for value, shape in zip(graph.inputs, shapes, strict=True)
    }
    tensors.update({value.index: _empty(value.shape, value) for value in graph.state})
    # Layers are many and sizes few: what an op has made of some sizes it makes of them again.
    seen: dict[Any, Sequence[Any]] = graph.once("runs without data", dict)
    needed: dict[frozenset[int], Sequence[int]] = graph.once("needed for sizes", dict)
    if chosen not in needed:
        needed[chosen] = _needed(graph, chosen)
    for number in needed[chosen]:
        op = graph.ops[number]
        if all(graph.is_fixed(r) for r in op.results):
            tensors.update((r.index, _empty(r.shape, r)) for r in op.results)
            continue
        if op.results and all(r.is_number for r in op.results):
            # Which numbers the forward reads from tensors decides no size.
            tensors.update((r.index, 1.0 if r.dtype.is_floating_point else 1) for r in op.results)
            continue
        try:
            results = _run(op, tensors, seen)
        except Exception:  # operators raise anything where sizes do not fit
            break
        tensors.update({r.index: t for r, t in zip(op.results, results, strict=False)})
    return {index: _shape(tensors[index]) for index in chosen if index in tensors}


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


def _shape(found: Tensor | float) -> Shape:
    return tuple(found.shape) if isinstance(found, Tensor) else ()


def _empty(shape: Shape, value: Value) -> Tensor:
    return torch.empty(shape, dtype=value.dtype, device="meta")


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


def _check_recurrent(op: Op, tensors: _Meta) -> None:
    """Refuse states that do not fit the data of a recurrent layer: torch's own code would read past them."""
    data, *states = (v for v in op.operands if v.ndim == op.operands[0].ndim and not v.is_state)
    found = _shape(tensors[data.index])
    batch = 0 if op.get("batch_first") or data.ndim < 3 else 1
    fits = found[-1] == data.shape[-1] and all(
        (shape := _shape(tensors[v.index]))[-1] == v.shape[-1]
        and shape[-2] == (found[batch] if v.shape[-2] == data.shape[batch] else v.shape[-2])
        and shape[:-2] == v.shape[:-2]
        for v in states
    )
    if not fits:
        raise ValueError(f"the states of {op.label} do not fit its data")


def _run(op: Op, tensors: _Meta, seen: dict[Any, Sequence[Any]]) -> Sequence[Any]:
    if op.name.startswith(_RECURRENT):
        _check_recurrent(op, tensors)

    def lookup(root: Root) -> Any:
        return _shape(tensors[root.value])[root.dim] if isinstance(root, SizeOf) else root.number

    def fill(argument: Any) -> Any:
        if isinstance(argument, Value):
            return tensors[argument.index]
        if isinstance(argument, tuple):
            return [fill(part) for part in argument]
        return recompute(argument, lookup)

    if op.is_inner:
        data = tensors[op.operands[0].index]
        if isinstance(data, Tensor):
            return [data.new_empty(_inner_shape(op.operands[0].shape, tuple(data.shape), op.result.shape))]
    target = functional_form(op.target)
    if torch.Tag.pointwise in target.tags:
        # Torch's own ways to the same shape take many times longer.
        given = [_shape(tensors[v.index]) for v in op.operands]
        shape = torch.broadcast_shapes(*given)  # type: ignore[no-untyped-call]
        return [_empty(shape, result) for result in op.results]
    filled = {name: fill(argument) for name, argument in op.arguments.items()}
    if "device" in filled:
        filled["device"] = torch.device("meta")
    positional, keywords = call_arguments(op, filled)
    key = (target, _key_of(positional), _key_of(keywords))
    if key not in seen:
        results = target(*positional, **keywords)
        seen[key] = results if isinstance(results, list | tuple) else [results]
    return seen[key]


def _key_of(argument: Any) -> Any:
    """What an argument is as far as sizes go."""
    if isinstance(argument, Tensor):
        return tuple(argument.shape), argument.stride(), argument.dtype
    if isinstance(argument, list | tuple):
        return tuple(map(_key_of, argument))
    if isinstance(argument, dict):
        return tuple((name, _key_of(part)) for name, part in argument.items())
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
