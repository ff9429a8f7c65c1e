"""Rows of an operand that need not be computed since they are constants, where all are wanted in the end."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.analyses.restating import Restating
from speedup.engine.constraints import Dim, Reason, Subset
from speedup.engine.lattice import Fact, state_along
from speedup.ir.graph import Graph, Op, Value
from speedup.rules import Rules, rule_of

_FARTHEST = 12


class PartialRows(Restating):
    """Rows along one dimension, some of which are not computed though all count."""

    @property
    @abstractmethod
    def spare(self) -> Tensor:
        """Bool vector: the rows that need not be computed."""

    @property
    @abstractmethod
    def part(self) -> Dim:
        """The dimension of the rows that are computed."""

    @property
    @abstractmethod
    def whole(self) -> Dim:
        """The dimension where all are wanted."""

    def subset(self, reason: Reason) -> Subset:
        """What the two dimensions keep."""
        return Subset(self.part, self.whole, self.spare, reason)

    def is_partial(self, analysis: Analysis) -> bool:
        """Whether some of the rows that are wanted are not computed."""
        return analysis.kept.count(self.part) < analysis.kept.count(self.whole)

    def places(self, analysis: Analysis) -> tuple[int, ...]:
        """Where the rows that are computed belong, among those that are wanted."""
        part, whole = analysis.kept[self.part], analysis.kept[self.whole]
        return tuple(part[whole].nonzero().reshape(-1).tolist())


class SpareRows(PartialRows):
    """Rows of which the `spare` ones are one constant each: `constants` (vector) says which, and is 0
    elsewhere. They come from `source`, the last op before that multiplies; None where none is near.
    """

    constants: Tensor
    source: Op | None

    def left_out(self, analysis: Analysis) -> Tensor:
        """For each row that is wanted, its constant if it is not computed, else 0."""
        part, whole = analysis.kept[self.part], analysis.kept[self.whole]
        return torch.where(part, 0, self.constants)[whole]


def spare_along(fact: Fact, dim: int, extent: int) -> tuple[Tensor, Tensor]:
    """Which indices of `dim` are one constant each, at every place; and these, 0 elsewhere."""
    known, uniform, value = state_along(fact, dim, extent)
    spare = known & uniform
    return spare, torch.where(spare, value, 0)


def last_product(value: Value, graph: Graph, rules: Rules) -> Op | None:
    """The last op that multiplies of those that `value` is computed by, with but a few behind it.

    Of several operands the first is followed that is computed at all: parameters may stand on either side.
    """
    computed: tuple[Value, ...] = (value,)
    for _ in range(_FARTHEST):
        number = next((n for v in computed if (n := graph.producer[v.index]) is not None), None)
        if number is None:
            return None
        op = graph.ops[number]
        if macs_before(op, rules):
            return op
        computed = op.operands
    return None


def macs_before(op: Op | None, rules: Rules) -> int:
    """The multiply-accumulates of an op as it was traced."""
    return 0 if op is None else rule_of(op, rules).macs(op, lambda value: value.shape)
