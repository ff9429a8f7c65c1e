"""What is known about a graph once its keep-sets are found: the value that plans are made from."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attrs import field, frozen
from torch import Tensor

from speedup.engine.constraints import Constraint, Dim
from speedup.engine.keepsets import KeepSets
from speedup.engine.lattice import Fact
from speedup.ir.expressions import AttributeOf, Root, recompute
from speedup.ir.graph import Graph, Op, Shape, Value
from speedup.ir.memo import Remembering
from speedup.ir.report import Choice
from speedup.lowerings import Lowering
from speedup.rules import Rules, rule_of
from speedup.rules.site import Site

Number = int | float


@frozen(eq=False)
class Analysis(Remembering):
    """Facts per value, sites per op, the keep-sets, and what the forward needs to carry them.

    `kept` is the least fixpoint of `constraints` above `seeds`; `resized` overrides shapes that
    keep-sets alone do not tell. `attributes` are integers of modules that get new values;
    `restated` says, by op, which calls the source has to state otherwise. Of an analysis with alignment,
    `unaligned` is the one without. `choices` are the lowerings that were taken or judged not to pay.
    """

    graph: Graph
    facts: tuple[Fact, ...]
    sites: tuple[Site, ...]
    rules: Rules
    kept: KeepSets
    seeds: Mapping[Dim, Tensor | None]
    constraints: tuple[Constraint, ...]
    resized: Mapping[int, Shape]
    attributes: Mapping[AttributeOf, Number] = field(factory=lambda: MappingProxyType({}))
    restated: Mapping[int, Lowering] = field(factory=lambda: MappingProxyType({}))
    unaligned: Analysis | None = None
    choices: tuple[Choice, ...] = ()
    _memo: dict[str, Any] = field(init=False, repr=False, factory=dict)

    def sizes(self, value: Value) -> Shape:
        """The shape of `value` in the small model."""
        override = self.resized.get(value.index)
        if override is not None:
            return override
        return tuple(self.kept.count((value.index, d)) for d in range(value.ndim))

    def known(self, value: Value) -> Tensor:
        """Bool, compressed: which elements of `value` are the same for every input."""
        return self.sites[0].known(value) if self.sites else self.facts[value.index].known

    def lookup(self, root: Root) -> Any:
        """What a size or an attribute is in the small model."""
        if isinstance(root, AttributeOf):
            return self.attributes.get(root, root.number)
        return self.sizes(self.graph.values[root.value])[root.dim]

    def arguments(self, op: Op) -> dict[str, Any]:
        """The arguments of `op` as the small model's forward will pass them."""
        site = self.sites[op.index]
        needs = rule_of(op, self.rules).needs(site, self.sizes, self.kept)
        return {
            name: needs[name] if name in needs and name in site.settable else recompute(argument, self.lookup)
            for name, argument in op.arguments.items()
        }

    def macs(self, op: Op) -> int:
        """The multiply-accumulates of `op` in the small model."""
        lowering = self.restated.get(op.index)
        more = 0 if lowering is None else lowering.macs(op, self.sizes)
        return rule_of(op, self.rules).macs(op, self.sizes) + more

    @property
    def restated_paths(self) -> frozenset[str]:
        """Modules whose own forward is stated otherwise."""
        return frozenset(self.graph.ops[number].owner.path for number in self.restated)
