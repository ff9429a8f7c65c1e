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
from speedup.lowerings.syntax import Change, WrittenCall, element_of, replace
from speedup.torch_api import schema_of


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
    parts = _parts(one, call.arguments[place:] if place >= 0 else (), len(wanted))
    if parts is None:
        return None
    changed = [n for n, (new, old) in enumerate(zip(wanted, written.given[name], strict=True)) if new != old]
    if not all(written.may_be_literal(name, n) for n in changed):
        return None
    return [replace(parts[n], wanted[n]) for n in changed]


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
