"""How a call or subscript in a forward's source is changed so that it states something else."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from attrs import frozen

from speedup.analyses.analysis import Analysis
from speedup.analyses.batch import may_count_batch
from speedup.ir.expressions import Derived, Settled, sizes_in
from speedup.ir.graph import Op
from speedup.lowerings import Lowering
from speedup.lowerings.lowering import Written
from speedup.lowerings.syntax import Change, Extent, end_of, read_call, start_of
from speedup.rules import rule_of
from speedup.rules.extents import Extents


@frozen
class Phrase:
    """Changes to make within an expression of a file, names they borrow, and a note of what they say."""

    extent: Extent
    changes: tuple[Change, ...]
    borrowed: tuple[str, ...] = ()
    note: str = ""


def phrase_of(
    op: Op,
    lowering: Lowering,
    node: ast.Call | ast.Subscript | ast.BinOp | ast.AugAssign,
    analysis: Analysis,
    scope: Mapping[str, Any],
    own: str | None,
) -> Phrase | None:
    """The changes that make `node`, which ran `op`, state `lowering`; None when it is too unusual.

    `scope` is what the function around `node` finds by name outside of itself; `own` is how it names the
    module, if it does.
    """
    call = read_call(node, scope) if isinstance(node, ast.Call) else None
    if isinstance(node, ast.Call):
        names = (op.name.rstrip("_"), *rule_of(op, analysis.rules).aliases)
        if call is None or call.name.rstrip("_") not in names:
            return None
    elif not isinstance(node, ast.Subscript) and not lowering.takes_operations:
        return None
    may_be_literal = partial(_may_be_literal, op, analysis)
    found = lowering.rewrite(Written(op, node, call, own, analysis.arguments(op), may_be_literal))
    if found is None:
        return None
    extent = start_of(node), end_of(node)
    return Phrase(extent, found, lowering.borrow(call), _note(node, found, lowering))


def _note(node: ast.expr | ast.stmt, changes: Sequence[Change], lowering: Lowering) -> str:
    told = [_brief(c.text.strip(" ,")) if lowering.takes_operations else c.text.strip() for c in changes]
    said = ", ".join(text for text in told if text not in ("", "(")).replace("(, ", "(..., ")
    whole = ast.unparse(node)
    short = whole if len(whole) <= 60 else "..." + whole[-57:]
    return f"{short} now with {said}" if said else f"{short} left out"


def _brief(text: str) -> str:
    """The text with long lists of numbers cut short."""
    return re.sub(r"\[((?:\d+, ){6})[\d, ]{12,}\]", r"[\1...]", text)


def _may_be_literal(op: Op, analysis: Analysis, name: str, place: int | None) -> bool:
    """Whether a number of `op` may become a literal: as a whole argument, or one of a list."""
    argument = op.arguments[name] if place is None else op.arguments[name][place]
    if place is None or name not in ("size", "shape"):
        return _is_settled(argument, analysis)
    if isinstance(argument, Derived) and _is_settled(argument, analysis):
        return True
    # What a size is derived from does not count where the plan sets the size itself.
    is_set = not isinstance(argument, Derived) or not analysis.kept.is_full((op.result.index, place))
    return is_set and not may_count_batch(op, name, place, analysis)


def _is_settled(argument: Any, analysis: Analysis) -> bool:
    """Whether a number was a literal, or only reads sizes that the plan sets, or that are always the same."""
    if isinstance(argument, Settled):
        return False
    if not isinstance(argument, Derived):
        return True
    extents, values = Extents(analysis.graph, analysis.rules), analysis.graph.values
    return all(
        not analysis.kept.is_full((s.value, s.dim)) or not extents.may_vary(values[s.value], s.dim)
        for s in sizes_in(argument.expression)
    )
