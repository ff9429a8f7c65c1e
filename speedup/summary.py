"""What a plan tells: layers before and after, and what could go but stays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from types import MappingProxyType

from torch import nn

from speedup.analysis import Analysis
from speedup.blockers import blockers_of
from speedup.edits import AddToParameter, AdoptAttention, Edit, MergeColumns, NewBias, RewriteForward
from speedup.graph import Graph, Op, Origin, Shape, Value
from speedup.islands import Survey
from speedup.native import hyperparameters
from speedup.reasons import blocked_channels, portions, withheld
from speedup.report import Layer, Member, Report
from speedup.rules import Rules, rule_for
from speedup.rules.rule import UNKNOWN_OPERATOR, Sizes

_NOT_TRACED = "code that could not be traced reads them"


def report_of(
    model: nn.Module, analysis: Analysis, edits: Sequence[Edit], found: Survey, masked: Iterable[str]
) -> Report:
    """The report of a plan with these `edits`; `masked` names the parameters that have masks."""
    stays = withheld(analysis, "the model returns them" if found.islands is None else _NOT_TRACED)
    layers = _layers(model, analysis, edits)
    parameters = sum(p.numel() for p in model.parameters())
    return Report(
        layers=layers,
        blocked=blocked_channels(stays),
        unknown_operators=_unknown(analysis.graph, analysis.rules),
        parameters=(parameters, parameters + _parameter_change(analysis, edits)),
        macs=(sum(layer.macs_before for layer in layers), sum(layer.macs_after for layer in layers)),
        islands=found.inside,
        outside=found.outside,
        blockers=blockers_of(analysis, stays),
        portions=portions(analysis, stays, masked),
        members=tuple(Member(path, type(m).__name__) for path, m in model.named_modules()),
    )


def _unknown(graph: Graph, rules: Rules) -> tuple[str, ...]:
    names = (str(op.target) for op in graph.ops if rule_for(op.target, rules) is UNKNOWN_OPERATOR)
    return tuple(dict.fromkeys(names))


def _original(value: Value) -> Shape:
    return value.shape


def _parameter_change(analysis: Analysis, edits: Sequence[Edit]) -> int:
    change = sum(e.value.tensor.numel() for e in edits if isinstance(e, NewBias))
    for value in analysis.graph.state:
        if value.origin is Origin.PARAMETER:
            change += prod(analysis.sizes(value)) - prod(value.shape)
    return change


def _layers(model: nn.Module, analysis: Analysis, edits: Sequence[Edit]) -> tuple[Layer, ...]:
    """One entry per module that holds parameters or does counted work, in the order of first use."""
    graph = analysis.graph
    by_owner: dict[str, list[Op]] = {}
    for op in graph.ops:
        by_owner.setdefault(op.owner.path, []).append(op)
    by_name = {v.name: v for v in graph.state}
    notes = _notes(edits, by_name)
    modules = dict(model.named_modules(remove_duplicate=False))
    layers = []
    for path, ops in by_owner.items():
        module = modules.get(path)
        own = [] if module is None else [n for n, _ in module.named_parameters(path) if _holder(n) == path]
        values = [by_name[n] for n in own if n in by_name]
        macs = _macs(ops, analysis, _original)
        if not values and not macs and path not in notes:
            continue
        added = sum(e.value.tensor.numel() for e in edits if isinstance(e, NewBias) and e.path == path)
        layers.append(
            Layer(
                path=path,
                kind=ops[0].owner.type.__name__,
                before=_description(ops, values, _original),
                after=_description(ops, values, analysis.sizes),
                parameters_before=sum(prod(v.shape) for v in values),
                parameters_after=sum(prod(analysis.sizes(v)) for v in values) + added,
                macs_before=macs,
                macs_after=_macs(ops, analysis, analysis.sizes),
                notes=tuple(notes.get(path, ())),
            )
        )
    return tuple(layers)


def _holder(name: str) -> str:
    """The path of the module that holds parameter `name`, or that computes a tensor of its own from it."""
    path = name.rpartition(".")[0]
    return re.sub(r"(^|\.)parametrizations\.[^.]+$", "", path)


def _macs(ops: Sequence[Op], analysis: Analysis, sizes: Sizes) -> int:
    return sum(rule_for(op.target, analysis.rules).macs(op, sizes) for op in ops)


def _description(ops: Sequence[Op], values: Sequence[Value], sizes: Sizes) -> str:
    for op in ops:
        found = hyperparameters(op, sizes)
        if found:
            counts = [str(v) for k, v in found.items() if not k.endswith("groups")]
            groups = [f"{k}={v}" for k, v in found.items() if k.endswith("groups") and v != 1]
            return f"{op.owner.type.__name__}({', '.join(counts + groups)})"
    shapes = " ".join("x".join(map(str, sizes(v))) for v in values)
    return f"{ops[0].owner.type.__name__}({shapes})" if values else ops[0].owner.type.__name__


def _notes(edits: Sequence[Edit], by_name: Mapping[str, Value]) -> Mapping[str, list[str]]:
    notes: dict[str, list[str]] = {}
    for edit in edits:
        if isinstance(edit, AddToParameter | MergeColumns):
            notes.setdefault(_holder(edit.name), []).append(edit.why)
        elif isinstance(edit, NewBias):
            notes.setdefault(edit.path, []).append(edit.why)
        elif isinstance(edit, RewriteForward):
            notes.setdefault(edit.path, []).append(f"forward rewritten at {len(edit.why)} call(s)")
        elif isinstance(edit, AdoptAttention):
            notes.setdefault(edit.path, []).append("runs as speedup.attention.MultiheadAttention")
    return MappingProxyType(notes)
