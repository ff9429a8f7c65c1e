"""Which extents may follow the model's inputs: the batch, lengths, resolutions, and what comes of them.

A plan holds at every size that the model takes, so what was seen along such a dimension at the
example's size may only be used if it holds at any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from attrs import field, frozen

from speedup.engine.constraints import Dim
from speedup.ir.companions import Fitting, change_extent, fitting_shapes
from speedup.ir.expressions import (
    UNSEEN,
    Argument,
    Derived,
    Expression,
    Root,
    SizeOf,
    derived_in,
    evaluate_expression,
    functions_in,
    is_lost,
    sizes_in,
)
from speedup.ir.graph import Graph, Op, Origin, Shape, Value
from speedup.ir.resizing import Unit, changing_together, resized_shapes
from speedup.rules import Rules, rule_of
from speedup.rules.contraction import describe_contraction
from speedup.rules.moves import moves_at

_PRODUCTS = ("linear", "conv")
STATED_SIZES = ("size", "shape", "sizes")
"""Arguments in which a call states the sizes of its result."""
_LAST_SIZES = "output_size"
"""The argument in which poolings and interpolations state the last of them."""


@frozen(eq=False)
class Extents:
    """Of a graph, which dimensions may have another extent when the inputs do.

    What the operators' kinds leave open is asked of the operators themselves, run on tensors without data
    at other sizes of the inputs. Where that does not work out either, the answer is that they may.
    """

    graph: Graph
    rules: Rules
    _known: dict[Dim, bool] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        # What was found out for one analysis of the graph serves the next.
        known = self.graph.once(f"extents {id(self.rules)}", dict[Dim, bool])
        object.__setattr__(self, "_known", known)

    def varies(self, value: Value, dim: int) -> bool:
        """Whether dimension `dim` of `value` may have another extent in another call."""
        on_trial = value.origin is Origin.INPUT or self._on_trial.get((value.index, dim), True)
        return self.may_vary(value, dim) and on_trial

    def may_vary(self, value: Value, dim: int) -> bool:
        """The same, from the operators' kinds alone: quicker, and oftener in doubt."""
        key = (value.index, dim)
        if key not in self._known:
            # Producers come first, so that the depth of recursion is one op.
            self._fill(value)
        return self._known[key]

    @property
    def _on_trial(self) -> Mapping[Dim, bool]:
        """Whether an extent was another at other sizes of the inputs, for all that could be worked out."""
        return self._tried.varied

    @property
    def _tried(self) -> _Tried:
        return self.graph.once("extents on trial", lambda: _try_sizes(self.graph))

    def are_equal(self, one: Dim, other: Dim) -> bool:
        """Whether two dimensions have one extent at all sizes of the inputs that were tried."""
        known = [s for s in self._tried.shapes if one[0] in s and other[0] in s]
        return bool(known) and all(_extent(s, one) == _extent(s, other) for s in known)

    def follow_input(self, expression: Any) -> bool:
        """Whether a number that is derived from sizes may be another in another call."""
        return any(self.varies(self.graph.values[s.value], s.dim) for s in sizes_in(expression))

    def is_taken(self, value: Value, dim: int) -> bool:
        """Whether dimension `dim` of `value` varies and the ops were seen to run at other extents of it.

        They do not where it is an input's that a layer reads.
        """
        return self.varies(value, dim) and self._on_trial.get((value.index, dim), True)

    def _fill(self, value: Value) -> None:
        pending = [value]
        while pending:
            one = pending[-1]
            if (one.index, 0) in self._known or not one.ndim:
                pending.pop()
                continue
            producer = self.graph.producer[one.index]
            op = None if producer is None else self.graph.ops[producer]
            left = [] if op is None else [v for v in self._sources(op) if self._is_open(v)]
            if left:
                pending.extend(left)
                continue
            pending.pop()
            found = [one.origin is Origin.INPUT] * one.ndim if op is None else self._follows(op, one)
            self._known.update(((one.index, dim), varies) for dim, varies in enumerate(found))

    def _is_open(self, value: Value) -> bool:
        return bool(value.ndim) and (value.index, 0) not in self._known

    def _sources(self, op: Op) -> Iterable[Value]:
        """The values whose extents may decide those of the op's results."""
        yield from op.operands
        for argument in op.arguments.values():
            yield from (self.graph.values[size.value] for size in _sizes_of(argument))

    def _any(self, values: Iterable[Value]) -> bool:
        return any(self._known[v.index, d] for v in values for d in range(v.ndim))

    def _follows(self, op: Op, result: Value) -> list[bool]:
        """For each dimension of a result of `op`, whether it may vary; what it comes from is known."""
        stated = [self._stated(op, result, dim) for dim in range(result.ndim)]
        if all(one is not None for one in stated):
            return [bool(one) for one in stated]
        found = self._derived(op, result)
        return [found[dim] if one is None else one for dim, one in enumerate(stated)]

    def _derived(self, op: Op, result: Value) -> list[bool]:
        dims = range(result.ndim)
        if op.name.startswith(_PRODUCTS) and op.operands[1].ndim > 1:
            shape = describe_contraction(op)
            rows = self._known[shape.weight.index, shape.row_dim]
            own = [self._known[shape.data.index, d] for d in range(shape.data.ndim)]
            return [rows if d == shape.result_axis else d >= len(own) or own[d] for d in dims]
        if rule_of(op, self.rules).moves is not None:
            return self._moved(op, result)
        if op.name == "embedding":
            table, index = op.operands[:2]
            last = result.ndim - 1
            return [self._known[table.index, 1] if d == last else self._known[index.index, d] for d in dims]
        return [self._aligned(op, result, d) for d in dims]

    def _stated(self, op: Op, result: Value, dim: int) -> bool | None:
        """What a size that the call states for the dimension says; None where it states none."""
        name = next((n for n in (*STATED_SIZES, _LAST_SIZES) if n in op.arguments), None)
        sizes = None if name is None else op.arguments[name]
        if not isinstance(sizes, tuple) or op.is_inner:
            return None
        first = result.ndim - len(sizes)
        if dim < first or (first != 0 and name != _LAST_SIZES):
            return None
        size = sizes[dim - first]
        if isinstance(size, Derived):
            return any(self._known[s.value, s.dim] for s in sizes_in(size.expression))
        return None if isinstance(size, Value) or size == -1 else False

    def _moved(self, op: Op, result: Value) -> list[bool]:
        moves = rule_of(op, self.rules).moves
        # Sizes that the call states are told apart by dimension already.
        others = [argument for name, argument in op.arguments.items() if name not in STATED_SIZES]
        if moves is None or any(self._known[s.value, s.dim] for a in others for s in _sizes_of(a)):
            return [True] * result.ndim
        varies = [False] * result.ndim
        for index_map in moves_at(op, moves):
            if op.results[index_map.result] is result:
                source = op.operands[index_map.operand]
                gone = [d for b in index_map.blocks if not b.target and b.index is None for d in b.source]
                if any(self._known[source.index, d] for d in gone):
                    # Extents of 1, as of a batch, which any of the result's may take in at other sizes.
                    return [True] * result.ndim
                sizes = [op.arguments[name] for name in STATED_SIZES if name in op.arguments]
                is_inferred = any(isinstance(one, tuple) and -1 in one for one in sizes)
                if is_inferred and any(self._known[source.index, d] for d in range(source.ndim)):
                    # So may extents of 1 that come of none, if one of them is what is left.
                    for block in index_map.blocks:
                        if not block.source and block.index is None:
                            for dim in block.target:
                                varies[dim] = True
                for block in index_map.blocks:
                    if any(self._known[source.index, d] for d in block.source):
                        for dim in block.target:
                            varies[dim] = True
        return varies

    def _aligned(self, op: Op, result: Value, dim: int) -> bool:
        """Of an operator of another kind: dimensions of one extent at one place, else any."""
        if not op.operands:
            return any(self._known[s.value, s.dim] for a in op.arguments.values() for s in _sizes_of(a))
        ranked = [v for v in op.operands if v.ndim == result.ndim]
        alike = [v for v in ranked if v.shape[dim] == result.shape[dim]]
        if alike and max(v.ndim for v in op.operands) == result.ndim:
            lower = [v for v in op.operands if v.ndim < result.ndim and not v.is_state]
            own = any(self._known[v.index, dim] for v in ranked)
            return own or any(
                self._known[v.index, dim - result.ndim + v.ndim] for v in lower if dim >= result.ndim - v.ndim
            )
        return self._any(op.operands)


def _extent(shapes: Mapping[int, Shape], place: Dim) -> int | None:
    value, dim = place
    return shapes[value][dim] if dim < len(shapes[value]) else None


def _sizes_of(argument: Any) -> Iterable[SizeOf]:
    for derived in derived_in(argument):
        yield from sizes_in(derived.expression)


def numbers_follow(extents: Extents, op: Op, argument: str) -> bool:
    """Whether an argument of `op` holds a number that may be another in another call."""
    return holds_following(extents, op.arguments[argument])


def holds_following(extents: Extents, argument: Argument) -> bool:
    """The same of an argument, or of a part of one."""
    return any(extents.follow_input(d.expression) for d in derived_in(argument))


def holds_varying(extents: Extents, argument: Argument) -> bool:
    """Whether an argument holds a number that follows sizes which the model takes others of."""
    return any(extents.is_taken(extents.graph.values[size.value], size.dim) for size in _sizes_of(argument))


@frozen(eq=False)
class _Tried:
    """What came of other sizes of the inputs: which dimensions `varied`, where that could be worked out, and
    the `shapes` of all values, by index, as far as the ops ran.
    """

    varied: Mapping[Dim, bool]
    shapes: Sequence[Mapping[int, Shape]]


def _try_sizes(graph: Graph) -> _Tried:
    """Tries other sizes of the inputs, one or a few at a time.

    Sizes at which the ops do not run are none that the model takes, unless it may take another way there.
    """
    varied: dict[Dim, bool] = {}
    tried: list[Mapping[int, Shape]] = []
    for call in range(len(graph.starts)):
        end = graph.starts[call + 1] if call + 1 < len(graph.starts) else len(graph.ops)
        inputs = [n for n, v in enumerate(graph.inputs) if _is_read_in(call, v, graph)]
        trial = _Trial(graph, graph.ops[graph.starts[call] : end], [graph.inputs[n] for n in inputs])
        units = changing_together((n, graph.inputs[n].shape) for n in inputs)
        found = [one for unit, extent in units.items() for one in trial.of(unit, extent)]
        found += trial.together(units)
        changed = {dim for one in found for dim in trial.others(one)}
        unsure = {dim for one in found for dim in trial.missing(one)}
        for dim in ((value.index, axis) for value in trial.measured for axis in range(value.ndim)):
            if dim in changed or dim not in unsure:
                varied[dim] = dim in changed
        tried += found
    return _Tried(varied, tried)


def _is_read_in(call: int, value: Value, graph: Graph) -> bool:
    return any(graph.call_of(reader) == call for reader in graph.readers[value.index])


# To find sizes that go together: ops that are run for one call, and sizes of a unit that others are to fit.
_MOST_RUN, _MOST_REFUSED = 20_000, 3
_STEPS: Sequence[Callable[[int], int]] = (
    lambda n: 2 * n,
    lambda n: n + 1,
    lambda n: 3 * n,
    lambda n: n + 8,
    # The example may be as long as can be.
    lambda n: n - 1,
    lambda n: n // 2,
    lambda n: n // 3,
)


# Of numbers that are made with these, those at twice a size are others.
_STEADY = frozenset({"add", "sub", "mul", "neg", "truediv", "pow", UNSEEN})


@frozen(eq=False)
class _Trial:
    """What the results of one call's `ops` would measure at other sizes of its `inputs`."""

    graph: Graph
    ops: Sequence[Op]
    inputs: Sequence[Value]
    # By unit the sizes at which some op does not run.
    refused: dict[Unit, list[tuple[Shape, ...]]] = field(factory=dict)

    @cached_property
    def results(self) -> Sequence[Value]:
        return [result for op in self.ops for result in op.results]

    @cached_property
    def measured(self) -> Sequence[Value]:
        return (*self.inputs, *self.results)

    @cached_property
    def _wanted(self) -> Sequence[int]:
        return [value.index for value in self.results]

    @cached_property
    def _runs(self) -> bool:
        """Whether the ops run without data at all, at the sizes of the trace."""
        return len(self.at([v.shape for v in self.graph.inputs])) == len(self.results)

    def at(self, shapes: Sequence[Shape]) -> Mapping[int, Shape]:
        """The shapes, by index, where the inputs have these `shapes`, up to where the ops do not run."""
        return resized_shapes(self.graph, shapes, self._wanted)

    def others(self, found: Mapping[int, Shape]) -> Iterator[Dim]:
        """The dimensions that are not as they were in the trace."""
        for value in self.measured:
            measured = found.get(value.index, value.shape)
            if measured != value.shape and len(measured) == value.ndim:
                yield from ((value.index, d) for d, n in enumerate(value.shape) if measured[d] != n)

    def missing(self, found: Mapping[int, Shape]) -> Iterator[Dim]:
        """Those of which it is not known, or which are others, where those of extent 1 are taken away."""
        for value in self.results:
            if len(found.get(value.index, ())) != value.ndim:
                yield from ((value.index, dim) for dim in range(value.ndim))

    @cached_property
    def _tells(self) -> bool:
        """Whether ops that do not run at other sizes say that the model does not."""
        return self._runs and not any(map(is_lost, self._numbers))

    @cached_property
    def _numbers(self) -> Sequence[Expression]:
        arguments = tuple(argument for op in self.ops for argument in op.arguments.values())
        return [derived.expression for derived in derived_in(arguments)]

    @cached_property
    def _functions(self) -> frozenset[str]:
        """What numbers are made with of sizes."""
        return frozenset(name for number in self._numbers for name in functions_in(number))

    def of(self, unit: Unit, extent: int) -> Sequence[Mapping[int, Shape]]:
        """The shapes at another extent of `unit`, one at which most of the ops run.

        Where numbers are rounded, or are remainders, those at two: one may do what the trace's does. Empty
        where the ops all run at no other extent, and would not be others either.
        """
        best: Mapping[int, Shape] = {}
        most, is_same_way = -1, True
        whole: list[Mapping[int, Shape]] = []
        wanted = 1 if self._functions <= _STEADY else 2
        refused = self.refused.setdefault(unit, [])
        own = [value.shape for value in self.graph.inputs]
        for step in _STEPS:
            if step(extent) < 1:
                continue
            shapes = change_extent(own, unit, step(extent))
            found = self.at(shapes)
            if len(found) == len(self.results):
                whole.append(self._with_inputs(shapes, found))
                if len(whole) == wanted:
                    break
            elif not whole:
                refused.append(shapes)
                is_same_way = is_same_way and self._tells and self._goes_on(shapes, found)
                if len(found) > most:
                    best, most = self._with_inputs(shapes, found), len(found)
        return whole or ([] if is_same_way else [best])

    def together(self, units: Mapping[Unit, int]) -> Iterator[Mapping[int, Shape]]:
        """The shapes where other extents change with one that was refused, so that all ops run.

        Or, where they never do, so many that the forward is seen to go another way.
        """
        left = _MOST_RUN
        for refused in self.refused.values() if self._runs else ():
            for shapes in refused[:_MOST_REFUSED]:
                best: Fitting | None = None
                for attempt in fitting_shapes(self.graph, shapes, self._wanted, units):
                    left -= attempt.runs + 1
                    if best is None or attempt.runs > best.runs:
                        best = attempt
                    if attempt.is_whole or left < 0:
                        break
                found = {} if best is None else self.at(best.shapes)
                if best is not None and (best.is_whole or not self._goes_on(best.shapes, found)):
                    yield self._with_inputs(best.shapes, found)
                    break
                if left < 0:
                    return

    def _with_inputs(self, shapes: Sequence[Shape], found: Mapping[int, Shape]) -> Mapping[int, Shape]:
        return {v.index: shape for v, shape in zip(self.graph.inputs, shapes, strict=True)} | dict(found)

    def _goes_on(self, shapes: Sequence[Shape], found: Mapping[int, Shape]) -> bool:
        """Whether the forward makes the same of sizes as in the trace, up to where the ops do not run."""
        known = self._with_inputs(shapes, found)
        for question in self.graph.questions:
            if all(size.value in known for size in sizes_in(question.expression)):
                number = evaluate_expression(question.expression, partial(_looked_up, known))
                if number != question.number:
                    return False
        return True


def _looked_up(shapes: Mapping[int, Shape], root: Root) -> Any:
    return shapes[root.value][root.dim] if isinstance(root, SizeOf) else root.number
