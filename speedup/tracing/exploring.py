"""Other sizes at which a forward takes another way, found from what a trace saw, and traced too.

Where the forward compares a size of its input, counts by it, or uses it out of sight, the trace of one
example shows one way only. So a near size is looked for that takes the other: by running the trace's own
operators on tensors without data. What is found is traced in its turn; sizes that the model refuses need
no trace, as nobody can call it so. What can be neither traced nor refused is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from attrs import define, field, frozen
from torch import Tensor

from speedup.errors import ExportError
from speedup.rules import STANDARD
from speedup.rules.extents import Extents
from speedup.spec.expressions import (
    Arithmetic,
    AttributeOf,
    Expression,
    Guard,
    Root,
    SizeOf,
    Use,
    evaluate_expression,
    sizes_in,
)
from speedup.spec.graph import Graph, Shape
from speedup.spec.inputs import Example, batch_size
from speedup.tracing.merging import same_program
from speedup.spec.resizing import resized
from speedup.tracing.trace import Trace

# Traces that are made besides those of the given calls; sizes of these that a model may refuse for one
# question; sizes that are tried on paper for one question, and in all.
_MOST_TRACES, _MOST_REFUSALS, _MOST_TRIALS, _MOST_IN_ALL = 12, 3, 32, 128
_MOST_TARGETS = 8
# A model that has refused so many sizes and taken none is taken to insist on its own.
_INSISTS = 6
# Elements of an input that is made up to be traced.
_LARGEST = 1 << 24
_NEAR, _FURTHER = (1, -1), (2, -2, 3, 4, 5, 6, 7, 8)

Question = Guard | Use
Key = Any
Traced = tuple[Example, Trace]


@frozen(eq=False)
class Exploration:
    """What was found: further calls with their traces, and what could not be found out, in words."""

    calls: tuple[Traced, ...]
    assumptions: tuple[str, ...]


def explored(
    given: Sequence[Traced],
    retrace: Callable[[Example], Trace],
    takes: Callable[[Example], bool],
) -> Exploration:
    """Trace, besides the calls `given`, those of other sizes that go other ways.

    `retrace` traces a call and raises `ExportError`; `takes` says whether the model itself takes a call
    that could not be traced.
    """
    return _Explorer(list(given), retrace, takes).run()


@frozen(eq=False)
class _Asked:
    """A question that a trace leaves open, and the trace."""

    question: Question
    example: Example
    paper: _Paper


@define(eq=False)
class _Paper:
    """What the sizes that a trace's questions are about would be in other calls; each is worked out once."""

    graph: Graph
    wanted: frozenset[int]
    known: dict[tuple[Shape, ...], Mapping[int, Shape]] = field(factory=dict)

    def sizes(self, shapes: tuple[Shape, ...]) -> Mapping[int, Shape]:
        """The shapes of the values in question, where the inputs have these `shapes`."""
        if shapes not in self.known:
            self.known[shapes] = resized(self.graph, shapes, self.wanted)
        return self.known[shapes]


class _Explorer:
    """Lives for one `explored` call; traces are only ever added."""

    def __init__(
        self,
        traced: list[Traced],
        retrace: Callable[[Example], Trace],
        takes: Callable[[Example], bool],
    ) -> None:
        self.traced = traced
        self.first = len(traced)
        self.retrace, self.takes = retrace, takes
        self.seen: dict[Key, set[Any]] = {}
        self.tried: dict[tuple[Shape, ...], str] = {_shapes(example): "" for example, _ in traced}
        self.questions: dict[Key, _Asked] = {}
        self.untraced: dict[Key, str] = {}
        # Questions to which another answer led to another program.
        self.telling: set[Key] = set()
        self.trials = self.refusals = 0

    def run(self) -> Exploration:
        for example, trace in self.traced:
            self._note(example, trace.graph)
        settled: set[Key] = set()
        while len(self.traced) - self.first < _MOST_TRACES and not self._insists():
            open_ = [k for k in self.questions if k not in settled and not self._is_answered(k)]
            if not open_:
                break
            if not self._answer(open_[0]):
                settled.add(open_[0])
        # What the model refuses needs no trace.
        settled.update(self.questions if self._insists() else ())
        open_ = [k for k in self.questions if not self._is_answered(k)]
        left = [k for k in open_ if k not in settled or k in self.untraced]
        words = (_assumption(self.questions[k], self.untraced.get(k)) for k in left)
        return Exploration(tuple(self._different()), tuple(dict.fromkeys(words)))

    def _insists(self) -> bool:
        return self.refusals >= _INSISTS and len(self.traced) == self.first

    def _note(self, example: Example, graph: Graph) -> None:
        """The questions of a trace, and what it has to say to those of others."""
        extents = Extents(graph, STANDARD)
        asked = [
            question
            for question in (*graph.guards, *graph.uses)
            if question.key is not None and extents.follow_input(question.expression)
        ]
        wanted = (size.value for question in asked for size in sizes_in(question.expression))
        paper = _Paper(graph, frozenset(wanted))
        for question in asked:
            key = (type(question), question.key)
            self.seen.setdefault(key, set()).add(question.number)
            if key not in self.questions and _may_differ(question):
                self.questions[key] = _Asked(question, example, paper)

    def _is_answered(self, key: Key) -> bool:
        return not any(True for _ in self._wishes(key))

    def _wishes(self, key: Key) -> Iterator[Callable[[Any], bool]]:
        """What numbers are still to be seen in the place of a question's."""
        question, seen = self.questions[key].question, self.seen[key]
        if isinstance(question, Use) and _is_count(question):
            if max(seen) <= question.number:
                yield lambda number: number > question.number
            if min(seen) >= question.number > 0:
                yield lambda number: number < question.number
            if min(seen) > 0:
                yield lambda number: number <= 0
        for target in _targets(question):
            if target not in seen:
                yield lambda number, target=target: number == target  # type: ignore[misc]
        if len(seen) == 1 or (len(seen) <= _others(question) and key not in self.telling):
            yield lambda number: number not in seen

    def _answer(self, key: Key) -> bool:
        """Trace a size at which the question has an answer not seen so far; False where none is found."""
        asked = self.questions[key]
        for wish in list(self._wishes(key)):
            refused = 0
            for example in self._candidates(asked, wish):
                if refused >= _MOST_REFUSALS or self._insists():
                    break
                shapes = _shapes(example)
                if shapes in self.tried:
                    if self.tried[shapes]:
                        self.untraced.setdefault(key, self.tried[shapes])
                    continue
                self.tried[shapes] = ""
                if max(prod(shape) for shape in shapes) > _LARGEST:
                    if not refused:
                        self.untraced.setdefault(key, "are too large to be tried")
                    break
                try:
                    trace = self.retrace(example)
                except ExportError:
                    refused += 1
                    self.refusals += 1
                    if self.takes(example):
                        self.tried[shapes] = "cannot be traced"
                        self.untraced.setdefault(key, "cannot be traced")
                    continue
                if all(not is_same_trace(trace, other) for _, other in self.traced):
                    self.telling.add(key)
                self.traced.append((example, trace))
                before = set(self.seen[key])
                self._note(example, trace.graph)
                if self.seen[key] == before:
                    # The forward came another way and did not ask: that is an answer as well.
                    self.seen[key].add(None if not isinstance(asked.question, Use) else _unasked(wish))
                return True
        return False

    def _candidates(self, asked: _Asked, wish: Callable[[Any], bool]) -> Iterator[Example]:
        """Calls near the traced one at which the number would be as wished, the nearest first."""
        question, paper, tries = asked.question, asked.paper, 0
        for shapes in _near_shapes(asked.example, question, paper.graph):
            if shapes not in paper.known:
                if tries >= _MOST_TRIALS or self.trials >= _MOST_IN_ALL:
                    continue
                tries += 1
                self.trials += 1
            found = paper.sizes(shapes)
            sizes = {s: found[s.value][s.dim] for s in sizes_in(question.expression) if s.value in found}
            number = _value(question.expression, sizes.__getitem__)
            if number is not None and wish(number):
                is_large = max(prod(shape) for shape in shapes) > _LARGEST
                yield (_of_shapes if is_large else resized_example)(asked.example, shapes)

    def _different(self) -> Iterator[Traced]:
        """The new traces that are not the program of another one."""
        kept = [trace for _, trace in self.traced[: self.first]]
        for example, trace in self.traced[self.first :]:
            if not any(is_same_trace(trace, other) for other in kept):
                kept.append(trace)
                yield example, trace


# Uses that say how often something runs: more, less and not at all are other programs.
_COUNTS = frozenset({"range()", "as many tensors", "len()", "a repeated list"})


def _is_count(use: Use) -> bool:
    return use.how in _COUNTS


def _targets(question: Question) -> tuple[int, ...]:
    """Sizes that code which may do anything with a size is tried at."""
    if not isinstance(question, Use) or not isinstance(question.expression, SizeOf):
        return ()
    if _is_count(question) or not question.may_repeat:
        return ()
    size, hints = question.number, question.hints
    plain = (size + 1, size // 2, 2 * size, 1)
    near = [n for hint in hints for n in (hint - 1, size - hint, size + hint)]
    return tuple(n for n in dict.fromkeys((*plain, *hints, *near)) if n > 0 and n != size)[:_MOST_TARGETS]


def _others(question: Question) -> int:
    """How many other numbers are to be seen: of a remainder all there are, if these are few."""
    expression = question.expression
    if isinstance(question, Guard):
        return 1
    if isinstance(expression, Arithmetic) and expression.function == "mod":
        modulus = expression.operands[1]
        if isinstance(modulus, int) and modulus > 1:
            return max(3 if question.may_repeat else 1, min(modulus - 1, 4))
    return 3 if question.may_repeat else 1


def _unasked(wish: Callable[[Any], bool]) -> Any:
    """Some number as wished, for one that was never computed."""
    return next((n for n in (1 << 40, -(1 << 40)) if wish(n)), None)


def is_same_trace(one: Trace, other: Trace) -> bool:
    """Whether the traces differ in sizes only, constants included."""
    constants = [v.name for v in one.graph.state if v.origin.name == "CONSTANT"]
    return same_program(one.graph, other.graph) and all(
        torch.equal(one.tensors[name], other.tensors[name]) for name in constants
    )


def _shapes(example: Example) -> tuple[Shape, ...]:
    return tuple(tuple(t.shape) for t in example.tensors)


def _value(expression: Expression, size: Callable[[SizeOf], int]) -> Any:
    def lookup(root: Root) -> Any:
        return size(root) if isinstance(root, SizeOf) else root.number

    try:
        return evaluate_expression(expression, lookup)
    except (ArithmeticError, ValueError, TypeError, KeyError):
        return None


def _sizes_of(question: Question, graph: Graph) -> Mapping[SizeOf, int]:
    return {s: graph.values[s.value].shape[s.dim] for s in sizes_in(question.expression)}


def _may_differ(question: Question) -> bool:
    """Whether any sizes at all would give another number, as none would for `x.shape[0] > 0`."""
    sizes = list(dict.fromkeys(sizes_in(question.expression)))
    constants = {int(c) for c in _constants(question.expression) if abs(c) < 1 << 30}
    probes = {1, 2, 3, 4, 5, 6, 7, 8, 1000003, 1 << 20, *(c + d for c in constants for d in (-1, 0, 1))}
    for number in sorted(n for n in probes if n > 0):
        for one in (None, *sizes):
            found = _value(question.expression, lambda s, one=one, number=number: number if one in (None, s) else 7)  # type: ignore[misc]
            if found is not None and found != question.number:
                return True
    return False


def _constants(expression: Expression) -> Iterator[float]:
    match expression:
        case Arithmetic(_, operands):
            for operand in operands:
                yield from _constants(operand)
        case AttributeOf(_, _, number):
            yield number
        case int() | float():
            yield expression
        case _:
            return


def _near_shapes(example: Example, question: Question, graph: Graph) -> Iterator[tuple[Shape, ...]]:
    """Shapes of a call with other sizes, the nearest first: one size that inputs share, then single ones."""
    shapes = _shapes(example)
    units = list(_units(example))
    steps = {unit: list(_steps(extent, question, graph)) for unit, extent in units}
    done = {shapes}
    for rank in range(max(map(len, steps.values()), default=0)):
        for unit, _ in units:
            if rank < len(steps[unit]):
                found = _changed(shapes, unit, steps[unit][rank])
                if found not in done:
                    done.add(found)
                    yield found


def _changed(shapes: Sequence[Shape], unit: frozenset[tuple[int, int]], extent: int) -> tuple[Shape, ...]:
    return tuple(
        tuple(extent if (number, dim) in unit else n for dim, n in enumerate(shape))
        for number, shape in enumerate(shapes)
    )


def _units(example: Example) -> Iterator[tuple[frozenset[tuple[int, int]], int]]:
    """Dimensions of the inputs that may change together, with their extent."""
    shapes = _shapes(example)
    has_batch = batch_size(example) is not None
    places: dict[int, list[tuple[int, int]]] = {}
    for number, shape in enumerate(shapes):
        for dim, extent in enumerate(shape):
            if not (has_batch and dim == 0):
                places.setdefault(extent, []).append((number, dim))
    for extent, together in places.items():
        yield frozenset(together), extent
    for extent, together in places.items():
        if len(together) > 1:
            # Of several inputs, the same dimension of all goes together too.
            for dim in dict.fromkeys(dim for _, dim in together):
                yield frozenset(place for place in together if place[1] == dim), extent
            for place in together:
                yield frozenset({place}), extent
    if has_batch:
        batch = frozenset((number, 0) for number, shape in enumerate(shapes) if shape)
        yield batch, next(shape[0] for shape in shapes if shape)


def _steps(extent: int, question: Question, graph: Graph) -> Iterator[int]:
    """Other extents in the place of one, the likeliest to answer the question first."""
    found: dict[int, None] = {}
    ratios = {
        max(1, round(extent / size)) for size in _sizes_of(question, graph).values() if 0 < size <= extent
    }
    constants = sorted({int(c) for c in _constants(question.expression) if 0 < c < _LARGEST})
    for target in _targets(question):
        found.update(dict.fromkeys(target * ratio for ratio in sorted(ratios or {1})))
    if _others(question) > 1:
        found.update(dict.fromkeys((extent + 1, 2 * extent, extent // 2)))
    found.update(dict.fromkeys(extent + n for n in _NEAR))
    for constant in constants:
        for ratio in sorted(ratios or {1}):
            found.update(dict.fromkeys((constant + n) * ratio for n in (0, 1, -1)))
    found.update(dict.fromkeys((extent // 2, 2 * extent)))
    for ratio in sorted(ratios - {1}):
        found.update(dict.fromkeys(extent + n * ratio for n in (1, -1, 2, -2, 3, 4)))
    found.update(dict.fromkeys(extent + n for n in _FURTHER))
    for constant in constants:
        found.update(dict.fromkeys((extent + constant, extent - constant)))
    found.update(dict.fromkeys((1, 2 * extent + 1, 3 * extent, 4 * extent, 8 * extent)))
    yield from (n for n in found if n > 0 and n != extent)


def resized_example(example: Example, shapes: Sequence[Shape]) -> Example:
    """The same call with tensors of other shapes: their elements repeated, or cut off."""
    return example.replaced([_stretched(t, shape) for t, shape in zip(example.tensors, shapes, strict=True)])


def _stretched(tensor: Tensor, shape: Shape) -> Tensor:
    if tensor.is_meta:
        return torch.empty(shape, dtype=tensor.dtype, device="meta")
    for dim, extent in enumerate(shape):
        if extent != tensor.shape[dim]:
            index = torch.arange(extent, device=tensor.device) % max(tensor.shape[dim], 1)
            tensor = tensor.index_select(dim, index)
    return tensor


def _of_shapes(example: Example, shapes: Sequence[Shape]) -> Example:
    return example.replaced([t.new_empty((1,)).expand(s) for t, s in zip(example.tensors, shapes, strict=True)])


_SIGNS: Mapping[str, str] = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "floordiv": "//",
    "truediv": "/",
    "mod": "%",
    "pow": "**",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
}
_OPPOSITE = {"eq": "ne", "ne": "eq", "lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}


def _assumption(asked: _Asked, why: str | None) -> str:
    """What a plan relies on, in one line."""
    question, graph = asked.question, asked.paper.graph
    place = f" (at line {question.where.rpartition(':')[2]} of {question.where.rpartition(':')[0]})" if question.where else ""
    reason = f"; other sizes {why}" if why else "; no more sizes were tried"
    if isinstance(question, Guard):
        expression = question.expression
        if not question.outcome:
            opposite = _OPPOSITE.get(expression.function)
            expression = Arithmetic(opposite, expression.operands) if opposite else expression
        return f"{_spoken(expression, graph)}{place}{reason}"
    return f"{_spoken(question.expression, graph)} is {question.number}, used by {question.how}{place}{reason}"


def _spoken(expression: Expression, graph: Graph, is_inner: bool = False) -> str:
    match expression:
        case SizeOf(value, dim):
            return f"{_name(graph, value)}.shape[{dim}]"
        case AttributeOf(path, name, _):
            return f"{path}.{name}" if path else f"self.{name}"
        case Arithmetic(function, (one, two)) if function in _SIGNS:
            said = f"{_spoken(one, graph, True)} {_SIGNS[function]} {_spoken(two, graph, True)}"
            return f"({said})" if is_inner else said
        case Arithmetic(function, operands):
            return f"{function}({', '.join(_spoken(o, graph) for o in operands)})"
        case _:
            return str(expression)


def _name(graph: Graph, value: int) -> str:
    one = graph.values[value]
    if one in graph.inputs:
        return "x" if len(graph.inputs) == 1 else f"input {graph.inputs.index(one)}"
    if one.name:
        return one.name
    producer = graph.producer[value]
    op = None if producer is None else graph.ops[producer]
    return "a tensor" if op is None else f"{op.owner.path or 'the forward'}'s {op.name.strip('_')}"

