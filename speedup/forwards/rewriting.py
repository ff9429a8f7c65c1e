"""Rewrite the source of forwards so that their calls state what the small model needs.

Only the innermost module whose own code states a number is rewritten, and of that only the
call. A function that the forward calls by its name gets a copy of its own for this module; one that
the module keeps as an attribute too, or the text of a lambda stands in the attribute's place.
What cannot be found in the source, or is also run where it must stay as it is, is declined.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import dropwhile
from types import MappingProxyType
from typing import Any

from attrs import evolve, field, frozen
from torch import fx, nn

from speedup.analyses.analysis import Analysis
from speedup.errors import SpeedupError
from speedup.forwards.kept_functions import Kept, kept_function
from speedup.forwards.phrasing import Phrase, phrase_of
from speedup.forwards.source import Assignment, first_argument, is_code, is_fresh, is_wrapper, source_file
from speedup.ir.edits import Rewritten
from speedup.ir.graph import Frame, Op, Value
from speedup.lowerings import HELPERS, Lowering
from speedup.lowerings.syntax import Change, Extent, Position, end_of, start_of
from speedup.modules.functions import names_of, unwrap
from speedup.modules.rewritten import built_methods

Site = tuple[str, Frame]


@frozen(eq=False)
class Route:
    """From a method of the owner to the function with the call: `names[0]` is the method, each
    other one a function that the one before calls by name, or keeps as an attribute of its object.
    `frames` are theirs, outermost first, `kept` the attributes in their places, for each but the method;
    `scope` is what the last one finds by name.
    """

    names: tuple[str, ...]
    frames: tuple[Frame, ...]
    kept: tuple[Kept | None, ...]
    scope: Mapping[str, Any]


@frozen(eq=False)
class SourceRewriter:
    """Knows the modules of one model and what their source can be made to say.

    `kept` modules stay as they are, with all in them. Modules in `own_numbers` keep their attributes,
    those in `own_source` their source.
    """

    modules: Mapping[str, nn.Module]
    kept: tuple[str, ...] = ()
    own_numbers: frozenset[str] = frozenset()
    own_source: frozenset[str] = frozenset()

    def writable(self, analysis: Analysis, wanted: Mapping[int, Lowering]) -> Mapping[int, Lowering]:
        """Those of the lowerings `wanted`, by op, that the source can be made to state."""
        phrases: dict[Site, set[Phrase | None]] = {}
        for op in self._sharing(analysis, wanted):
            lowering = wanted.get(op.index)
            said = None if lowering is None else self.phrase(op, lowering, analysis)
            phrases.setdefault((op.owner.path, op.calls[0]), set()).add(said)
        agreed = {site for site, said in phrases.items() if len(said) == 1 and None not in said}
        ops = analysis.graph.ops
        found = {
            n: r for n, r in wanted.items() if ops[n].calls and (ops[n].owner.path, ops[n].calls[0]) in agreed
        }
        drafted = rewritten_functions(self, evolve(analysis, restated=found))
        sound = {path for path, (functions, _) in drafted.items() if self._can_build(path, functions)}
        return MappingProxyType({n: r for n, r in found.items() if ops[n].owner.path in sound})

    def _can_build(self, path: str, functions: tuple[Rewritten, ...]) -> bool:
        try:
            built_methods(type(self.modules[path]), functions)
        except SpeedupError:
            return False
        return True

    def _sharing(self, analysis: Analysis, wanted: Mapping[int, Lowering]) -> Iterable[Op]:
        """All ops of the kinds that are to be restated which the same pieces of source run."""
        ops = analysis.graph.ops
        places = {
            (ops[n].owner.path, ops[n].calls[0], ops[n].target, _axis(ops[n])) for n in wanted if ops[n].calls
        }
        paths = {place[0] for place in places}
        return (
            op
            for op in ops
            if op.owner.path in paths
            and op.calls
            and (op.owner.path, op.calls[0], op.target, _axis(op)) in places
        )

    def phrase(self, op: Op, lowering: Lowering, analysis: Analysis) -> Phrase | None:
        """How the source has to be changed for `op`; None when it cannot be."""
        route = self.route(op)
        if route is None:
            return None
        file = source_file(op.calls[0].file)
        expression = None if file is None else file.expression(op.calls[0])
        if file is None or expression is None:
            return None
        function = file.function(route.frames[-1])
        if isinstance(expression, ast.AugAssign):
            made = partial(_is_made_by, _maker(op.operands[0], analysis), op)
            if function is None or not is_fresh(expression, function, made):
                return None
        # What a method calls by name has no module of its own.
        own = first_argument(function) if function is not None and len(route.names) == 1 else None
        return phrase_of(op, lowering, expression, analysis, route.scope, own)

    def route(self, op: Op) -> Route | None:
        """How a method of the op's module reaches the op's call."""
        module = self.modules.get(op.owner.path)
        if module is None or isinstance(module, fx.GraphModule) or not op.calls:
            return None
        if op.owner.path in self.own_source:
            return None
        if any(op.owner.path == k or op.owner.path.startswith(f"{k}.") for k in self.kept):
            return None
        frames = _frames_of_functions(op.calls)
        for position, frame in enumerate(frames):
            found = _method(type(module), frame)
            if found is not None:
                method = unwrap(found)
                own = frames[: position + 1]
                helpers = _helpers(method, own, vars(module))
                if helpers is None or not _is_defined(frame):
                    return None
                callers = list(dropwhile(partial(is_wrapper, found), frames[position + 1 :]))
                if not (_is_called_on_self(frame, callers[0]) if callers else _is_run(module, frame)):
                    return None
                last = helpers[-1].function if helpers else method
                names = (_last_name(frame), *(helper.name for helper in helpers))
                kept = tuple(helper.kept for helper in helpers)
                return Route(names, tuple(reversed(own)), kept, names_of(last))
        return None


def _maker(value: Value, analysis: Analysis) -> Op | None:
    """The op that made the tensor that `value` is, or of which it may be a part or another name."""
    while (number := analysis.graph.producer[value.index]) is not None:
        op = analysis.graph.ops[number]
        # What is computed with weights is a new tensor, unless it is written where the data was.
        if any(v.is_state for v in op.operands) and not op.name.endswith("_"):
            return op
        if op.calls and isinstance(_expression_of(op.calls[0]), ast.BinOp):
            return op
        if not op.operands:
            return None
        value = op.operands[0]
    return None


def _is_made_by(maker: Op | None, op: Op, statement: Assignment) -> bool:
    """Whether `statement`, of the function that runs `op`, is the operation `maker` or calls the module that
    runs it.
    """
    match statement.value:
        case ast.Call(func=ast.Attribute(value=ast.Name(), attr=name)) if maker is not None:
            called = f"{op.owner.path}.{name}".lstrip(".")
            return f"{maker.owner.path}.".startswith(f"{called}.")
        case ast.BinOp() as operation if maker is not None and maker.calls:
            is_here = maker.owner.path == op.owner.path and maker.calls[0].file == op.calls[0].file
            return is_here and _expression_of(maker.calls[0]) is operation
    return False


def _expression_of(frame: Frame) -> ast.AST | None:
    """What the frame was evaluating, as far as its source is at hand."""
    file = source_file(frame.file)
    return None if file is None else file.expression(frame)


def _last_name(frame: Frame) -> str:
    return frame.function.rpartition(".")[2]


def _is_defined(frame: Frame) -> bool:
    """Whether the source of the frame's function is at hand."""
    file = source_file(frame.file)
    return file is not None and file.function(frame) is not None


def _axis(op: Op) -> Any:
    return op.get("dim")


def _is_inside(inner: Frame, outer: Frame) -> bool:
    """Whether the code of `inner` is written within the function of `outer`."""
    return inner.file == outer.file and inner.function.startswith(f"{outer.function}.<locals>.")


def _frames_of_functions(calls: Sequence[Frame]) -> list[Frame]:
    """The frames of functions, those of comprehensions and functions within them merged into them.

    A merged frame has the span of the inner one.
    """
    found: list[Frame] = []
    for frame in calls:
        if found and _is_inside(found[-1], frame):
            found[-1] = Frame(frame.file, frame.function, frame.first_line, found[-1].span)
        else:
            found.append(frame)
    return found


def _method(kind: type, frame: Frame) -> Any:
    """The method of `kind` that `frame` runs, as its class holds it; None when it is none or overridden."""
    name = _last_name(frame)
    for one in kind.__mro__:
        if name in vars(one):
            return vars(one)[name] if is_code(vars(one)[name], frame) else None
    return None


def _is_run(module: nn.Module, frame: Frame) -> bool:
    """Whether calling `module` runs the method `frame` of its class."""
    return _last_name(frame) == "forward" and "forward" not in vars(module)


def _is_called_on_self(method: Frame, caller: Frame) -> bool:
    """Whether `caller` looks the method up on its own object, and so finds it when it is rewritten."""
    file = source_file(caller.file)
    call = None if file is None else file.expression(caller)
    function = None if file is None else file.function(caller)
    if call is None or function is None or not isinstance(call, ast.Call):
        return False
    own = first_argument(function) or ""
    spoken = {f"{kind}.{_last_name(method)}" for kind in (own, f"type({own})", f"{own}.__class__")}
    return ast.unparse(call.func) in spoken


@frozen(eq=False)
class _Helper:
    """A function on the way to a call: the name of its draft, and as what attribute it is kept, if so."""

    name: str
    function: Any
    kept: Kept | None = None


def _helpers(method: Any, frames: Sequence[Frame], attributes: dict[str, Any]) -> tuple[_Helper, ...] | None:
    """The helpers by which the method of `frames[-1]`, of an object with `attributes`, gets down to
    `frames[0]`.
    """
    found: list[_Helper] = []
    caller = method
    for position in range(len(frames) - 1, 0, -1):
        call, inner = _expression_of(frames[position]), frames[position - 1]
        kept = None if found else kept_function(call, attributes, method, inner)
        if kept is not None:
            # A lambda's draft goes by the attribute, since another one may read the same.
            shown = kept.written if _is_lambda(kept) else kept.stand_in
            helper = _Helper(ast.unparse(shown), kept.function, kept)
        else:
            name = getattr(getattr(call, "func", None), "id", None)
            callee = None if name is None else names_of(caller).get(name)
            if name is None or callee is None or not is_code(callee, inner):
                return None
            if HELPERS.get(name) is callee:
                # What an earlier plan borrowed is no code of the model's.
                return None
            helper = _Helper(name, unwrap(callee))
        # Of a lambda only the text goes elsewhere, and nothing that it calls.
        is_last = position == 1
        if not (is_last if _is_lambda(helper.kept) else _is_defined(inner)):
            return None
        caller = helper.function
        found.append(helper)
    return tuple(found)


def _is_lambda(kept: Kept | None) -> bool:
    return kept is not None and isinstance(kept.stand_in, ast.Lambda)


@frozen(eq=False)
class _Draft:
    """One function on its way to be rewritten; `changes` with what each is within: one may be in another.

    `kept` are the attributes as which the one that calls it keeps it, where it is called so.
    """

    frame: Frame
    kept: dict[Position, Kept] = field(factory=dict)
    changes: dict[tuple[Extent, Change], None] = field(factory=dict)
    helpers: dict[str, _Draft] = field(factory=dict)
    borrowed: dict[str, None] = field(factory=dict)

    def finish(self, name: str) -> Rewritten:
        file = source_file(self.frame.file)
        function = None if file is None else file.function(self.frame)
        assert file is not None and function is not None, "a route leads through known functions only"
        helpers = {own: draft for own, draft in self.helpers.items() if draft.stands_in is None}
        inner = [draft for draft in self.helpers.values() if draft.stands_in is not None]
        changes = list(self.changes)
        changes += (change for draft in self.helpers.values() for change in draft.in_place_of_attributes())
        borrowed = dict.fromkeys((*self.borrowed, *(one for draft in inner for one in draft.borrowed)))
        return Rewritten(
            name,
            file.with_changes(function, changes),
            tuple(draft.finish(own) for own, draft in helpers.items()),
            tuple(borrowed),
        )

    @property
    def stands_in(self) -> ast.Lambda | None:
        """The lambda that this is, if it is one."""
        nodes = (kept.stand_in for kept in self.kept.values())
        return next((node for node in nodes if isinstance(node, ast.Lambda)), None)

    def in_place_of_attributes(self) -> Iterator[tuple[Extent, Change]]:
        """The changes of the source around it that say it in the place of attributes."""
        file, node = source_file(self.frame.file), self.stands_in
        for kept in self.kept.values():
            text = ast.unparse(kept.stand_in)
            if node is not None and file is not None:
                text = f"({file.expression_with_changes(node, self.changes)})"
            start, end = start_of(kept.written), end_of(kept.written)
            yield (start, end), Change(start, end, text)


def rewritten_functions(
    rewriter: SourceRewriter, analysis: Analysis
) -> Mapping[str, tuple[tuple[Rewritten, ...], tuple[str, ...]]]:
    """By module path: the functions to run in place of its methods, and what they state otherwise."""
    drafts: dict[str, dict[str, _Draft]] = {}
    notes: dict[str, dict[str, None]] = {}
    for number, lowering in analysis.restated.items():
        op = analysis.graph.ops[number]
        route, phrase = rewriter.route(op), rewriter.phrase(op, lowering, analysis)
        assert route is not None and phrase is not None, "only what can be written is restated"
        level = drafts.setdefault(op.owner.path, {})
        for name, frame, kept in zip(route.names, route.frames, (None, *route.kept), strict=True):
            draft = level.setdefault(name, _Draft(frame))
            if kept is not None:
                draft.kept[start_of(kept.written)] = kept
            level = draft.helpers
        draft.changes.update(((phrase.extent, change), None) for change in phrase.changes)
        draft.borrowed.update(dict.fromkeys(phrase.borrowed))
        notes.setdefault(op.owner.path, {})[phrase.note] = None
    return {
        path: (tuple(draft.finish(name) for name, draft in own.items()), tuple(notes[path]))
        for path, own in drafts.items()
    }
