"""What a trace's questions would be answered with in calls of other sizes, worked out without data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import define, field

from speedup.ir.companions import Fitting, fitting_shapes
from speedup.ir.expressions import sizes_in
from speedup.ir.graph import Graph, Shape
from speedup.ir.inputs import Example
from speedup.ir.resizing import count_runs, resized_shapes
from speedup.tracing.nearby import free_units
from speedup.tracing.questions import Question, number_of, outcome_of


@define(eq=False)
class Paper:
    """A trace's graph run on tensors without data, for the sizes of the values `wanted`; once for each call.

    `example` is the call that was traced.
    """

    example: Example
    graph: Graph
    wanted: frozenset[int]
    known: dict[tuple[Shape, ...], Mapping[int, Shape]] = field(factory=dict)

    @property
    def is_runnable(self) -> bool:
        """Whether all ops run at the trace's own sizes."""
        return self.runs(tuple(value.shape for value in self.graph.inputs))

    def sizes(self, shapes: tuple[Shape, ...]) -> Mapping[int, Shape]:
        """The shapes of the values wanted, by index, where the inputs have these `shapes`."""
        if shapes not in self.known:
            self.known[shapes] = resized_shapes(self.graph, shapes, self._ends)
        return self.known[shapes]

    def runs(self, shapes: tuple[Shape, ...]) -> bool:
        """Whether all of the trace's ops run there; else the model refuses it, or goes another way."""
        return all(value.index in self.sizes(shapes) for value in self.graph.outputs)

    def cost(self, shapes: tuple[Shape, ...]) -> int:
        """How many ops are run to find out what sizes are there."""
        return 1 + count_runs(self.graph, shapes, self._ends)[0]

    def number(self, question: Question, shapes: tuple[Shape, ...]) -> Any:
        """What a question's number is there; None where that is not known."""
        sizes = self.sizes(shapes)
        found = {s: sizes[s.value][s.dim] for s in sizes_in(question.expression) if s.value in sizes}
        return number_of(question.expression, found.__getitem__)

    def outcome(self, question: Question, shapes: tuple[Shape, ...]) -> bool | None:
        """Which way a question comes out there; None where that is not known."""
        number = self.number(question, shapes)
        return None if number is None else outcome_of(question, number)

    def fitting(self, shapes: tuple[Shape, ...]) -> Iterator[Fitting]:
        """Sizes that are tried in the place of `shapes`, at which not all ops run: more of them changed."""
        return fitting_shapes(self.graph, shapes, self._ends, dict(free_units(self.example)))

    @property
    def _ends(self) -> frozenset[int]:
        return self.wanted.union(value.index for value in self.graph.outputs)
