"""Sums of a stream and a branch, some of whose rows are constants.

As an operator that works element by element, a sum needs all rows of both operands. But rows of a branch that
are the same for every input need not be computed: the others are added to their places in the stream, and the
constants once for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from attrs import evolve, frozen
from torch import Tensor

from speedup.analyses.spare_rows import SpareRows, last_product, macs_before, spare_along
from speedup.engine.constraints import Constraint, Dim, Reason
from speedup.engine.lattice import Fact
from speedup.ir.graph import Graph, Op, Value
from speedup.rules import Rules, rule_of
from speedup.rules.extents import Extents
from speedup.rules.rule import matched


@frozen(eq=False)
class PartialSum(SpareRows):
    """The sum `op`, of whose operand number `operand` the rows along `dim` may go that are `spare`.

    See `SpareRows` for the others.
    """

    op: Op
    operand: int
    dim: int
    spare: Tensor
    constants: Tensor
    source: Op | None

    @property
    def restated(self) -> Op:
        """The op whose call is stated otherwise."""
        return self.op

    def moved(self, op_of: Callable[[Op], Op]) -> PartialSum:
        """The same in a graph where `op_of` tells what has become of each op."""
        source = None if self.source is None else op_of(self.source)
        return evolve(self, op=op_of(self.op), source=source)

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

    @property
    def is_constant(self) -> bool:
        """Whether no row follows the input."""
        return bool(self.spare.all())

    def couple(self) -> Iterator[Constraint]:
        """The constraints of the sum, in the place of those of its rule."""
        reason = Reason(self.op.index, "adds rows to those of a stream")
        values = (self.stream, self.op.result)
        dims = range(self.op.result.ndim)
        yield from matched(reason, values, dims)
        yield from matched(reason, (*values, self.rows), (d for d in dims if d != self.dim))
        yield self.subset(reason)


def find_partial_sums(graph: Graph, facts: Sequence[Fact], rules: Rules) -> tuple[PartialSum, ...]:
    """The sums whose rows, of one operand or the other, may go in part; in the order of the graph."""
    extents = Extents(graph, rules)
    found = []
    for op in graph.ops:
        options = [one for n in (0, 1) if (one := _partial_sum(op, n, facts, extents)) is not None]
        if options:
            # Where both may, all rows are computed of the one that follows the input, or else costs less.
            found.append(max(options, key=lambda one: (one.is_constant, macs_before(one.source, rules))))
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
    if extents.graph.is_fixed(rows):
        return None
    for dim, extent in enumerate(rows.shape):
        if any(_is_one_constant(facts[v.index], dim, extent) for v in op.operands):
            # The sum broadcasts it.
            continue
        spare, constants = spare_along(facts[rows.index], dim, extent)
        if bool(spare.any()) and not extents.varies(rows, dim):
            source = last_product(rows, extents.graph, extents.rules)
            return PartialSum(op, operand, dim, spare, constants, source)
    return None


def _is_one_constant(fact: Fact, dim: int, extent: int) -> bool:
    spare, constants = spare_along(fact, dim, extent)
    return bool(spare.all()) and bool((constants == constants[:1]).all())
