"""One op in its graph, as its rule gets to see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from attrs import evolve, field, frozen
from torch import Tensor

from speedup.engine.borders import Bordered
from speedup.engine.constraints import Reason
from speedup.engine.lattice import Fact
from speedup.ir.graph import Graph, Op, Origin, Value
from speedup.ir.memo import Remembering


@frozen(eq=False)
class Site(Remembering):
    """One op in its graph, with what the analyses found: the view that coupling rules get."""

    graph: Graph
    op: Op
    facts: Sequence[Fact]
    lives: Sequence[Tensor]
    # Arguments of this op that its torch.nn module keeps as attributes, so that they can change.
    settable: frozenset[str] = frozenset()
    # Whether a missing bias can be given to the module that runs this op.
    may_add_bias: bool = False
    # By value index, what is known of it near the ends of its axes and not everywhere.
    borders: Mapping[int, Bordered] = field(factory=lambda: MappingProxyType({}))
    # Whether what this op makes of constants that differ near ends is added to its result.
    is_mapped: bool = False
    _memo: dict[str, Any] = field(factory=dict, repr=False, alias="memo")

    def fact(self, value: Value) -> Fact:
        return self.facts[value.index]

    def bordered(self, value: Value) -> Bordered | None:
        """What is known of `value` near the ends of its axes; None where that is no more than its fact."""
        return self.borders.get(value.index)

    def known(self, value: Value) -> Tensor:
        """Bool, compressed: which elements of `value` are the same for every input, near ends or not."""
        known, bordered = self.fact(value).known, self.bordered(value)
        return known if bordered is None else known | bordered.is_known()

    def live(self, value: Value) -> Tensor:
        """Bool, compressed: which elements of `value` anything reads."""
        return self.lives[value.index]

    def operand(self, name: str) -> Value | None:
        """The tensor argument `name`, None when it was not given."""
        argument = self.op.arguments.get(name)
        return argument if isinstance(argument, Value) else None

    def because(self, reason: str) -> Reason:
        return Reason(self.op.index, reason)

    def is_own(self, value: Value | None) -> bool:
        """Whether `value` is a parameter or buffer that only this op reads, and reads once."""
        return self.counterparts(value) == (self.op.index,)

    def counterparts(self, value: Value | None) -> tuple[int, ...]:
        """The ops that read the parameter or buffer `value`, this one among them, if in each of the graph's
        calls there is one at most, and it reads it as this one does. Empty when there are others.
        """
        if value is None or value.origin not in (Origin.PARAMETER, Origin.BUFFER):
            return ()
        return self.graph.counterparts(value, self.op)

    def at(self, op: int) -> Site:
        """The same for op number `op`, a counterpart of this one."""
        return self if op == self.op.index else evolve(self, op=self.graph.ops[op], memo={})
