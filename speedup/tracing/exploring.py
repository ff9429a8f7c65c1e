"""Other sizes at which a forward takes another way, found from what a trace saw, and traced too.

Where the forward compares a size of its input, counts by it, or uses it out of sight, the trace of one
example shows one way only. So a near size is looked for that takes the other: by running the trace's own
operators on tensors without data. What is found is traced in its turn; sizes that the model refuses need
no trace, as nobody can call it so. What can be neither traced nor refused is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations, islice, product, zip_longest
from types import MappingProxyType
from typing import Any

from attrs import frozen

from speedup.errors import ExportError
from speedup.ir.companions import changed_places
from speedup.ir.expressions import Attempt, Guard, Use, sizes_in
from speedup.ir.graph import Graph, Origin, Shape
from speedup.ir.inputs import Example
from speedup.ir.resizing import Unit
from speedup.rules import STANDARD
from speedup.rules.extents import Extents
from speedup.tracing.merging import same_program
from speedup.tracing.nearby import (
    is_large,
    near_shapes,
    of_shapes,
    resized_example,
    shapes_of,
    sizes_asked,
)
from speedup.tracing.paper import Paper
from speedup.tracing.questions import (
    FEW_ROUNDS,
    Question,
    any_number,
    assumption,
    is_choice,
    is_count,
    may_differ,
    number_of,
    numbers_of,
    others_of,
    outcome_of,
    targets_of,
)
from speedup.tracing.trace import Trace
from speedup.tracing.unseen import same_numbers, same_operators

# Traces that are made besides those of the given calls; sizes of these that a model may refuse for one
# question; sizes that are tried on paper for one question, for one of a variant, and in all.
_MOST_TRACES, _MOST_REFUSALS, _MOST_TRIALS, _FEW_TRIALS, _MOST_IN_ALL = 14, 3, 32, 12, 128
# Ops that are run on paper, in all, to find sizes that change together where no single one leads anywhere.
_FITTING_OPS = 60_000
# Of such sizes, how many that fit to one near size; and to how many of one unit nothing has to fit, until
# none is expected to.
_MOST_FITTING, _MOST_UNFITTED = 3, 6
# Of a model that has refused so many, further sizes that it is run at before they are traced: for one
# question, and in all.
_MOST_RUNS, _RUNS_IN_ALL = 12, 36
# Sizes that are traced for a question though it is not known what it would be there.
_MOST_DOUBTFUL = 4
# Traces in which a call failed again that the forward catches, or succeeded again.
_MOST_ATTEMPTS = 5
# Traces that are made to see questions come out otherwise together, and how many ops these may have in all;
# sizes put together of those of two calls.
_MOST_COMBINED, _OPS_COMBINED, _MOST_CROSSED = 6, 2000, 8
# Ops that are run on paper, in all, to find sizes at which questions come out otherwise together: so many, or
# so many times those of the calls that were given.
_PAPER_OPS, _PAPER_RUNS = 12_000, 24
# Ops of these traces, of all together, that are never too many.
_LEAST_OPS = 2000
# Traces that are made to see what rounds of a loop do to code that other sizes reach.
_MOST_ROUNDS_CROSSED = 8
# A model that has refused so many sizes and taken none is taken to insist on its own.
_INSISTS = 6

Key = Any
Traced = tuple[Example, Trace]


@frozen(eq=False)
class Exploration:
    """What was found: further calls with their traces, and what could not be found out, in words."""

    calls: tuple[Traced, ...]
    assumptions: tuple[str, ...]


def explore(
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
    paper: Paper
    # Which of the given calls it is about; the calls of other sizes are variants of one of these.
    call: int


@frozen(eq=False)
class _View:
    """A trace as a source of sizes: the given call that it is a variant of, and its questions by key."""

    call: int
    paper: Paper
    questions: Mapping[Key, Question]


class _Explorer:
    """Lives for one `explore` call; traces are only ever added."""

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
        # By call and sizes, what came of it where it was not traced.
        self.tried: dict[tuple[int, tuple[Shape, ...]], str] = {
            (call, shapes_of(example)): "" for call, (example, _) in enumerate(traced)
        }
        self.questions: dict[Key, _Asked] = {}
        self.untraced: dict[Key, str] = {}
        # By question, how many of its answers led to another program, and how many in a row now did not.
        self.fresh: Counter[Key] = Counter()
        self.stale: Counter[Key] = Counter()
        self.refusals = self.runs = 0
        self.trials = 0.0
        self.fitting_ops = _FITTING_OPS
        # Of the given calls those that were found to take sizes that change together; and, by call and what
        # was changed, to how many sizes nothing was found that fits.
        self.fitted: set[int] = set()
        self.unfitted: dict[tuple[int, Unit], int] = {}
        ops = sum(len(trace.graph.ops) for _, trace in traced)
        self.paper_ops = max(_PAPER_OPS, _PAPER_RUNS * ops)
        self.views: list[_View] = []
        # Questions about sizes that may hang on rounds of a loop, which a trace shows as they are in it; and
        # what these sizes were.
        self.hidden: dict[Key, _Asked] = {}
        self.hidden_sizes: dict[Key, set[tuple[int, ...]]] = {}
        # By trace, how its comparisons came out.
        self.outcomes: list[Mapping[Key, bool]] = []

    def run(self) -> Exploration:
        for call, (example, trace) in enumerate(self.traced):
            self._note(example, trace.graph, call)
        settled: set[Key] = set()
        while not self._is_full():
            open_ = [k for k in self.questions if k not in settled and not self._is_answered(k)]
            if not open_:
                break
            if not self._answer(open_[0]):
                settled.add(open_[0])
        crossed = self._cross_rounds()
        untried = self._combine()
        if self._insists():
            why = f"were refused, all {self._refused()} that were tried"
            settled.update(self.questions)
            self.untraced = {k: self.untraced.get(k, why) for k in self.questions}
        open_ = [k for k in self.questions if not self._is_answered(k)]
        words = [self._words(k) for k in open_ if k not in settled or k in self.untraced]
        words += [assumption(asked.question, asked.paper.graph, None) for asked in crossed]
        if untried:
            places = " and at ".join(
                dict.fromkeys(self.questions[key].question.where for key, _ in untried[0])
            )
            words.append(
                f"{len(untried)} combinations of what is asked about sizes do not matter, such as at "
                f"{places}; they were not tried"
            )
        if self.paper_ops < 0:
            words.append("what is asked about sizes does not matter together; not all sizes were looked at")
        if self.fitting_ops < 0:
            words.append("no other way is gone where several sizes change together; not all were looked at")
        return Exploration(tuple(self._different()), tuple(dict.fromkeys(words)))

    def _words(self, key: Key) -> str:
        asked = self.questions[key]
        return assumption(asked.question, asked.paper.graph, self.untraced.get(key))

    def _is_full(self) -> bool:
        """Whether enough was traced: so many calls, or so many ops."""
        return len(self.traced) - self.first >= _MOST_TRACES or self._is_heavy()

    def _is_heavy(self) -> bool:
        """Whether what was traced has several times the ops of the calls that were given."""
        given = sum(len(trace.graph.ops) for _, trace in self.traced[: self.first])
        more = sum(len(trace.graph.ops) for _, trace in self.traced[self.first :])
        return more > max(_LEAST_OPS, 8 * given)

    def _insists(self) -> bool:
        return self.refusals >= _INSISTS and len(self.traced) == self.first

    def _refused(self) -> int:
        """How many sizes the model did not take."""
        return sum(not why for why in self.tried.values()) - self.first

    def _take(
        self, example: Example, trace: Trace, call: int, else_: Mapping[Key, Any] = MappingProxyType({})
    ) -> None:
        """Take in a further trace, which answers the questions `else_` so if it does not ask them.

        The forward came another way then: that is an answer as well.
        """
        before = {key: len(seen) for key, seen in self.seen.items()}
        is_new = all(not is_same_trace(trace, other) for _, other in self.traced)
        is_other = is_new and all(not same_operators(trace.graph, other.graph) for _, other in self.traced)
        self.traced.append((example, trace))
        asked = self._note(example, trace.graph, call)
        for key, number in else_.items():
            if key not in asked:
                self.seen[key].add(number)
        for key, count in before.items():
            if len(self.seen[key]) > count:
                self.fresh[key] += is_new
                self.stale[key] = 0 if is_other else self.stale[key] + 1

    def _note(self, example: Example, graph: Graph, call: int) -> Collection[Key]:
        """Take in the questions of a trace, and what it has to say to those of others. Returns their keys."""
        extents = Extents(graph, STANDARD)
        asked = [
            question
            for question in graph.questions
            if question.key is not None and extents.follow_input(question.expression)
        ]
        wanted = (size.value for question in asked for size in sizes_in(question.expression))
        paper = Paper(example, graph, frozenset(wanted))
        self.views.append(_View(call, paper, {(call, type(q), q.key): q for q in asked}))
        if any(isinstance(question, Use) and is_count(question) for question in asked):
            self._note_hidden(paper, call, asked)
        outcomes = {(call, type(q), q.key): outcome_of(q, q.number) for q in asked}
        self.outcomes.append({key: outcome for key, outcome in outcomes.items() if outcome is not None})
        for question in asked:
            key = (call, type(question), question.key)
            self.seen.setdefault(key, set()).add(question.number)
            if key not in self.questions and may_differ(question):
                self.questions[key] = _Asked(question, paper, call)
        return {(call, type(question), question.key) for question in asked}

    def _note_hidden(self, paper: Paper, call: int, asked: Sequence[Question]) -> None:
        """Take in questions about sizes that no input's is seen to decide, but maybe rounds of a loop."""
        others = (q for q in paper.graph.questions if q.key is not None and q not in asked)
        for question in others:
            is_told = isinstance(question, Guard) or is_count(question)
            if is_told and may_differ(question) and any(True for _ in sizes_in(question.expression)):
                key = (call, type(question), question.key)
                self.seen.setdefault(key, set()).add(question.number)
                self.hidden.setdefault(key, _Asked(question, paper, call))
                numbers = tuple(sizes_asked(question, paper.graph).values())
                self.hidden_sizes.setdefault(key, set()).add(numbers)

    def _cross_rounds(self) -> Sequence[_Asked]:
        """Trace further sizes for what all traces ask by one number, though rounds of a loop decide it.

        Behind a loop whose rounds follow an input, sizes follow it that no operator says to: a trace shows
        as many rounds as it has. Returns what was left.
        """
        left, most = [], len(self.traced) + _MOST_ROUNDS_CROSSED
        for key, asked in list(self.hidden.items()):
            for shapes in self._further(key, asked):
                place = asked.call, shapes
                if len(self.seen[key]) > 1:
                    break
                if place in self.tried or is_large(shapes):
                    continue
                if self._is_heavy() or len(self.traced) >= most:
                    left.append(asked)
                    break
                self.tried[place] = ""
                example = resized_example(asked.paper.example, shapes)
                try:
                    trace = self.retrace(example)
                except ExportError:
                    continue
                self._take(example, trace, asked.call)
        return left

    def _further(self, key: Key, asked: _Asked) -> Iterator[tuple[Shape, ...]]:
        """Sizes for a question that rounds decide: those of other traces, where it is not one of the example;
        once they are seen to matter, such as would give another number were its sizes those of the input.
        """
        crossed = list(self._beside(asked))
        while crossed and len(self.hidden_sizes[key]) == 1:
            yield crossed.pop(0)
        if len(self.hidden_sizes[key]) > 1:
            yield from self._predicted(key, asked)
        yield from crossed

    def _beside(self, asked: _Asked) -> Iterator[tuple[Shape, ...]]:
        """The sizes at which a question was first seen, each with what other traces have for the others."""
        base, own = shapes_of(self.traced[asked.call][0]), shapes_of(asked.paper.example)
        if own != base and _is_like(own, base):
            for view in (view for view in self.views if view.call == asked.call):
                other = shapes_of(view.paper.example)
                if _is_like(other, base):
                    yield tuple(
                        tuple(n if n != was else new for was, n, new in zip(*extents, strict=True))
                        for extents in zip(base, own, other, strict=True)
                    )

    def _predicted(self, key: Key, asked: _Asked) -> Iterator[tuple[Shape, ...]]:
        """Near sizes at which a question would have another number, if its sizes are those of the input."""
        question, graph = asked.question, asked.paper.graph
        sizes, own = sizes_asked(question, graph), shapes_of(asked.paper.example)
        for shapes in near_shapes(asked.paper.example, question, graph):
            changed = {
                n: new
                for extents in zip(own, shapes, strict=True)
                for n, new in zip(*extents, strict=True)
                if n != new
            }
            then = {size: changed.get(n, n) for size, n in sizes.items()}
            if number_of(question.expression, then.__getitem__) not in self.seen[key]:
                is_refused = asked.call in self.fitted and not asked.paper.runs(shapes)
                fitting = self._first_fitting(asked.paper, asked.call, shapes) if is_refused else None
                yield shapes if fitting is None else fitting

    def _is_answered(self, key: Key) -> bool:
        return not any(True for _ in self._wishes(key))

    def _wishes(self, key: Key) -> Iterator[Callable[[Any], bool]]:
        """What numbers are still to be seen in the place of a question's."""
        question, seen = self.questions[key].question, self.seen[key]
        if isinstance(question, Use) and is_count(question):
            counts = [number for number in seen if number is not None]
            if max(counts) <= question.number:
                yield lambda number: number > question.number
            if min(counts) >= question.number > 0:
                yield lambda number: number < question.number
            if min(counts) > 0:
                yield lambda number: number <= 0
            # What is there after a round or two may be gone after more of them.
            for few in FEW_ROUNDS:
                if few not in seen:
                    yield lambda number, few=few: number == few  # type: ignore[misc]
        for target in targets_of(question):
            if target not in seen:
                yield lambda number, target=target: number == target  # type: ignore[misc]
        for target in numbers_of(question):
            if target not in seen:
                yield lambda number, target=target: number == target  # type: ignore[misc]
        # Of what is chosen from, each number may lead to something new; else one that does will do.
        is_any = isinstance(question, Use) and is_choice(question) and not numbers_of(question)
        is_open = (is_any or not self.fresh[key]) and self.stale[key] < others_of(question)
        if len(seen) == 1 or is_open:
            yield lambda number: number not in seen

    def _answer(self, key: Key) -> bool:
        """Trace a size at which the question has an answer not seen so far; False where none is found."""
        asked = self.questions[key]
        if isinstance(asked.question, Attempt) and self._times_seen(key) > _MOST_ATTEMPTS:
            self.untraced.setdefault(key, "may change that")
            return False
        for wish in list(self._wishes(key)):
            refused = runs = 0
            for example in self._candidates(asked, wish):
                is_doubtful = refused >= _MOST_REFUSALS or self._insists()
                if is_doubtful and (runs >= _MOST_RUNS or self.runs >= _RUNS_IN_ALL):
                    break
                shapes = shapes_of(example)
                place = asked.call, shapes
                if place in self.tried:
                    if self.tried[place]:
                        self.untraced.setdefault(key, self.tried[place])
                    continue
                self.tried[place] = ""
                if is_large(shapes):
                    if not refused:
                        self.untraced.setdefault(key, "are too large to be tried")
                    break
                if is_doubtful:
                    # To run is quicker than to trace.
                    runs, self.runs = runs + 1, self.runs + 1
                    if not self.takes(example):
                        continue
                try:
                    trace = self.retrace(example)
                except ExportError:
                    refused += 1
                    self.refusals += 1
                    if self.takes(example):
                        self.tried[place] = "cannot be traced"
                        self.untraced.setdefault(key, "cannot be traced")
                    continue
                number = None if not isinstance(asked.question, Use) else any_number(wish)
                self._take(example, trace, asked.call, {key: number})
                return True
        return False

    def _times_seen(self, key: Key) -> int:
        return sum(key in view.questions for view in self.views)

    def _candidates(self, asked: _Asked, wish: Callable[[Any], bool]) -> Iterator[Example]:
        """Calls near the traced one at which the number would be as wished, the nearest first."""
        question, paper, tries, any_runs = asked.question, asked.paper, 0.0, False
        doubtful: list[tuple[Shape, ...]] = []
        unsure: list[tuple[Shape, ...]] = []
        others: list[tuple[Shape, ...]] = []
        for shapes in near_shapes(asked.paper.example, question, paper.graph):
            if shapes not in paper.known:
                if tries >= _MOST_TRIALS or self.trials >= _MOST_IN_ALL:
                    continue
                share = paper.cost(shapes) / (len(paper.graph.ops) + 1)
                tries += share
                self.trials += share
            number, too_large = paper.number(question, shapes), is_large(shapes)
            if number is not None and wish(number) and (too_large or paper.runs(shapes)):
                any_runs = True
                yield (of_shapes if too_large else resized_example)(asked.paper.example, shapes)
            elif number is not None and wish(number):
                unsure.append(shapes)
            elif number is None and not too_large:
                doubtful.append(shapes)
            elif not too_large and not paper.runs(shapes):
                others.append(shapes)
        further: list[tuple[Shape, ...]] = []
        for shapes, runs in () if any_runs else self._fitting(asked, wish, (*unsure, *doubtful, *others)):
            if runs:
                yield resized_example(asked.paper.example, shapes)
            else:
                further.append(shapes)
        # Where the sizes cannot be worked out on paper, only the forward itself can tell.
        for shapes in (*unsure, *doubtful[:_MOST_DOUBTFUL], *further[:_MOST_DOUBTFUL]):
            yield resized_example(asked.paper.example, shapes)

    def _fitting(
        self, asked: _Asked, wish: Callable[[Any], bool], refused: Sequence[tuple[Shape, ...]]
    ) -> Iterator[tuple[tuple[Shape, ...], bool]]:
        """Sizes at which the number would be as wished, some more of them changed, and whether all ops run.

        `refused` are near sizes at which some op does not run. Of those at which not all do, as where a loop
        has other rounds, these are given that run as far as any that fit to the same near size.
        """
        question, paper = asked.question, asked.paper
        for shapes in refused:
            moved = asked.call, changed_places(shapes_of(paper.example), shapes)
            misfits = self.unfitted.get(moved, 0)
            if misfits >= _MOST_UNFITTED:
                continue
            whole, furthest, there = 0, paper.cost(shapes), None
            fits = False
            for attempt in paper.fitting(shapes):
                self.fitting_ops -= attempt.runs + 1
                fits = fits or attempt.runs >= furthest
                if self.fitting_ops < 0:
                    return
                is_further = attempt.runs >= furthest or not paper.is_runnable
                if is_large(attempt.shapes) or not (attempt.is_whole or is_further):
                    continue
                if attempt.is_whole:
                    self.fitted.add(asked.call)
                number = paper.number(question, attempt.shapes)
                if number is not None and wish(number):
                    if attempt.is_whole:
                        yield attempt.shapes, True
                    else:
                        furthest, there = attempt.runs + 1, attempt.shapes
                whole += attempt.is_whole
                if whole >= _MOST_FITTING:
                    break
            if there is not None and not whole:
                yield there, False
            if not fits:
                self.unfitted[moved] = misfits + 1

    def _combine(self) -> Sequence[Pair]:
        """Trace sizes at which what two questions of a given call come out as has not been seen together.

        Of each by itself it has. Returns those pairs that can be met and were not.
        """
        return [pair for call in range(self.first) for pair in self._combined(call)]

    def _combined(self, call: int) -> Sequence[Pair]:
        open_, refused = self._reachable_pairs(call), 0
        ops = len(self.traced[call][1].graph.ops)
        most = len(self.traced) + min(_MOST_COMBINED, max(1, _OPS_COMBINED // max(ops, 1)))
        while open_ and refused < _MOST_REFUSALS and len(self.traced) < most:
            shapes = max(open_, key=lambda s: len(open_[s]))
            pairs = frozenset(open_.pop(shapes))
            if (call, shapes) in self.tried:
                continue
            self.tried[call, shapes] = ""
            example = resized_example(self.traced[call][0], shapes)
            try:
                trace = self.retrace(example)
            except ExportError:
                refused += 1
                continue
            self._take(example, trace, call)
            left = {s: [pair for pair in found if pair not in pairs] for s, found in open_.items()}
            open_ = {s: found for s, found in left.items() if found}
        return () if refused else tuple(dict.fromkeys(p for found in open_.values() for p in found))

    def _reachable_pairs(self, call: int) -> dict[tuple[Shape, ...], Sequence[Pair]]:
        """By sizes of the example's inputs, in order the pairs of outcomes that would first be seen there."""
        ways: dict[Key, set[bool]] = {}
        for outcomes in self.outcomes:
            for key, outcome in outcomes.items():
                if key[0] == call:
                    ways.setdefault(key, set()).add(outcome)
        both = [key for key, seen in ways.items() if len(seen) > 1]
        found: dict[tuple[Shape, ...], Sequence[Pair]] = {}
        if len(both) < 2:
            return found
        known = {pair for outcomes in self.outcomes for pair in _pairs(outcomes, both)}
        for view in (view for view in self.views if view.call == call):
            for shapes in self._places(view, both):
                asked = ((key, q) for key, q in view.questions.items() if key in ways)
                there = {key: view.paper.outcome(q, shapes) for key, q in asked}
                new = [pair for pair in _pairs(there, both) if pair not in known]
                if new:
                    found[shapes] = tuple(dict.fromkeys((*found.get(shapes, ()), *new)))
        return found

    def _places(self, view: _View, keys: Collection[Key]) -> Sequence[tuple[Shape, ...]]:
        """Sizes near those of a trace; first those at which its own ops run, as others may be refused."""
        asked = [question for key, question in view.questions.items() if key in keys]
        near = (near_shapes(view.paper.example, question, view.paper.graph) for question in asked)
        # What the example is near to is looked at thoroughly, what others are near to less so.
        most = _MOST_TRIALS if view.paper.example is self.traced[view.call][0] else _FEW_TRIALS
        more = islice(_unique(chain.from_iterable(zip_longest(*near))), most)
        candidates = dict.fromkeys((*view.paper.known, *self._crossed(view.call), *more))
        found: dict[tuple[Shape, ...], None] = {}
        for shapes in candidates:
            if is_large(shapes):
                continue
            if shapes not in view.paper.known:
                if self.paper_ops < 0:
                    continue
                self.paper_ops -= view.paper.cost(shapes)
            found[shapes] = None
            fitting = None if view.paper.runs(shapes) else self._first_fitting(view.paper, view.call, shapes)
            if fitting is not None:
                found[fitting] = None
        return sorted(found, key=lambda c: not view.paper.runs(c))

    def _first_fitting(self, paper: Paper, call: int, shapes: tuple[Shape, ...]) -> tuple[Shape, ...] | None:
        """Sizes at which all ops run, more of them changed than of `shapes`; None where there are none."""
        is_worth_it = call in self.fitted and self.fitting_ops > 0
        for attempt in paper.fitting(shapes) if is_worth_it else ():
            self.fitting_ops -= attempt.runs + 1
            if attempt.is_whole and not is_large(attempt.shapes):
                return attempt.shapes
            if self.fitting_ops < 0:
                break
        return None

    def _crossed(self, call: int) -> Iterator[tuple[Shape, ...]]:
        """Sizes that two of the calls differ in from the example, put together."""
        base = shapes_of(self.traced[call][0])
        others = [
            shapes for example, _ in self.traced[self.first :] if _is_like(shapes := shapes_of(example), base)
        ]
        for pair in combinations(dict.fromkeys(others), 2):
            # Each extent that is another in either, taken from the one or the other.
            flat = [
                extents for shapes in zip(base, *pair, strict=True) for extents in zip(*shapes, strict=True)
            ]
            choices = [dict.fromkeys(n for n in new if n != old) or {old: None} for old, *new in flat]
            for chosen in islice(product(*choices), _MOST_CROSSED):
                extents = iter(chosen)
                yield tuple(tuple(next(extents) for _ in shape) for shape in base)

    def _different(self) -> Iterator[Traced]:
        """The new traces that are not the program of another one."""
        kept = [trace for _, trace in self.traced[: self.first]]
        for example, trace in self.traced[self.first :]:
            if not any(is_same_trace(trace, other) for other in kept):
                kept.append(trace)
                yield example, trace


# Two questions by key, and which way each came out.
Pair = tuple[tuple[Key, bool], tuple[Key, bool]]


def _pairs(outcomes: Mapping[Key, bool | None], keys: Sequence[Key]) -> Iterator[Pair]:
    """The pairs of ways that questions came out, in the order of `keys`."""
    ways = ((key, outcomes.get(key)) for key in keys)
    yield from combinations(((key, way) for key, way in ways if way is not None), 2)


def _unique(shapes: Iterable[tuple[Shape, ...] | None]) -> Iterator[tuple[Shape, ...]]:
    seen: set[tuple[Shape, ...]] = set()
    for one in shapes:
        if one is not None and one not in seen:
            seen.add(one)
            yield one


def _is_like(one: Sequence[Shape], other: Sequence[Shape]) -> bool:
    return [len(shape) for shape in one] == [len(shape) for shape in other]


def is_same_trace(one: Trace, other: Trace) -> bool:
    """Whether the traces differ in sizes only, constants included."""
    constants = [v.name for v in one.graph.state if v.origin is Origin.CONSTANT]
    return same_program(one.graph, other.graph) and all(
        same_numbers(one.tensors[name], other.tensors[name]) for name in constants
    )
