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

from speedup.errors import ExportError
from speedup.rules import STANDARD
from speedup.rules.extents import Extents
from speedup.spec.expressions import Use, sizes_in
from speedup.spec.graph import Graph, Origin, Shape
from speedup.spec.inputs import Example
from speedup.spec.resizing import resized
from speedup.tracing.merging import same_program
from speedup.tracing.nearby import LARGEST, near_shapes, of_shapes, resized_example, shapes_of
from speedup.tracing.questions import (
    Question,
    assumption,
    is_count,
    may_differ,
    number_of,
    others_of,
    targets_of,
    unasked,
)
from speedup.tracing.trace import Trace

# Traces that are made besides those of the given calls; sizes of these that a model may refuse for one
# question; sizes that are tried on paper for one question, and in all.
_MOST_TRACES, _MOST_REFUSALS, _MOST_TRIALS, _MOST_IN_ALL = 12, 3, 32, 128
# A model that has refused so many sizes and taken none is taken to insist on its own.
_INSISTS = 6

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
        self.tried: dict[tuple[Shape, ...], str] = {shapes_of(example): "" for example, _ in traced}
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
        words = (self._words(k) for k in left)
        return Exploration(tuple(self._different()), tuple(dict.fromkeys(words)))

    def _words(self, key: Key) -> str:
        asked = self.questions[key]
        return assumption(asked.question, asked.paper.graph, self.untraced.get(key))

    def _insists(self) -> bool:
        return self.refusals >= _INSISTS and len(self.traced) == self.first

    def _note(self, example: Example, graph: Graph) -> None:
        """The questions of a trace, and what it has to say to those of others."""
        extents = Extents(graph, STANDARD)
        asked = [
            question
            for question in graph.questions
            if question.key is not None and extents.follow_input(question.expression)
        ]
        wanted = (size.value for question in asked for size in sizes_in(question.expression))
        paper = _Paper(graph, frozenset(wanted))
        for question in asked:
            key = (type(question), question.key)
            self.seen.setdefault(key, set()).add(question.number)
            if key not in self.questions and may_differ(question):
                self.questions[key] = _Asked(question, example, paper)

    def _is_answered(self, key: Key) -> bool:
        return not any(True for _ in self._wishes(key))

    def _wishes(self, key: Key) -> Iterator[Callable[[Any], bool]]:
        """What numbers are still to be seen in the place of a question's."""
        question, seen = self.questions[key].question, self.seen[key]
        if isinstance(question, Use) and is_count(question):
            if max(seen) <= question.number:
                yield lambda number: number > question.number
            if min(seen) >= question.number > 0:
                yield lambda number: number < question.number
            if min(seen) > 0:
                yield lambda number: number <= 0
        for target in targets_of(question):
            if target not in seen:
                yield lambda number, target=target: number == target  # type: ignore[misc]
        if len(seen) == 1 or (len(seen) <= others_of(question) and key not in self.telling):
            yield lambda number: number not in seen

    def _answer(self, key: Key) -> bool:
        """Trace a size at which the question has an answer not seen so far; False where none is found."""
        asked = self.questions[key]
        for wish in list(self._wishes(key)):
            refused = 0
            for example in self._candidates(asked, wish):
                if refused >= _MOST_REFUSALS or self._insists():
                    break
                shapes = shapes_of(example)
                if shapes in self.tried:
                    if self.tried[shapes]:
                        self.untraced.setdefault(key, self.tried[shapes])
                    continue
                self.tried[shapes] = ""
                if max(prod(shape) for shape in shapes) > LARGEST:
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
                    self.seen[key].add(None if not isinstance(asked.question, Use) else unasked(wish))
                return True
        return False

    def _candidates(self, asked: _Asked, wish: Callable[[Any], bool]) -> Iterator[Example]:
        """Calls near the traced one at which the number would be as wished, the nearest first."""
        question, paper, tries = asked.question, asked.paper, 0
        for shapes in near_shapes(asked.example, question, paper.graph):
            if shapes not in paper.known:
                if tries >= _MOST_TRIALS or self.trials >= _MOST_IN_ALL:
                    continue
                tries += 1
                self.trials += 1
            found = paper.sizes(shapes)
            sizes = {s: found[s.value][s.dim] for s in sizes_in(question.expression) if s.value in found}
            number = number_of(question.expression, sizes.__getitem__)
            if number is not None and wish(number):
                is_large = max(prod(shape) for shape in shapes) > LARGEST
                yield (of_shapes if is_large else resized_example)(asked.example, shapes)

    def _different(self) -> Iterator[Traced]:
        """The new traces that are not the program of another one."""
        kept = [trace for _, trace in self.traced[: self.first]]
        for example, trace in self.traced[self.first :]:
            if not any(is_same_trace(trace, other) for other in kept):
                kept.append(trace)
                yield example, trace


def is_same_trace(one: Trace, other: Trace) -> bool:
    """Whether the traces differ in sizes only, constants included."""
    constants = [v.name for v in one.graph.state if v.origin is Origin.CONSTANT]
    return same_program(one.graph, other.graph) and all(
        torch.equal(one.tensors[name], other.tensors[name]) for name in constants
    )
