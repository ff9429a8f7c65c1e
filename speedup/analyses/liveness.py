"""Which elements anything reads: one backward pass over the graph.

An element is live when the model returns it, or a live element depends on it with a
coefficient that may be other than 0. That a live element is constant does not make what it
is computed from dead: if it is kept after all, it must still come out right.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from speedup.analyses.constants import settle_numbers
from speedup.analyses.steadiness import steady_reads
from speedup.engine.lattice import Fact, indicator
from speedup.errors import RuleError
from speedup.ir.graph import Graph, read_in
from speedup.rules import Rules, rule_of
from speedup.rules.extents import Extents


def find_liveness(graph: Graph, facts: Sequence[Fact], rules: Rules) -> tuple[Tensor, ...]:
    """Compressed bool tensors by value index: which elements are live.

    Raises:
        RuleError: a rule returned tensors of another number or rank than the op has operands.
    """
    live = [indicator(False, v.ndim) for v in graph.values]
    for value in graph.outputs:
        live[value.index] = indicator(True, value.ndim)
    extents = Extents(graph, rules)
    for op in reversed(settle_numbers(graph, facts).ops):
        results = [live[r.index] for r in op.results]
        if op.results and not any(bool(one.any()) for one in results):
            continue
        reads = rule_of(op, rules).live(op, [facts[v.index] for v in op.operands], results)
        if [r.ndim for r in reads] != [v.ndim for v in op.operands]:
            raise RuleError(f"the rule of {op.label} returned liveness of ranks {[r.ndim for r in reads]}")
        reads = steady_reads(op, reads, rules, extents)
        for operand, read in zip(op.operands, reads, strict=True):
            before = live[operand.index]
            live[operand.index] = read if before.numel() == 1 and not bool(before) else before | read
        for number in read_in(tuple(op.arguments.values())):
            if number.is_number:
                # Known or not, the forward computes it anew.
                live[number.index] = indicator(True, 0)
    return tuple(live)
