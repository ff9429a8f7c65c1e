"""The way by the model's own numbers: integers that modules keep are set so that calls come out right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from speedup.analyses.analysis import Analysis
from speedup.forwards.native import wanted_arguments
from speedup.forwards.solving import Equation, components, related_equations, solve_attributes
from speedup.ir.expressions import AttributeOf, Derived, attributes_in, derived_in
from speedup.ir.graph import Op
from speedup.rules import rule_of


def solve_numbers(
    analysis: Analysis, failing: Sequence[Op], own_numbers: frozenset[str]
) -> Mapping[AttributeOf, Any]:
    """New numbers for the attributes that failing ops read; none where no numbers would do."""
    first = {a for op in failing for e in _equations(op, analysis) for a in e.unknowns}
    if not first:
        return MappingProxyType({})
    equations = [e for op in analysis.graph.ops for e in _equations(op, analysis)]
    equations += [Equation(g.expression, g.outcome) for g in analysis.graph.guards]
    equations = [e for e in equations if e.unknowns]
    fixed = {r: r.number for r in analysis.graph.opaque_roots if isinstance(r, AttributeOf)}
    fixed.update({a: a.number for e in equations for a in e.unknowns if a.path in own_numbers})
    fixed.update(_of_layers(analysis, first))
    found: dict[AttributeOf, Any] = {}
    for component in components(related_equations(equations, first)):
        found.update(solve_attributes(component, fixed, analysis.lookup) or {})
    return MappingProxyType({a: n for a, n in found.items() if n != a.number})


def _of_layers(analysis: Analysis, attributes: Iterable[AttributeOf]) -> Mapping[AttributeOf, Any]:
    """Attributes that describe the tensors of torch's own layers, and so follow from them."""
    paths = {a.path for a in attributes}
    found: dict[AttributeOf, Any] = {}
    for op in analysis.graph.ops:
        if op.owner.path in paths:
            layer = rule_of(op, analysis.rules).weight
            after = layer.attributes_of(op, analysis.sizes)
            for name, before in layer.attributes_of(op, lambda v: v.shape).items():
                if isinstance(before, int):
                    found[AttributeOf(op.owner.path, name, before)] = after[name]
    return found


def _equations(op: Op, analysis: Analysis) -> Iterator[Equation]:
    """What the numbers that the op gets from attributes have to be."""
    if not any(next(attributes_in(d.expression), None) for d in derived_in(tuple(op.arguments.values()))):
        return
    wanted = wanted_arguments(op, analysis)
    for name, argument in op.arguments.items():
        yield from _pair(argument, wanted[name])


def _pair(argument: Any, wanted: Any) -> Iterator[Equation]:
    if isinstance(argument, tuple) and isinstance(wanted, tuple):
        for one, other in zip(argument, wanted, strict=False):
            yield from _pair(one, other)
    elif isinstance(argument, Derived) and wanted != -1:
        yield Equation(argument.expression, wanted)


def reads(op: Op, attributes: Mapping[AttributeOf, Any]) -> bool:
    """Whether an argument of `op` is derived from one of the `attributes`."""
    found = derived_in(tuple(op.arguments.values()))
    return any(a in attributes for d in found for a in attributes_in(d.expression))
