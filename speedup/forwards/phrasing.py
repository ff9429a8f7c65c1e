"""How a call or subscript in a forward's source is changed so that it states something else."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from inspect import signature
from types import ModuleType
from typing import Any, assert_never

from attrs import fields, frozen

from speedup.analyses.analysis import Analysis
from speedup.analyses.batch import may_count_batch
from speedup.forwards.source import Change, end_of, start_of
from speedup.ir.expressions import Derived, Settled, SizeOf, roots_in
from speedup.ir.graph import Op
from speedup.ir.restatements import (
    Arguments,
    MeanOfTotal,
    PartialLayerNorm,
    Restatement,
    SplitSizes,
    TakeIndices,
)
from speedup.modules.functional import partial_layer_norm

# Names under which Python calls operators that are traced under another.
_SPOKEN = {
    "split": ("chunk",),
    "split_with_sizes": ("split",),
    "view": ("reshape",),
    "_unsafe_view": ("reshape", "view"),
    "native_channel_shuffle": ("channel_shuffle",),
}


@frozen
class Phrase:
    """Changes to make in one source file, names they borrow, and a note of what they say."""

    changes: tuple[Change, ...]
    borrowed: tuple[str, ...] = ()
    note: str = ""


@frozen(eq=False)
class _Call:
    """A call of an operator: its name as written, the tensor it is about, the other arguments."""

    node: ast.Call
    name: str
    tensor: ast.expr
    arguments: tuple[ast.expr, ...]
    is_method: bool

    def keyword(self, name: str) -> ast.expr | None:
        return next((k.value for k in self.node.keywords if k.arg == name), None)


def phrased(
    op: Op, restatement: Restatement, node: ast.expr, analysis: Analysis, scope: Mapping[str, Any]
) -> Phrase | None:
    """The changes that make `node`, which ran `op`, state `restatement`; None when it is too unusual.

    `scope` is what the function around `node` finds by name outside of itself.
    """
    if isinstance(node, ast.Subscript):
        inside = _subscript(op, restatement, node, analysis)
        return None if inside is None else Phrase(inside, note=_note(node, inside))
    call = _call(node, scope) if isinstance(node, ast.Call) else None
    if call is None or call.name.rstrip("_") not in (op.name.rstrip("_"), *_SPOKEN.get(op.name, ())):
        return None
    borrowed: tuple[str, ...] = ()
    found: tuple[Change, ...] | None
    match restatement:
        case Arguments() if call.name == "chunk" and op.name != "chunk":
            # It has no argument that would give the parts other sizes.
            return None
        case Arguments(changes):
            found = _arguments(op, call, changes, analysis)
        case SplitSizes(sizes, dim):
            found, borrowed = _respoken(call, "split", f"{list(sizes)}, dim={dim}"), _module_for(call)
        case TakeIndices(indices, dim):
            found = _indexed(call, indices, dim)
        case MeanOfTotal(total):
            found, borrowed = _summed(call, total), _module_for(call)
        case PartialLayerNorm():
            found, borrowed = _partial_norm(call, restatement), ("partial_layer_norm",)
        case _:
            assert_never(restatement)
    return None if found is None else Phrase(found, borrowed, _note(node, found))


def _note(node: ast.expr, changes: Sequence[Change]) -> str:
    said = ", ".join(c.text.strip() for c in changes if c.text.strip() not in ("", "("))
    whole = ast.unparse(node)
    return f"{whole if len(whole) <= 60 else '...' + whole[-57:]} now with {said}"


def _is_module(node: ast.expr, scope: Mapping[str, Any]) -> bool:
    """Whether `node` names a module, such as `torch` or `nn.functional`."""
    return isinstance(_named(node, scope), ModuleType)


def _named(node: ast.expr, scope: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return scope.get(node.id)
    if isinstance(node, ast.Attribute):
        outer = _named(node.value, scope)
        return getattr(outer, node.attr, None) if isinstance(outer, ModuleType) else None
    return None


def _call(node: ast.Call, scope: Mapping[str, Any]) -> _Call | None:
    if any(isinstance(a, ast.Starred) for a in node.args[:1]) or any(k.arg is None for k in node.keywords):
        return None
    if isinstance(node.func, ast.Attribute):
        if not _is_module(node.func.value, scope):
            return _Call(node, node.func.attr, node.func.value, tuple(node.args), True)
        name = node.func.attr
    elif isinstance(node.func, ast.Name):
        name = node.func.id
    else:
        return None
    return _Call(node, name, node.args[0], tuple(node.args[1:]), False) if node.args else None


def _arguments(
    op: Op, call: _Call, changes: Mapping[str, Any], analysis: Analysis
) -> tuple[Change, ...] | None:
    parameters = [p.name for p in op.target._schema.arguments]
    given = analysis.arguments(op)
    found: list[Change] = []
    for name, wanted in changes.items():
        place = parameters.index(name) - 1
        written = call.keyword(name)
        if not isinstance(wanted, tuple):
            written = written or (call.arguments[place] if 0 <= place < len(call.arguments) else None)
            if written is None or isinstance(written, ast.Starred) or not isinstance(wanted, int | float):
                return None
            if not _is_settled(op.arguments[name], analysis):
                return None
            found.append(Change(start_of(written), end_of(written), repr(wanted)))
            continue
        parts = _parts(written, call.arguments[place:] if place >= 0 else (), len(wanted))
        if parts is None:
            return None
        for number, (part, new, old) in enumerate(zip(parts, wanted, given[name], strict=True)):
            if new != old:
                if not _may_be_written(op, name, number, analysis):
                    return None
                found.append(Change(start_of(part), end_of(part), repr(new)))
    return tuple(found)


def _parts(
    keyword: ast.expr | None, positional: Sequence[ast.expr], count: int
) -> tuple[ast.expr, ...] | None:
    """The expressions of a list argument, given as one list or as separate arguments."""
    one = keyword or (positional[0] if positional else None)
    if isinstance(one, ast.Tuple | ast.List):
        parts = tuple(one.elts)
    elif keyword is not None:
        return None
    else:
        parts = tuple(positional)
    plain = len(parts) == count and not any(isinstance(p, ast.Starred) for p in parts)
    return parts if plain else None


def _is_settled(argument: Any, analysis: Analysis) -> bool:
    """Whether a number may become a literal: it was one, or it only reads sizes that the plan sets."""
    if isinstance(argument, Settled):
        return False
    if not isinstance(argument, Derived):
        return True
    sizes = [r for r in roots_in(argument.expression) if isinstance(r, SizeOf)]
    return all(not analysis.kept.is_full((r.value, r.dim)) for r in sizes)


def _may_be_written(op: Op, name: str, place: int, analysis: Analysis) -> bool:
    """Whether one number of a list argument may become a literal."""
    argument = op.arguments[name][place]
    if name not in ("size", "shape"):
        return _is_settled(argument, analysis)
    if isinstance(argument, Derived) and _is_settled(argument, analysis):
        return True
    # What a size is derived from does not count where the plan sets the size itself.
    is_set = not isinstance(argument, Derived) or not analysis.kept.is_full((op.result.index, place))
    return is_set and not may_count_batch(op, name, place, analysis)


def _prefix(call: _Call) -> str:
    """How a function called in the place of this one is reached; `torch` where its name stands alone."""
    function = call.node.func
    return f"{ast.unparse(function.value)}." if isinstance(function, ast.Attribute) else "torch."


def _module_for(call: _Call) -> tuple[str, ...]:
    return () if isinstance(call.node.func, ast.Attribute) else ("torch",)


def _after_tensor(call: _Call) -> tuple[int, int]:
    return end_of(call.tensor)


def _is_atomic(node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript)


def _respoken(call: _Call, name: str, arguments: str) -> tuple[Change, ...]:
    """The same tensor's method or function `name` with other arguments."""
    if call.is_method:
        end = end_of(call.node.func)
        return (Change((end[0], end[1] - len(call.name)), end_of(call.node), f"{name}({arguments})"),)
    head = Change(start_of(call.node), start_of(call.tensor), f"{_prefix(call)}{name}(")
    return head, Change(_after_tensor(call), end_of(call.node), f", {arguments})")


def _indexed(call: _Call, indices: Sequence[int], dim: int) -> tuple[Change, ...]:
    subscript = f"[{':, ' * dim}{list(indices)}]"
    atomic = _is_atomic(call.tensor)
    head = Change(start_of(call.node), start_of(call.tensor), "" if atomic else "(")
    return head, Change(_after_tensor(call), end_of(call.node), ("" if atomic else ")") + subscript)


def _summed(call: _Call, total: int) -> tuple[Change, ...]:
    """A sum over what is left, divided by what there was."""
    end, whole = end_of(call.node.func), end_of(call.node)
    start = start_of(call.node)
    name = "sum" if isinstance(call.node.func, ast.Attribute) else "torch.sum"
    return (
        Change(start, start, "("),
        Change((end[0], end[1] - len(call.name)), end, name),
        Change(whole, whole, f" / {total})"),
    )


def _partial_norm(call: _Call, norm: PartialLayerNorm) -> tuple[Change, ...] | None:
    known = tuple(signature(partial_layer_norm).parameters)[:5]
    if (
        call.is_method
        or len(call.node.args) > len(known)
        or any(k.arg not in known for k in call.node.keywords)
    ):
        return None
    last = end_of(call.node)
    told = ", ".join(f"{field.name}={getattr(norm, field.name)!r}" for field in fields(PartialLayerNorm))
    inside = [end_of(a) for a in (*call.node.args, *(k.value for k in call.node.keywords))]
    return (
        Change(start_of(call.node.func), end_of(call.node.func), "partial_layer_norm"),
        Change(max(inside), last, f", {told})"),
    )


def _subscript(
    op: Op, restatement: Restatement, node: ast.Subscript, analysis: Analysis
) -> tuple[Change, ...] | None:
    element = _element(op, node)
    if element is None:
        return None
    if isinstance(restatement, TakeIndices) and isinstance(element, ast.Slice):
        others = [e for e in _elements(node) if e is not element]
        if all(isinstance(e, ast.Slice) or _is_constant(e, Ellipsis) for e in others):
            return (Change(start_of(element), end_of(element), repr(list(restatement.indices))),)
        return None
    if not isinstance(restatement, Arguments):
        return None
    changes = restatement.changes
    if not all(_is_settled(op.arguments[name], analysis) for name in changes):
        return None
    if op.name == "select" and not isinstance(element, ast.Slice) and set(changes) == {"index"}:
        return (Change(start_of(element), end_of(element), repr(changes["index"])),)
    if op.name != "slice" or not isinstance(element, ast.Slice) or element.step is not None:
        return None
    bounds = (("start", element.lower), ("end", element.upper))
    found = [
        Change(start_of(written), end_of(written), repr(changes[name]))
        for name, written in bounds
        if name in changes and written is not None
    ]
    return tuple(found) if len(found) == len(changes) else None


def _elements(node: ast.Subscript) -> list[ast.expr]:
    return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]


def _is_constant(node: ast.expr, value: Any) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _element(op: Op, node: ast.Subscript) -> ast.expr | None:
    """The element of the subscript that became `op`, a slice or select along its own dimension.

    Only subscripts without `None` and with at most this one index other than full slices are read.
    """
    elements: list[ast.expr] = _elements(node)
    if any(_is_constant(e, None) for e in elements):
        return None
    telling = [e for e in elements if not _is_full(e) and not _is_constant(e, Ellipsis)]
    if len(telling) == 1:
        return telling[0]
    axis: int = op["dim"] % op.operands[0].ndim
    if any(not isinstance(e, ast.Slice) for e in elements) or axis >= len(elements):
        return None
    return elements[axis]


def _is_full(node: ast.expr) -> bool:
    return isinstance(node, ast.Slice) and node.lower is None and node.upper is None and node.step is None
