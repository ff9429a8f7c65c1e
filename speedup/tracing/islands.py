"""What is traced of a model: all of it in each of its calls, or the largest modules of it that can be.

Control flow that depends on data (detectors, generation loops, routing) makes `torch.export` give
up. One real forward then shows what every module is called with. From the model downwards, each
module that can be exported for all its calls becomes an *island*; the others are descended into.
What goes into an island and what comes out of it is the business of code that was not traced, and
stays as it is: in the merged graph all of it counts as inputs and outputs of the model. So does
state that such code reads or could read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from types import CodeType, MappingProxyType

from attrs import frozen
from torch import Tensor, nn

from speedup.errors import ExportError
from speedup.ir.graph import Graph, Origin, Shape, Value
from speedup.ir.inputs import Example
from speedup.ir.paths import join_path
from speedup.ir.report import Inside, Outside
from speedup.tracing.calls import CallKind, ModuleCall, copy_to_run, record_calls, run_copy
from speedup.tracing.exploring import explore, is_same_trace
from speedup.tracing.merging import Part, merge_graphs
from speedup.tracing.reading import Values, as_it_is
from speedup.tracing.trace import Trace, canonical_names, require_steady, trace_call
from speedup.tracing.unseen import mark_unseen

# Export takes a second or so; what is called in so many ways is better descended into.
_MOST_TRACES = 8


@frozen(eq=False)
class Island:
    """A module that is traced on its own: its path, and an example of each kind of call."""

    path: str
    calls: tuple[Example, ...]


@frozen(eq=False)
class Islands:
    """All islands of a model, the state that code outside of them reads, and the attributes that it names."""

    islands: tuple[Island, ...]
    read_outside: tuple[str, ...]
    named_outside: frozenset[str]


@frozen(eq=False)
class Survey:
    """The trace of a model, and what it covers.

    `found` are calls, besides those given, that the planner looked for: of other sizes, where the forward
    goes another way. `assumptions` are what it could not find out about sizes, in words. If the model
    could not be traced as a whole, `islands` are what was.
    """

    trace: Trace
    found: tuple[Example, ...] = ()
    assumptions: tuple[str, ...] = ()
    islands: Islands | None = None
    inside: tuple[Inside, ...] = ()
    outside: tuple[Outside, ...] = ()


def survey(
    model: nn.Module, calls: Sequence[Example], *, explores: bool = True, values: Values = as_it_is
) -> Survey:
    """Trace `model` as a whole in all `calls` if that is possible, else its islands.

    `explores` says whether to look for calls of other sizes that go other ways, `values` what numbers the
    model's own tensors have where Python code reads them.

    Raises:
        ExportError: neither the model nor any module in it can be traced, or the model does not
            run on an example.
    """
    tracer = partial(trace_call, values=values)
    try:
        return _survey_of_whole(model, calls, explores, tracer)
    except ExportError as error:
        return _survey_of_islands(model, calls, error, explores, tracer)


Tracer = Callable[..., Trace]


def _is_read(traced: Sequence[tuple[Example, Trace]]) -> bool:
    """Whether Python code reads state: only `torch.export` follows that."""
    return any(one.graph.consulted for _, one in traced)


def _survey_of_whole(model: nn.Module, calls: Sequence[Example], explores: bool, tracer: Tracer) -> Survey:
    traced = [(call, tracer(model, call)) for call in calls]
    if explores:
        more = explore(traced, partial(tracer, model, doubts_errors=_is_read(traced)), _taking(model))
        found, assumptions = more.calls, more.assumptions
    else:
        found, assumptions = (), ()
    joined = _join(model, [one for _, one in (*traced, *found)])
    return Survey(joined, tuple(call for call, _ in found), (*assumptions, *_relied_on(joined.graph)))


def _relied_on(graph: Graph) -> Iterator[str]:
    """That state which Python code read has to stay as it is, in words."""
    for value in graph.consulted:
        yield f"{value.name!r} keeps its numbers: Python code of the forward reads them"


def _taking(model: nn.Module) -> Callable[[Example], bool]:
    """Tells whether the model runs in a call; not where it has no data to run on. One copy runs them all."""
    copied = cache(partial(copy_to_run, model))

    def takes(call: Example) -> bool:
        if any(t.is_meta for t in (*call.tensors, *model.parameters())):
            return False
        try:
            run_copy(copied(), call)
        except ExportError:
            return False
        return True

    return takes


def _join(model: nn.Module, traces: Sequence[Trace]) -> Trace:
    """The trace of all calls; work is counted in the first."""
    if len(traces) == 1:
        return traces[0]
    return _merge(model, [("", number, traced) for number, traced in enumerate(traces)], counted=1)


def _survey_of_islands(
    model: nn.Module, calls: Sequence[Example], error: ExportError, explores: bool, tracer: Tracer
) -> Survey:
    roots = [_record(model, calls, number) for number in range(len(calls))]
    search = _Search(model, roots, error, tracer)
    chosen = search.islands()
    if not chosen:
        raise search.error
    assumptions: list[str] = []
    for path, own in chosen.items() if explores else ():
        module = model.get_submodule(path)
        more = explore(own, partial(tracer, module, doubts_errors=_is_read(own)), _taking(module))
        own.extend(more.calls)
        assumptions += (f"{line} in {path}" if path else line for line in more.assumptions)
    islands = Islands(
        tuple(Island(path, tuple(call for call, _ in own)) for path, own in chosen.items()),
        search.read_outside(chosen),
        search.named_outside(),
    )
    merged_trace = _of_islands(model, islands, {path: [t for _, t in own] for path, own in chosen.items()})
    inside = tuple(Inside(p, type(search.modules[p]).__name__, len(own)) for p, own in chosen.items())
    assumptions += _relied_on(merged_trace.graph)
    return Survey(
        merged_trace, (), tuple(dict.fromkeys(assumptions)), islands, inside, tuple(search.outside(chosen))
    )


def _record(model: nn.Module, calls: Sequence[Example], number: int) -> ModuleCall:
    try:
        return record_calls(model, calls[number])
    except ExportError as error:
        if number == 0:
            raise
        raise ExportError(f"others[{number - 1}]: {error}") from error.__cause__


def retrace(model: nn.Module, calls: Sequence[Example], islands: Islands | None) -> Trace:
    """The trace of a smaller copy of a surveyed model: of the same modules in the same calls.

    Raises:
        ExportError: what could be traced in the surveyed model no longer can.
    """
    if islands is None:
        return _join(model, [trace_call(model, call) for call in calls])
    traces = {
        island.path: [trace_call(model.get_submodule(island.path), call) for call in island.calls]
        for island in islands.islands
    }
    return _of_islands(model, islands, traces)


def _of_islands(model: nn.Module, islands: Islands, traces: Mapping[str, Sequence[Trace]]) -> Trace:
    parts = [(path, number, one) for path, own in traces.items() for number, one in enumerate(own)]
    return _merge(model, parts, islands.read_outside, islands.named_outside)


def _merge(
    model: nn.Module,
    traces: Iterable[tuple[str, int, Trace]],
    read_outside: Iterable[str] = (),
    named_outside: frozenset[str] = frozenset(),
    counted: int | None = None,
) -> Trace:
    """One trace of those of modules, each with the module's path and the number of its call."""
    canonical = canonical_names(model)
    parts: list[Part] = []
    tensors: dict[str, Tensor] = {}
    for path, number, traced in _marked(traces):
        names = {v.name: _name(v, path, number, canonical) for v in traced.graph.state}
        parts.append(Part(path, traced.graph, names))
        tensors.update({names[name]: tensor for name, tensor in traced.tensors.items()})
    graph = merge_graphs(parts, read_outside, named_outside, counted)
    require_steady(graph)
    return Trace(graph, MappingProxyType(tensors))


def _marked(traces: Iterable[tuple[str, int, Trace]]) -> Iterator[tuple[str, int, Trace]]:
    """The same, with the numbers marked that differ between the calls of a module."""
    by_path: dict[str, list[tuple[int, Trace]]] = {}
    for path, number, traced in traces:
        by_path.setdefault(path, []).append((number, traced))
    for path, own in by_path.items():
        marked = mark_unseen([traced for _, traced in own])
        yield from ((path, number, traced) for (number, _), traced in zip(own, marked, strict=True))


def _name(value: Value, path: str, number: int, canonical: Mapping[str, str]) -> str:
    """The name in the model of state of call `number` of a module."""
    name = join_path(path, value.name)
    # Different calls lift different constants under the same name.
    return f"{name}@{number}" if value.origin is Origin.CONSTANT else canonical[name]


class _Search:
    """Descends the call tree of a model until every call is inside an island or refused."""

    def __init__(
        self, model: nn.Module, roots: Sequence[ModuleCall], error: ExportError, tracer: Tracer
    ) -> None:
        self.model = model
        self._tracer = tracer
        self.modules = dict(model.named_modules())
        self.error = error
        self._roots = roots
        self._refused = {"": _reason(error)}
        self._examples = {
            (call.path, call.structure, call.shapes): call.example
            for call in self._all_calls()
            if call.example
        }
        self._traces: dict[CallKind, Trace | ExportError] = {}

    def islands(self) -> dict[str, list[tuple[Example, Trace]]]:
        """Per island, its kinds of calls and their traces.

        Refusing a module exposes the calls that it makes, of islands too. That ends, as no module is
        ever taken back.
        """
        while True:
            exposed = self._exposed()
            refused = {path: why for path, calls in exposed.items() if (why := self._objection(path, calls))}
            if not refused:
                return {path: self._different(calls) for path, calls in exposed.items()}
            self._refused.update(refused)

    def _all_calls(self) -> Iterator[ModuleCall]:
        return (call for root in self._roots for call in root.all_calls())

    def _reached(self) -> Iterator[ModuleCall]:
        """The calls that are made outside of all islands, in order: the refused ones and what they call."""
        pending = list(reversed(self._roots))
        while pending:
            call = pending.pop()
            yield call
            if call.path in self._refused:
                pending.extend(reversed(call.calls))

    def _exposed(self) -> dict[str, list[ModuleCall]]:
        """The calls from outside of all islands to modules that may be islands, by module."""
        found: dict[str, list[ModuleCall]] = {}
        for call in self._reached():
            if call.path not in self._refused:
                found.setdefault(call.path, []).append(call)
        return found

    def _objection(self, path: str, calls: Sequence[ModuleCall]) -> str:
        """Why a module cannot be an island; empty when it can."""
        if next(self.modules[path].parameters(), None) is None:
            return "it has no parameters"
        objections = [call.objection for call in calls if call.objection]
        if objections:
            return objections[0]
        chosen = _representatives(calls)
        if len(chosen) > _MOST_TRACES:
            return f"it is called in {len(chosen)} different ways"
        traces = (self._trace(call) for call in chosen)
        return next((_reason(traced) for traced in traces if isinstance(traced, ExportError)), "")

    def _example(self, call: ModuleCall) -> Example:
        return self._examples[call.kind]

    def _trace(self, call: ModuleCall) -> Trace | ExportError:
        if call.kind not in self._traces:
            try:
                self._traces[call.kind] = self._tracer(self.modules[call.path], self._example(call))
            except ExportError as error:
                self._traces[call.kind] = error
        return self._traces[call.kind]

    def _different(self, calls: Sequence[ModuleCall]) -> list[tuple[Example, Trace]]:
        """Calls that run other programs, with their traces; several sizes of one program count once."""
        kept: list[tuple[Example, Trace]] = []
        for call in _representatives(calls):
            traced = self._trace(call)
            if isinstance(traced, Trace) and not any(is_same_trace(traced, other) for _, other in kept):
                kept.append((self._example(call), traced))
        return kept

    def _outer_modules(self, islands: Iterable[str]) -> Iterator[tuple[str, nn.Module]]:
        """Every module that can be reached without passing through an island, parents first."""
        seen = {id(self.modules[path]) for path in islands}
        pending: list[tuple[str, nn.Module]] = [("", self.model)]
        while pending:
            path, module = pending.pop()
            if id(module) not in seen:
                seen.add(id(module))
                yield path, module
                children = reversed(list(module.named_children()))
                pending.extend((join_path(path, name), child) for name, child in children)

    def read_outside(self, islands: Iterable[str]) -> tuple[str, ...]:
        """State that code outside of the islands read, and what it could read in another run."""
        canonical = canonical_names(self.model)
        outer = (call for call in self._reached() if call.path in self._refused)
        names = {name for call in outer for name in call.reads}
        for path, module in self._outer_modules(islands):
            own = (*module.named_parameters(path, recurse=False), *module.named_buffers(path, recurse=False))
            names.update(canonical[name] for name, _ in own)
        return tuple(name for name in dict.fromkeys(canonical.values()) if name in names)

    def named_outside(self) -> frozenset[str]:
        """The attributes that forwards outside of the islands name, whether they came to read them or not."""
        outer = {type(self.modules[path]) for path in self._refused}
        return frozenset[str]().union(*map(_names_used, outer))

    def outside(self, islands: Iterable[str]) -> Iterator[Outside]:
        """The refused modules that hold parameters, and those never called."""
        called = {id(self.modules[call.path]) for call in self._all_calls()}
        idle: list[str] = []
        for path, module in self._outer_modules(islands):
            if next(module.parameters(), None) is None or any(path.startswith(f"{i}.") for i in idle):
                continue
            if path in self._refused:
                yield Outside(path, type(module).__name__, self._refused[path])
            elif not any(id(inner) in called for inner in module.modules()):
                idle.append(path)
                yield Outside(path, type(module).__name__, "the example does not call it")


def _names_used(kind: type) -> set[str]:
    """What the forward of a class names, and the methods and properties of the class that it uses."""
    found: set[str] = set()
    pending = ["forward"]
    while pending:
        member = inspect.getattr_static(kind, pending.pop(), None)
        code = getattr(inspect.unwrap(getattr(member, "fget", member)), "__code__", None)
        new = set() if code is None else set(_names_in(code)) - found
        found |= new
        pending.extend(new)
    return found


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _reason(error: ExportError) -> str:
    """The first line of what stopped the export."""
    cause = error.__cause__
    lines = str(cause or error).strip().splitlines() or ["no message"]
    return lines[0] if cause is None else f"{type(cause).__name__}: {lines[0]}"


def _representatives(calls: Iterable[ModuleCall]) -> list[ModuleCall]:
    """One call of each structure, and those in which an extent that varies is least and greatest."""
    by_structure: dict[str, dict[tuple[Shape, ...], ModuleCall]] = {}
    for call in calls:
        by_structure.setdefault(call.structure, {}).setdefault(call.shapes, call)
    chosen: list[ModuleCall] = []
    for by_shapes in by_structure.values():
        group = list(by_shapes.values())
        rows = [[extent for shape in call.shapes for extent in shape] for call in group]
        picked = {0}
        for column in zip(*rows, strict=True):
            picked |= {column.index(min(column)), column.index(max(column))}
        chosen += [group[number] for number in sorted(picked)]
    return chosen
