"""A plan's graph with what was found out about it, for whoever mends a rule. Its form may change."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.engine.lattice import any_along
from speedup.ir.graph import Op, Value
from speedup.plan import Plan
from speedup.planning.planner import find_solution, request_of
from speedup.rules import rule_of
from speedup.rules.rule import UNKNOWN_OPERATOR


def debug(plan: Plan) -> str:
    """The graph of a plan, an op to a line, with facts, keep-sets and reasons below it.

    It is planned again, of the model as it is now.

    Raises:
        UnboundPlanError: the plan was read back, and so does not say how it was made.
    """
    with torch.inference_mode(mode=False), torch.no_grad():
        return graph_text(find_solution(request_of(plan)).analysis)


def graph_text(analysis: Analysis) -> str:
    """The graph of an analysis: state and inputs, then each op with its results.

    Below a value, for each dimension that says something: how many of its indices are constant ("known"),
    read by nobody ("dead") and kept; below an op, its constraints' reasons.
    """
    return "\n".join(_lines(analysis))


def _lines(analysis: Analysis) -> Iterator[str]:
    graph = analysis.graph
    for value in graph.values:
        if graph.producer[value.index] is None:
            yield f"%{value.index} = {value.origin.name.lower()} {value.name} {list(value.shape)}"
            yield from _of_value(value, analysis)
    reasons: dict[int, dict[str, None]] = {}
    for constraint in analysis.constraints:
        if constraint.reason.op is not None:
            words = f"{type(constraint).__name__.lower()}: {constraint.reason.words}"
            reasons.setdefault(constraint.reason.op, {})[words] = None
    for op in graph.ops:
        if op.index in graph.starts[1:]:
            yield f"-- call {graph.call_of(op.index)}"
        yield _of_op(op, analysis)
        for result in op.results:
            yield from _of_value(result, analysis)
        yield from (f"      {words}" for words in reasons.get(op.index, ()))
    for guard in graph.guards:
        yield f"guard {guard.expression} is {guard.outcome} at {guard.where}"
    yield f"return {', '.join(f'%{value.index}' for value in graph.outputs)}"


def _of_op(op: Op, analysis: Analysis) -> str:
    results = ", ".join(f"%{r.index} {list(r.shape)}" for r in op.results)
    operands = ", ".join(f"%{v.index}" for v in op.operands)
    rule = " (no rule)" if rule_of(op, analysis.rules) is UNKNOWN_OPERATOR else ""
    where = f" in {op.owner.path}" if op.owner.path else ""
    return f"{op.index:4}: {results} = {op.target}({operands}){where}{rule}"


def _of_value(value: Value, analysis: Analysis) -> Iterator[str]:
    known, live = analysis.known(value), analysis.sites[0].lives[value.index]
    for dim, extent in enumerate(value.shape):
        kept = analysis.kept[(value.index, dim)]
        parts = {
            "known": ~any_along(~known, dim, extent),
            "dead": ~any_along(live, dim, extent),
            "kept": kept if not bool(kept.all()) else torch.zeros(0, dtype=torch.bool),
        }
        said = [f"{name} {_count_text(found)}" for name, found in parts.items() if bool(found.any())]
        if said:
            yield f"        %{value.index} dim {dim}: {', '.join(said)}"


def _count_text(indices: Tensor) -> str:
    listed = indices.nonzero().reshape(-1).tolist()
    few = ", ".join(map(str, listed[:8])) + (", ..." if len(listed) > 8 else "")
    return f"{len(listed)} of {indices.numel()} ({few})"
