"""Calls at sizes near those of a call that was traced, the likeliest to answer a question first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations
from math import prod

import torch
from torch import Tensor

from speedup.ir.companions import change_extent
from speedup.ir.expressions import Attempt, Guard, SizeOf, Use, sizes_in
from speedup.ir.graph import Graph, Shape
from speedup.ir.inputs import Example, batch_size
from speedup.ir.resizing import Unit, changing_together, resized_shapes
from speedup.tracing.questions import FEW_ROUNDS, Question, constants_in, is_count, others_of, targets_of

# Elements of an input that is made up to be traced.
LARGEST = 1 << 24
_NEAR, _FURTHER = (1, -1), (2, -2, 3, 4, 5, 6, 7, 8)


def shapes_of(example: Example) -> tuple[Shape, ...]:
    """The shapes of a call's tensors."""
    return tuple(tuple(t.shape) for t in example.tensors)


def near_shapes(example: Example, question: Question, graph: Graph) -> Iterator[tuple[Shape, ...]]:
    """Shapes of a call with other sizes, the nearest first: one size that inputs share, then single ones."""
    shapes = shapes_of(example)
    units = [one for one in free_units(example) if _may_change(one, shapes, graph)]
    steps = {unit: list(_steps(extent, question, graph)) for unit, extent in units}
    done = {shapes}
    for rank in range(max(map(len, steps.values()), default=0)):
        near = (
            change_extent(shapes, unit, steps[unit][rank]) for unit, _ in units if rank < len(steps[unit])
        )
        same = _reshape(shapes, batch_size(example) is not None) if rank == 1 else ()
        for found in chain(near, same):
            if found not in done:
                done.add(found)
                yield found


def _reshape(shapes: Sequence[Shape], has_batch: bool) -> Iterator[tuple[Shape, ...]]:
    """Shapes of as many elements: two extents of all inputs of a rank change places, or halve and double."""
    for rank in dict.fromkeys(map(len, shapes)):
        like = [shape for shape in shapes if len(shape) == rank]
        for one, other in combinations(range(1 if has_batch else 0, rank), 2):
            if any((shape[one], shape[other]) != (like[0][one], like[0][other]) for shape in like):
                continue
            first, second = like[0][one], like[0][other]
            for pair in ((second, first), (2 * first, second / 2), (first / 2, 2 * second)):
                if pair != (first, second) and all(n == int(n) and n > 0 for n in pair):
                    new = {one: int(pair[0]), other: int(pair[1])}
                    yield tuple(
                        tuple(new.get(dim, n) for dim, n in enumerate(shape)) if len(shape) == rank else shape
                        for shape in shapes
                    )


def _may_change(unit: tuple[Unit, int], shapes: tuple[Shape, ...], graph: Graph) -> bool:
    """Whether the ops that read the inputs run at any other extent, as they do not with more channels."""
    places, extent = unit

    def ask() -> bool:
        readers = [graph.ops[r] for v in graph.inputs for r in graph.readers[v.index]]
        first = [op for op in readers if all(v in graph.inputs or graph.is_fixed(v) for v in op.operands)]
        wanted = {r.index for op in first for r in op.results if not op.is_inner}
        others = (change_extent(shapes, places, n) for n in (2 * extent, extent + 1, 3 * extent))
        return not wanted or any(len(resized_shapes(graph, other, wanted)) == len(wanted) for other in others)

    return graph.once(f"may change {sorted(places)}", ask)


def free_units(example: Example) -> Iterator[tuple[Unit, int]]:
    """Dimensions of the inputs that may change together, with their extent."""
    shapes = shapes_of(example)
    has_batch = batch_size(example) is not None
    yield from changing_together(enumerate(shapes), 1 if has_batch else 0).items()
    if has_batch:
        batch = frozenset((number, 0) for number, shape in enumerate(shapes) if shape)
        yield batch, next(shape[0] for shape in shapes if shape)


def _steps(extent: int, question: Question, graph: Graph) -> Iterator[int]:
    """Other extents in the place of one, the likeliest to answer the question first."""
    found: dict[int, None] = {}
    ratios = {
        max(1, round(extent / size)) for size in sizes_asked(question, graph).values() if 0 < size <= extent
    }
    constants = sorted({int(c) for c in constants_in(question.expression) if 0 < c < LARGEST})
    few = FEW_ROUNDS if isinstance(question, Use) and is_count(question) else ()
    if isinstance(question, Attempt) and not question.outcome:
        # What fails at small extents may not at larger ones, or beyond a number that is stated.
        found.update(dict.fromkeys((*(constant + 1 for constant in constants), 2 * extent)))
    for target in (*targets_of(question), *few):
        found.update(dict.fromkeys(target * ratio for ratio in sorted(ratios or {1})))
    if others_of(question) > 1:
        found.update(dict.fromkeys((extent + 1, 2 * extent, extent // 2)))
    found.update(dict.fromkeys(extent + n for n in _NEAR))
    if isinstance(question, Guard):
        # What is asked of a product of sizes stands in no ratio to any one of them.
        found.update(dict.fromkeys((2 * extent, extent // 2)))
    for constant in constants:
        for ratio in sorted(ratios or {1}):
            found.update(dict.fromkeys((constant + n) * ratio for n in (0, 1, -1)))
    found.update(dict.fromkeys((extent // 2, 2 * extent, 1)))
    for ratio in sorted(ratios - {1}):
        found.update(dict.fromkeys(extent + n * ratio for n in (1, -1, 2, -2, 3, 4)))
    found.update(dict.fromkeys(extent + n for n in _FURTHER))
    for constant in constants:
        found.update(dict.fromkeys((extent + constant, extent - constant)))
    found.update(dict.fromkeys((2 * extent + 1, 3 * extent, 4 * extent, 8 * extent)))
    yield from (n for n in found if n > 0 and n != extent)


def resized_example(example: Example, shapes: Sequence[Shape]) -> Example:
    """The same call with tensors of other shapes: their elements repeated, or cut off."""
    return example.with_tensors(
        [_stretch(t, shape) for t, shape in zip(example.tensors, shapes, strict=True)]
    )


def _stretch(tensor: Tensor, shape: Shape) -> Tensor:
    if tensor.is_meta:
        return torch.empty(shape, dtype=tensor.dtype, device="meta")
    for dim, extent in enumerate(shape):
        if extent != tensor.shape[dim]:
            index = torch.arange(extent, device=tensor.device) % max(tensor.shape[dim], 1)
            tensor = tensor.index_select(dim, index)
    return tensor


def of_shapes(example: Example, shapes: Sequence[Shape]) -> Example:
    """A call of these shapes that takes no memory, and is not to be made."""
    return example.with_tensors(
        [t.new_empty((1,)).expand(s) for t, s in zip(example.tensors, shapes, strict=True)]
    )


def sizes_asked(question: Question, graph: Graph) -> Mapping[SizeOf, int]:
    """The sizes that a question is about, as they were in its trace."""
    return {s: graph.values[s.value].shape[s.dim] for s in sizes_in(question.expression)}


def is_large(shapes: Sequence[Shape]) -> bool:
    """Whether a call of these shapes is too large to be traced."""
    return max(map(prod, shapes)) > LARGEST
