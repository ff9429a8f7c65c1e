"""Which elements are the same for every input: one forward pass over the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from attrs import evolve
from torch import Tensor

from speedup.analyses.every_size import bounds_in_every_form, forms_at_every_size, known_in_every_form
from speedup.analyses.steadiness import steady_facts
from speedup.engine.lattice import Fact, constant, fact, unknown
from speedup.errors import RuleError
from speedup.ir.evaluation import evaluate
from speedup.ir.expressions import Argument, Settled
from speedup.ir.graph import Graph, Op, Value
from speedup.rules import Rules, rule_of
from speedup.rules.extents import Extents, numbers_follow
from speedup.rules.rule import full_values


def find_constants(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    rules: Rules,
) -> tuple[Fact, ...]:
    """The fact of every value, by index. `masks` are keep-masks by the name of a state value.

    Raises:
        RuleError: a rule returned facts of another number or rank than the op has results.
    """
    facts: list[Fact] = [unknown(v.ndim, v.dtype) for v in graph.values]
    for value in graph.state:
        # What one call writes, the next one reads.
        if value not in graph.written:
            facts[value.index] = _state(tensors[value.name], masks.get(value.name))
    extents = Extents(graph, rules)
    for op in graph.ops:
        seen = _settle_op(op, facts)
        given = steady_facts(seen, [facts[v.index] for v in seen.operands], rules, extents)
        for result, found in zip(op.results, _transfer(seen, given, rules, extents), strict=True):
            facts[result.index] = _of_any_size(found, result, extents)
    return tuple(facts)


def _of_any_size(found: Fact, result: Value, extents: Extents) -> Fact:
    varies = not found.is_unknown and any(extents.may_vary(result, dim) for dim in range(result.ndim))
    return evolve(found, varies=True) if varies else found


def settle_numbers(graph: Graph, facts: Sequence[Fact]) -> Graph:
    """`graph` with numbers in the place of those that ops read from tensors and that are always the same.

    Rules then see what a forward that states these numbers would show. What is computed stays the same.
    """
    ops = tuple(_settle_op(op, facts) for op in graph.ops)
    is_same = all(one is other for one, other in zip(ops, graph.ops, strict=True))
    return graph if is_same else evolve(graph, ops=ops)


def _settle_op(op: Op, facts: Sequence[Fact]) -> Op:
    if not any(v.is_number for v in op.operands) or any(r.is_number for r in op.results):
        return op

    def settle(argument: Argument) -> Argument:
        if isinstance(argument, tuple):
            return tuple(settle(a) for a in argument)
        if isinstance(argument, Value) and argument.is_number and facts[argument.index].is_all_known():
            return Settled(argument, facts[argument.index].value.item())
        return argument

    return evolve(op, arguments=MappingProxyType({n: settle(a) for n, a in op.arguments.items()}))


def _state(tensor: Tensor, mask: Tensor | None) -> Fact:
    if tensor.is_meta:
        if mask is None:
            return unknown(tensor.ndim, tensor.dtype)
        return fact(~mask.cpu(), torch.zeros(tuple(mask.shape), dtype=tensor.dtype))
    return evolve(constant(tensor.cpu(), None if mask is None else mask.cpu()), stated=None)


def _transfer(op: Op, facts: Sequence[Fact], rules: Rules, extents: Extents) -> Sequence[Fact]:
    rule = rule_of(op, rules)
    forms = forms_at_every_size(op, rule, extents)
    found = known_in_every_form(op, facts, rule, forms)
    ranks = [f.ndim for f in found]
    if ranks != [r.ndim for r in op.results]:
        raise RuleError(f"the rule of {op.label} returned facts of ranks {ranks} for {op.results}")
    if forms == (op,) and not all(f.is_all_known() for f in found) and _can_run(op, facts, extents):
        found = [constant(t) for t in evaluate(op, [v.contiguous() for v in full_values(op, facts)])]
    bounds = bounds_in_every_form(op, facts, rule, forms)
    return [f if b.is_open else evolve(f, stated=b) for f, b in zip(found, bounds, strict=True)]


def _can_run(op: Op, facts: Sequence[Fact], extents: Extents) -> bool:
    """Whether the op is a pure function of constants, given element by element or of one size only.

    What it makes of numbers that follow the inputs' sizes, as a table of positions that is stretched to them,
    is a constant of the example's sizes alone.
    """
    deterministic = torch.Tag.nondeterministic_seeded not in op.target.tags and op.target.namespace == "aten"
    given = all(
        f.is_given(v.shape) or (f.is_all_known() and not any(extents.may_vary(v, d) for d in range(v.ndim)))
        for f, v in zip(facts, op.operands, strict=True)
    )
    is_pure = bool(facts) and bool(op.results) and deterministic and given
    return is_pure and not any(numbers_follow(extents, op, name) for name in op.arguments)
