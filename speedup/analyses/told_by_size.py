"""What ops do to dimensions of one extent by numbers that follow the inputs' sizes: these stay whole.

`x[..., n % 3]`, `x.roll(n, -1)`, `x.chunk(n, -1)`: which elements end up where is another matter in
each call. Where the dimension itself varies with the inputs nothing of it goes anyway.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from speedup.analyses.steadiness import moved_axes
from speedup.engine.constraints import Constraint, Pinned
from speedup.ir.graph import Op, Value
from speedup.rules import rule_of
from speedup.rules.extents import STATED_SIZES, Extents, holds_following, numbers_follow
from speedup.rules.moves import axis_of
from speedup.rules.rule import Rule
from speedup.rules.site import Site

_DIMS = ("dim", "dims", "dimension")


def kept_as_told_by_size(site: Site, extents: Extents) -> Iterable[Constraint]:
    """The constraints that keep them."""
    op, rule = site.op, rule_of(site.op, extents.rules)
    if rule.is_local:
        return
    # Sizes that are stated say how much there is, but where they are those of windows.
    names = [name for name in op.arguments if name not in STATED_SIZES or "dimension" in op.arguments]
    told = [name for name in names if numbers_follow(extents, op, name)]
    if not told:
        return
    reason = site.because("a slice that depends on the input's size reads it")
    for value, dim in _places(op, rule, told, extents):
        if not extents.may_vary(value, dim):
            yield Pinned((value.index, dim), reason)


def _places(op: Op, rule: Rule, told: Collection[str], extents: Extents) -> Iterator[tuple[Value, int]]:
    values = [v for v in (*op.operands, *op.results) if v.ndim]
    if any(name in _DIMS for name in told):
        yield from ((value, dim) for value in values for dim in range(value.ndim))
    elif isinstance(op.get("dimension"), int):
        yield from ((value, axis_of(op["dimension"], op.operands[0].ndim)) for value in values)
    elif rule.moves is not None:
        for value in values:
            yield from ((value, dim) for dim in _axes(op, value, rule, told, extents))


def _axes(op: Op, value: Value, rule: Rule, told: Collection[str], extents: Extents) -> Iterable[int]:
    """The dimensions that the numbers are for."""
    if rule.arrangement == "pads":
        amounts = op.arguments["pad"]
        return {value.ndim - 1 - n // 2 for n in _following(amounts, extents) if n // 2 < value.ndim}
    if "repeats" in told and isinstance(op.arguments["repeats"], tuple):
        behind = len(op.arguments["repeats"]) - value.ndim
        return {n - behind for n in _following(op.arguments["repeats"], extents) if n >= behind}
    return moved_axes(op, value, rule)


def _following(numbers: Any, extents: Extents) -> Sequence[int]:
    """The places of a list at which a number follows the inputs' sizes."""
    listed = numbers if isinstance(numbers, tuple) else (numbers,)
    return [n for n, one in enumerate(listed) if holds_following(extents, one)]
