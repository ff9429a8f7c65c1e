"""The same operator with other numbers among its arguments."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, frozen
from torch import Tensor

from speedup.ir.evaluation import evaluate
from speedup.ir.graph import Op
from speedup.lowerings.lowering import Lowering, Written
from speedup.lowerings.spreading import is_steady, with_numbers
from speedup.lowerings.syntax import Change, WrittenCall, element_of, end_of, replace, start_of
from speedup.torch_api import schema_of

# Arguments that Python takes as one sequence or as several arguments.
_SPREAD = ("size", "shape", "repeats", "dims", "sizes")


@frozen
class Arguments(Lowering):
    """The same call with the numbers `changes`, by the operator's names of them."""

    changes: Mapping[str, Any]

    def compute(self, op: Op, arguments: Mapping[str, Any], operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """The op, with these arguments."""
        return evaluate(evolve(op, arguments={**arguments, **self.changes}), operands)

    def rewrite(self, written: Written) -> tuple[Change, ...] | None:
        """Numbers in place of the arguments, or of a subscript's bounds."""
        if written.call is None:
            return self._subscript(written)
        if written.call.name == "chunk" and written.op.name != "chunk":
            # It has no argument that would give the parts other sizes.
            return None
        found: list[Change] = []
        for name, wanted in self.changes.items():
            changed = _argument(name, wanted, written.call, written)
            if changed is None:
                return None
            found += changed
        return tuple(found)

    def _subscript(self, written: Written) -> tuple[Change, ...] | None:
        op, changes = written.op, self.changes
        assert isinstance(written.node, ast.Subscript), "what is no call is a subscript"
        element = element_of(written.node, op)
        if element is None or not all(written.may_be_literal(name, None) for name in changes):
            return None
        if op.name == "select" and not isinstance(element, ast.Slice) and set(changes) == {"index"}:
            return (replace(element, changes["index"]),)
        if op.name != "slice" or not isinstance(element, ast.Slice) or element.step is not None:
            return None
        bounds = (("start", element.lower), ("end", element.upper))
        found = [replace(one, changes[name]) for name, one in bounds if name in changes and one is not None]
        return tuple(found) if len(found) == len(changes) else None


def _argument(name: str, wanted: Any, call: WrittenCall, written: Written) -> list[Change] | None:
    place = [p.name for p in schema_of(written.op.target).arguments].index(name) - 1
    one = call.keyword(name)
    if one is None and any(isinstance(a, ast.Starred) for a in call.arguments[: max(place, 0)]):
        # What is spread before it may be any number of arguments.
        return None
    if not isinstance(wanted, tuple):
        one = one or (call.arguments[place] if 0 <= place < len(call.arguments) else None)
        if one is None or isinstance(one, ast.Starred) or not isinstance(wanted, int | float):
            return None
        return [replace(one, wanted)] if written.may_be_literal(name, None) else None
    changed = [n for n, (new, old) in enumerate(zip(wanted, written.given[name], strict=True)) if new != old]
    if not all(written.may_be_literal(name, n) for n in changed):
        return None
    is_first = place < 0 and not call.is_method
    positional = (call.tensor, *call.arguments) if is_first else call.arguments[max(place, 0) :]
    numbers = {n: wanted[n] for n in changed}
    if one is not None:
        return _in_sequence(one, numbers, len(wanted))
    if positional and (name not in _SPREAD or isinstance(positional[0], ast.Tuple | ast.List)):
        return _in_sequence(positional[0], numbers, len(wanted))
    if len(positional) == 1 and len(wanted) > 1 and not isinstance(positional[0], ast.Starred):
        return _in_sequence(positional[0], numbers, len(wanted))
    return _among(positional, numbers, len(wanted))


def tensor_argument(written: Written, name: str) -> ast.expr | None:
    """The tensor argument `name` as it stands; None where that cannot be told."""
    match written.node:
        case ast.BinOp(left=left, right=right) if len(written.op.operands) == 2:
            return right if written.op.position(name) else left
        case ast.Call() if written.call is not None:
            names = [argument.name for argument in schema_of(written.op.target).arguments]
            return _tensor_of_call(written.call, name, names)
    return None


def _tensor_of_call(call: WrittenCall, name: str, names: list[str]) -> ast.expr | None:
    first = "self" if call.is_method and "self" in names else names[0]
    if name == first:
        return call.tensor
    # Functions elsewhere may take the same arguments in another order.
    if not call.is_method and ast.unparse(call.node.func) != f"torch.{call.name}":
        return None
    names.remove(first)
    one, before = call.keyword(name), call.arguments[: names.index(name) + 1]
    if one is None and len(before) > names.index(name):
        one = before[-1]
    return None if any(isinstance(a, ast.Starred) for a in before) else one


def _in_sequence(node: ast.expr, numbers: Mapping[int, Any], count: int) -> list[Change] | None:
    """Changes that put `numbers`, by place, into a sequence of `count` numbers."""
    if isinstance(node, ast.Tuple | ast.List):
        return _among(node.elts, numbers, count)
    if not is_steady(node):
        return None
    text = with_numbers(node, numbers, count)
    return [Change(start_of(node), end_of(node), f"({text})" if count > 1 else f"({text},)")]


def _among(elements: Sequence[ast.expr], numbers: Mapping[int, Any], count: int) -> list[Change] | None:
    """The same where the sequence is written out, though for one that is spread among its elements."""
    stars = [n for n, one in enumerate(elements) if isinstance(one, ast.Starred)]
    spread = count - len(elements) + 1
    if len(stars) > 1 or (not stars and spread != 1):
        return None
    found: list[Change] = []
    inside: dict[int, Any] = {}
    star = stars[0] if stars else len(elements)
    for place, number in numbers.items():
        if star <= place < star + spread:
            inside[place - star] = number
        else:
            found.append(replace(elements[place if place < star else place - spread + 1], number))
    if inside:
        one = elements[star]
        assert isinstance(one, ast.Starred), "only what is spread has several places"
        if not is_steady(one.value):
            return None
        found.append(Change(start_of(one), end_of(one), with_numbers(one.value, inside, spread)))
    return found
