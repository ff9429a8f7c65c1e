"""Sums of a stream and a branch, some of whose rows are constants.

As an operator that works element by element, a sum needs all rows of both operands. But rows of a branch that
are the same for every input need not be computed: the others are added to their places in the stream, and the
constants once for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from attrs import frozen
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.engine.constraints import Constraint, Dim, Reason, Subset
from speedup.engine.lattice import Fact, state_along
from speedup.ir.graph import Graph, Op, Value
from speedup.rules import Rules, rule_of
from speedup.rules.extents import Extents
from speedup.rules.rule import matched

_FARTHEST = 12


@frozen(eq=False)
class PartialSum:
    """The sum `op`, of whose operand number `operand` the rows along `dim` may go that are `spare`.

    `spare` (bool vector) are those that are one constant each, `constants` (vector) which; 0 elsewhere. The
    rows come from `source`, the last op before the sum that multiplies; None where none is near.
    """

    op: Op
    operand: int
    dim: int
    spare: Tensor
    constants: Tensor
    source: Op | None

    @property
    def rows(self) -> Value:
        """The operand that need not have all rows."""
        return self.op.operands[self.operand]

    @property
    def stream(self) -> Value:
        """The operand that has them."""
        return self.op.operands[1 - self.operand]

    @property
    def part(self) -> Dim:
        """The dimension of the rows."""
        return self.rows.index, self.dim

    @property
    def whole(self) -> Dim:
        """The dimension of the sum that they are added along."""
        return self.op.result.index, self.dim

    def couple(self) -> Iterator[Constraint]:
        """The constraints of the sum, in the place of those of its rule."""
        reason = Reason(self.op.index, "adds rows to those of a stream")
        values = (self.stream, self.op.result)
        dims = range(self.op.result.ndim)
        yield from matched(reason, values, dims)
        yield from matched(reason, (*values, self.rows), (d for d in dims if d != self.dim))
        yield Subset(self.part, self.whole, self.spare, reason)

    def is_partial(self, analysis: Analysis) -> bool:
        """Whether some of the rows that the sum keeps are not those of the operand."""
        return analysis.kept.count(self.part) < analysis.kept.count(self.whole)

    def places(self, analysis: Analysis) -> tuple[int, ...]:
        """Where the rows that are kept belong, among the indices that the sum keeps."""
        part, whole = analysis.kept[self.part], analysis.kept[self.whole]
        return tuple(part[whole].nonzero().reshape(-1).tolist())

    def bias(self, analysis: Analysis) -> Tensor:
        """What the rows that are dropped would add, for each index that the sum keeps."""
        part, whole = analysis.kept[self.part], analysis.kept[self.whole]
        return torch.where(part, 0, self.constants)[whole]


def find_partial_sums(graph: Graph, facts: Sequence[Fact], rules: Rules) -> tuple[PartialSum, ...]:
    """The sums whose rows, of one operand or the other, may go in part; in the order of the graph."""
    extents = Extents(graph, rules)
    found = []
    for op in graph.ops:
        options = [one for n in (0, 1) if (one := _partial_sum(op, n, facts, extents)) is not None]
        if options:
            # Where both may, all rows are computed of the one that costs less.
            found.append(max(options, key=lambda one: _macs(one.source, rules)))
    return tuple(found)


def _partial_sum(op: Op, operand: int, facts: Sequence[Fact], extents: Extents) -> PartialSum | None:
    if not rule_of(op, extents.rules).is_sum or len(op.operands) != 2 or op.is_rigid or not op.calls:
        return None
    rows, stream = op.operands[operand], op.operands[1 - operand]
    alike = rows.shape == stream.shape == op.result.shape and rows.dtype == stream.dtype == op.result.dtype
    if not alike or rows is stream or rows.is_state or not rows.dtype.is_floating_point:
        return None
    if op.get("alpha", 1) != 1 or facts[rows.index].is_unknown:
        return None
    for dim, extent in enumerate(rows.shape):
        known, uniform, value = state_along(facts[rows.index], dim, extent)
        spare = known & uniform
        if bool(spare.any()) and not bool(spare.all()) and not extents.varies(rows, dim):
            source = _source(rows, extents.graph, extents.rules)
            return PartialSum(op, operand, dim, spare, torch.where(spare, value, 0), source)
    return None


def _source(value: Value, graph: Graph, rules: Rules) -> Op | None:
    """The last op that multiplies of those that `value` is computed by, with but a few behind it."""
    for _ in range(_FARTHEST):
        number = graph.producer[value.index]
        if number is None or not graph.ops[number].operands:
            return None
        op = graph.ops[number]
        if _macs(op, rules):
            return op
        value = op.operands[0]
    return None


def _macs(op: Op | None, rules: Rules) -> int:
    return 0 if op is None else rule_of(op, rules).macs(op, lambda value: value.shape)
