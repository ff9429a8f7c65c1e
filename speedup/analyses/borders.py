"""Which elements are the same for every input but near the ends of their axes: a second forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from speedup.analyses.constants import settle_numbers
from speedup.engine.borders import Bordered
from speedup.engine.lattice import Fact, indicator
from speedup.ir.graph import Graph, Op
from speedup.rules import Rules, rule_of
from speedup.rules.rule import Rule


def find_borders(graph: Graph, facts: Sequence[Fact], rules: Rules) -> Mapping[int, Bordered]:
    """By value index, what is known class by class of values of which `facts` say less.

    A value is among them if every op that reads its elements can be told; for any other it is Unknown.
    """
    graph = settle_numbers(graph, facts)
    found: dict[int, Bordered] = {}
    told: set[int] = set()
    for op in graph.ops:
        rule = rule_of(op, rules)
        made = _made_by(op, rule, [found.get(v.index, facts[v.index]) for v in op.operands])
        if made is not None or rule.takes_borders or not _reads_any(op, rule, facts, found):
            told.add(op.index)
        if made is not None and _says_more(made, facts[op.result.index]):
            found[op.result.index] = made
    return MappingProxyType({v: one for v, one in found.items() if told.issuperset(graph.readers[v])})


def _made_by(op: Op, rule: Rule, operands: Sequence[Bordered | Fact]) -> Bordered | None:
    # Numbers that follow the sizes of inputs are others at other sizes.
    if rule.at_borders is None or len(op.results) != 1 or (op.follows_sizes() and not rule.reads_sizes):
        return None
    return rule.at_borders(op, operands)


def _reads_any(op: Op, rule: Rule, facts: Sequence[Fact], found: Mapping[int, Bordered]) -> bool:
    """Whether the op reads an element of what is known class by class, and not only how large it is."""
    if not any(v.index in found for v in op.operands):
        return False
    everything = [indicator(True, r.ndim) for r in op.results]
    reads = rule.live(op, [facts[v.index] for v in op.operands], everything)
    return any(bool(r.any()) for v, r in zip(op.operands, reads, strict=True) if v.index in found)


def _says_more(made: Bordered, found: Fact) -> bool:
    """Whether `made` knows more than `found`, and not less: what is known by position only has no class."""
    known = made.is_known()
    return bool((known & ~found.known).any()) and not bool((found.known & ~known).any())
