"""Rows that an op needs all of though some are constants: they can be put in before it, uncomputed.

A norm takes its statistics over zeros too, and a view splits whole extents. So what makes the rows had to
make them all. Where the constants are put in between, only the others are computed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from attrs import frozen
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.analyses.spare_rows import SpareRows, last_product, macs_before, spare_along
from speedup.engine.constraints import Constraint, Dim, Reason
from speedup.engine.lattice import Fact
from speedup.ir.graph import Frame, Op, Value
from speedup.ir.inserting import Inserted
from speedup.rules import rule_of
from speedup.rules.extents import Extents
from speedup.rules.rule import matched
from speedup.torch_api import schema_of


@frozen(eq=False)
class Fill(SpareRows):
    """Before `reader`, an op that needs all rows of its `argument` along `dim`, `copy` may put in constants.

    See `SpareRows` for the others.
    """

    copy: Op
    reader: Op
    argument: str
    dim: int
    spare: Tensor
    constants: Tensor
    source: Op

    @property
    def restated(self) -> Op:
        """The op whose call is stated otherwise."""
        return self.reader

    @property
    def place(self) -> tuple[str, Frame, str]:
        """Two arguments of a call may be given constants."""
        path, line, _ = super().place
        return path, line, self.argument

    @property
    def part(self) -> Dim:
        """The dimension of the rows that are computed."""
        return self.copy.operands[0].index, self.dim

    @property
    def whole(self) -> Dim:
        """The dimension of all of them."""
        return self.copy.result.index, self.dim

    def couple(self) -> Iterator[Constraint]:
        """The constraints of the copy."""
        reason = Reason(self.reader.index, "is given constants that are not computed")
        values = (self.copy.operands[0], self.copy.result)
        yield from matched(reason, values, (d for d in range(self.copy.result.ndim) if d != self.dim))
        yield self.subset(reason)


@frozen(eq=False)
class Gap:
    """Along `dim` of the `argument` of `reader`, `spare` rows are constants that it needs all the same."""

    reader: Op
    argument: str
    dim: int
    spare: Tensor
    constants: Tensor
    source: Op

    def filled(self, inserted: Inserted) -> Fill:
        """The same in a graph where a copy stands before the reader."""
        reader, source = inserted.op(self.reader), inserted.op(self.source)
        copy = inserted.copies[reader.index, self.argument]
        return Fill(copy, reader, self.argument, self.dim, self.spare, self.constants, source)


def find_gaps(analysis: Analysis, apart: Collection[int]) -> tuple[Gap, ...]:
    """Where constants are computed since the last op that knows of them needs all rows.

    Ops number `apart` are carried in other ways.
    """
    return tuple(gap for op in analysis.graph.ops if op.index not in apart for gap in _gaps(op, analysis))


def _gaps(op: Op, analysis: Analysis) -> Iterator[Gap]:
    if not op.calls or op.is_rigid or schema_of(op.target).is_mutable:
        return
    product = rule_of(op, analysis.rules).weight.product(analysis.sites[op.index])
    # A product leaves out what it does not need, but for groups, which are equal.
    if macs_before(op, analysis.rules) and (product is None or product.groups == 1):
        return
    for name, rows in op.arguments.items():
        if isinstance(rows, Value) and (gap := _gap(op, name, rows, analysis)) is not None:
            yield gap


def _gap(op: Op, argument: str, rows: Value, analysis: Analysis) -> Gap | None:
    graph, rules = analysis.graph, analysis.rules
    if rows.is_state or rows.is_number or not rows.dtype.is_floating_point:
        return None
    if graph.producer[rows.index] is None or analysis.facts[rows.index].is_unknown:
        return None
    for dim in range(rows.ndim):
        spare, constants = spare_along(analysis.facts[rows.index], dim, rows.shape[dim])
        if bool(spare.all()) or not bool((spare & analysis.kept[(rows.index, dim)]).any()):
            continue
        count = int(spare.sum())
        if any(_known_rows(analysis.facts[r.index], r) >= count for r in op.results):
            continue
        source = last_product(rows, graph, rules)
        if source is not None and not Extents(graph, rules).varies(rows, dim):
            return Gap(op, argument, dim, spare, constants, source)
    return None


def _known_rows(fact: Fact, value: Value) -> int:
    """Along the dimension where these are most, how many indices of `value` are one constant each."""
    if fact.is_unknown:
        return 0
    return max((int(spare_along(fact, d, n)[0].sum()) for d, n in enumerate(value.shape)), default=0)
