"""Other sizes at which a forward takes another way, found from what a trace saw, and traced too.

Where the forward compares a size of its input, counts by it, or uses it out of sight, the trace of one
example shows one way only. So a near size is looked for that takes the other: by running the trace's own
operators on tensors without data. What is found is traced in its turn; sizes that the model refuses need
no trace, as nobody can call it so. What can be neither traced nor refused is said.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain, combinations, islice, zip_longest
from math import prod
from typing import Any

import torch
from attrs import define, field, frozen

from speedup.errors import ExportError
from speedup.rules import STANDARD
from speedup.rules.extents import Extents
from speedup.spec.expressions import Guard, Use, sizes_in
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
# Sizes that are traced for a question though it is not known what it would be there.
_MOST_DOUBTFUL = 4
# Traces that are made to see comparisons come out otherwise together.
_MOST_COMBINED = 6
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
        # By trace, how its comparisons came out.
        self.outcomes: list[Mapping[Key, bool]] = []

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
        untried = self._combine()
        # What the model refuses needs no trace.
        settled.update(self.questions if self._insists() else ())
        open_ = [k for k in self.questions if not self._is_answered(k)]
        left = [k for k in open_ if k not in settled or k in self.untraced]
        words = [self._words(k) for k in left]
        if untried:
            words.append(_of_pairs(untried))
        return Exploration(tuple(self._different()), tuple(dict.fromkeys(words)))

    def _words(self, key: Key) -> str:
        asked = self.questions[key]
        return assumption(asked.question, asked.paper.graph, self.untraced.get(key))

    def _insists(self) -> bool:
        return self.refusals >= _INSISTS and len(self.traced) == self.first

    def _note(self, example: Example, graph: Graph) -> Collection[Key]:
        """Take in the questions of a trace, and what it has to say to those of others. Returns their keys."""
        extents = Extents(graph, STANDARD)
        asked = [
            question
            for question in graph.questions
            if question.key is not None and extents.follow_input(question.expression)
        ]
        wanted = (size.value for question in asked for size in sizes_in(question.expression))
        paper = _Paper(graph, frozenset(wanted))
        self.outcomes.append({q.key: q.outcome for q in asked if isinstance(q, Guard)})
        for question in asked:
            key = (type(question), question.key)
            self.seen.setdefault(key, set()).add(question.number)
            if key not in self.questions and may_differ(question):
                self.questions[key] = _Asked(question, example, paper)
        return {(type(question), question.key) for question in asked}

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
                if key not in self._note(example, trace.graph):
                    # The forward came another way and did not ask: that is an answer as well.
                    self.seen[key].add(None if not isinstance(asked.question, Use) else unasked(wish))
                return True
        return False

    def _candidates(self, asked: _Asked, wish: Callable[[Any], bool]) -> Iterator[Example]:
        """Calls near the traced one at which the number would be as wished, the nearest first."""
        question, paper, tries = asked.question, asked.paper, 0
        doubtful: list[tuple[Shape, ...]] = []
        for shapes in near_shapes(asked.example, question, paper.graph):
            if shapes not in paper.known:
                if tries >= _MOST_TRIALS or self.trials >= _MOST_IN_ALL:
                    continue
                tries += 1
                self.trials += 1
            found = paper.sizes(shapes)
            sizes = {s: found[s.value][s.dim] for s in sizes_in(question.expression) if s.value in found}
            number = number_of(question.expression, sizes.__getitem__)
            is_large = max(prod(shape) for shape in shapes) > LARGEST
            if number is not None and wish(number):
                yield (of_shapes if is_large else resized_example)(asked.example, shapes)
            elif number is None and not is_large and len(doubtful) < _MOST_DOUBTFUL:
                doubtful.append(shapes)
        # Where the sizes cannot be worked out on paper, only the forward itself can tell.
        yield from (resized_example(asked.example, shapes) for shapes in doubtful)

    def _combine(self) -> Sequence[Pair]:
        """Trace sizes at which comparisons of the example's trace come out otherwise together.

        Each has been seen to come out otherwise by itself. Returns those pairs that can be met and were not.
        """
        open_ = self._reachable_pairs()
        for _ in range(_MOST_COMBINED):
            if not open_:
                break
            shapes = max(open_, key=lambda s: len(open_[s]))
            pairs = open_[shapes]
            if shapes not in self.tried:
                self.tried[shapes] = ""
                example = resized_example(self.traced[0][0], shapes)
                try:
                    trace = self.retrace(example)
                except ExportError:
                    trace = None
                    if self.takes(example):
                        return tuple(pairs)
                if trace is not None:
                    self.traced.append((example, trace))
                    self._note(example, trace.graph)
            left = {s: found - pairs for s, found in open_.items()}
            open_ = {s: found for s, found in left.items() if found}
        return tuple(dict.fromkeys(pair for found in open_.values() for pair in found))

    def _reachable_pairs(self) -> dict[tuple[Shape, ...], frozenset[Pair]]:
        """By sizes of the example's inputs, the pairs of its comparisons that would first be seen there."""
        first = {
            asked.question.key: asked
            for asked in self.questions.values()
            if isinstance(asked.question, Guard) and asked.example is self.traced[0][0]
        }
        both = {key for key in first if len({o[key] for o in self.outcomes if key in o}) > 1}
        if len(both) < 2:
            return {}
        guards = {key: first[key] for key in first if key in both}
        paper = next(iter(guards.values())).paper
        flips = [
            {key for key in both if key in outcome and outcome[key] != self.outcomes[0][key]}
            for outcome in self.outcomes[1:]
        ]
        seen = {pair for one in flips for pair in _pairs(one, guards)}
        found: dict[tuple[Shape, ...], frozenset[Pair]] = {}
        near = (near_shapes(asked.example, asked.question, paper.graph) for asked in guards.values())
        more = islice(chain.from_iterable(zip_longest(*near)), _MOST_TRIALS)
        for shapes in dict.fromkeys((*paper.known, *self._crossed(), *filter(None, more))):
            if max(prod(shape) for shape in shapes) <= LARGEST:
                sizes = paper.sizes(shapes)
                flipped = {key for key, asked in guards.items() if _comes_out_otherwise(asked, sizes)}
                new = frozenset(_pairs(flipped, guards)) - seen
                if new:
                    found[shapes] = new
        return found

    def _crossed(self) -> Iterator[tuple[Shape, ...]]:
        """Sizes that two of the calls differ in from the example, put together."""
        base = shapes_of(self.traced[0][0])
        others = [shapes for example, _ in self.traced[1:] if _is_like(shapes := shapes_of(example), base)]
        for one, two in combinations(others, 2):
            yield tuple(
                tuple(b if b != a else c for a, b, c in zip(*extents, strict=True))
                for extents in zip(base, one, two, strict=True)
            )

    def _different(self) -> Iterator[Traced]:
        """The new traces that are not the program of another one."""
        kept = [trace for _, trace in self.traced[: self.first]]
        for example, trace in self.traced[self.first :]:
            if not any(is_same_trace(trace, other) for other in kept):
                kept.append(trace)
                yield example, trace


Pair = tuple[Guard, Guard]


def _pairs(keys: Collection[Key], guards: Mapping[Key, _Asked]) -> Iterator[Pair]:
    """The pairs of some comparisons, in the order of `guards`."""
    chosen = [asked.question for key, asked in guards.items() if key in keys]
    yield from combinations((guard for guard in chosen if isinstance(guard, Guard)), 2)


def _comes_out_otherwise(asked: _Asked, shapes: Mapping[int, Shape]) -> bool:
    found = {s: shapes[s.value][s.dim] for s in sizes_in(asked.question.expression) if s.value in shapes}
    number = number_of(asked.question.expression, found.__getitem__)
    return number is not None and number != asked.question.number


def _is_like(one: Sequence[Shape], other: Sequence[Shape]) -> bool:
    return [len(shape) for shape in one] == [len(shape) for shape in other]


def _of_pairs(pairs: Sequence[Pair]) -> str:
    """That comparisons may come out in combinations that no trace has seen, in words."""
    one, other = pairs[0]
    return (
        f"{len(pairs)} combinations of comparisons of sizes do not matter, such as that at {one.where} "
        f"with that at {other.where}; they were not tried"
    )


def is_same_trace(one: Trace, other: Trace) -> bool:
    """Whether the traces differ in sizes only, constants included."""
    constants = [v.name for v in one.graph.state if v.origin is Origin.CONSTANT]
    return same_program(one.graph, other.graph) and all(
        torch.equal(one.tensors[name], other.tensors[name]) for name in constants
    )
