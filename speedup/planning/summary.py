"""What a plan tells: layers before and after, and what could go but stays."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from math import prod
from types import MappingProxyType

from torch import nn

from speedup.analyses.alignment import Align, align_name, kernel_dims, width_of, wished_width
from speedup.analyses.analysis import Analysis
from speedup.building.applying import beside
from speedup.explaining.asked import asked_of
from speedup.explaining.blockers import blockers_of
from speedup.explaining.links import links_of
from speedup.explaining.reasons import blocked_channels, find_withheld, portions
from speedup.ir.edits import (
    AddToParameter,
    AdoptAttention,
    CombineColumns,
    Edit,
    MergeColumns,
    NewBias,
    RewriteForward,
)
from speedup.ir.graph import Graph, Op, Origin, Shape, Value
from speedup.ir.report import Alignment, Layer, Member, Misaligned, Report
from speedup.modules.copying import held_tensors
from speedup.planning.editing import compensations_of
from speedup.rules import Rules, rule_of
from speedup.rules.rule import UNKNOWN_OPERATOR, Sizes
from speedup.tracing.islands import Survey

_NOT_TRACED = "code that could not be traced reads them"


def report_of(
    model: nn.Module,
    analysis: Analysis,
    edits: Sequence[Edit],
    found: Survey,
    masked: Collection[str],
    align: Align | None = None,
) -> Report:
    """The report of a plan with these `edits`.

    `masked` names the parameters that have masks; `align` is what its widths were aligned to.
    """
    alignment = None if align is None else _alignment(model, analysis, edits, align)
    layers = _layers(model, analysis, edits, alignment)
    reading = links_of(analysis.graph, [layer.path for layer in layers], analysis.rules)
    parameters = sum(p.numel() for p in model.parameters())
    # Why channels stay is one thing, that others stay beside them to align is another.
    plain = analysis.unaligned or analysis
    stays = find_withheld(plain, "the model returns them" if found.islands is None else _NOT_TRACED)
    return Report(
        layers=layers,
        blocked=blocked_channels(stays),
        unknown_operators=_unknown(analysis.graph, analysis.rules),
        parameters=(parameters, parameters + _parameter_change(analysis, edits)),
        macs=(sum(layer.macs_before for layer in layers), sum(layer.macs_after for layer in layers)),
        islands=found.inside,
        outside=found.outside,
        blockers=blockers_of(plain, stays),
        portions=portions(analysis, stays, masked),
        members=tuple(Member(path, type(m).__name__) for path, m in model.named_modules()),
        alignment=alignment,
        links=reading.links,
        junctions=reading.junctions,
        assumptions=found.assumptions,
        choices=plain.choices,
        asked=asked_of(plain, stays, len(masked)),
        size=_size(model, analysis, edits),
    )


def _alignment(model: nn.Module, analysis: Analysis, edits: Sequence[Edit], align: Align) -> Alignment:
    plain = analysis.unaligned or analysis
    given = sum(p.numel() for p in model.parameters())
    without = given + _parameter_change(plain, tuple(compensations_of(plain)))
    macs = [_macs(analysis.graph.ops, one, one.macs) for one in (plain, analysis)]
    return Alignment(
        to=align_name(align),
        channels=sum(_added_channels(analysis).values()),
        parameters=(without, given + _parameter_change(analysis, edits)),
        macs=(macs[0], macs[1]),
        missed=tuple(dict.fromkeys(_misaligned(analysis, plain, align))),
    )


def _added_channels(analysis: Analysis) -> Mapping[str, int]:
    """By module, how many channels it computes more than without alignment; a module counts once."""
    added: dict[str, dict[int, int]] = {}
    if analysis.unaligned is not None:
        for op, channels in kernel_dims(analysis.sites, analysis.rules):
            if channels.side == "out" and channels.groups == 1:
                more = analysis.kept.count(channels.dim) - analysis.unaligned.kept.count(channels.dim)
                calls = added.setdefault(op.owner.path, {})
                calls[op.index] = calls.get(op.index, 0) + more
    return {path: max(calls.values()) for path, calls in added.items()}


def _misaligned(analysis: Analysis, plain: Analysis, align: Align) -> Iterable[Misaligned]:
    for op, channels in kernel_dims(analysis.sites, analysis.rules):
        if not plain.kept.is_full(channels.dim):
            width = width_of(op, channels, analysis.kept)
            wanted = wished_width(width, align)
            if wanted > width.kept:
                yield Misaligned(width.path, width.side, width.kept, width.total, wanted)


def _unknown(graph: Graph, rules: Rules) -> tuple[str, ...]:
    names = (str(op.target) for op in graph.ops if rule_of(op, rules) is UNKNOWN_OPERATOR)
    return tuple(dict.fromkeys(names))


def _original(value: Value) -> Shape:
    return value.shape


def _parameter_change(analysis: Analysis, edits: Sequence[Edit]) -> int:
    change = sum(e.value.tensor.numel() for e in edits if isinstance(e, NewBias))
    for value in analysis.graph.state:
        if value.origin is Origin.PARAMETER:
            change += prod(analysis.sizes(value)) - prod(value.shape)
    return change


def _size(model: nn.Module, analysis: Analysis, edits: Sequence[Edit]) -> tuple[int, int]:
    """The bytes of all parameters and buffers, before and after."""
    tensors = held_tensors(model)
    before = sum(t.numel() * t.element_size() for t in tensors.values())
    change = sum(
        edit.value.tensor.numel() * beside(model, edit).element_size()
        for edit in edits
        if isinstance(edit, NewBias)
    )
    for value in analysis.graph.state:
        if value.name in tensors:
            change += (prod(analysis.sizes(value)) - prod(value.shape)) * value.dtype.itemsize
    return before, before + change


def _layers(
    model: nn.Module, analysis: Analysis, edits: Sequence[Edit], alignment: Alignment | None
) -> tuple[Layer, ...]:
    """One entry per module that holds parameters or does counted work, in the order of first use."""
    graph = analysis.graph
    by_owner: dict[str, list[Op]] = {}
    for op in graph.ops:
        by_owner.setdefault(op.owner.path, []).append(op)
    by_name = {v.name: v for v in graph.state}
    notes = _notes(edits, by_name, _added_channels(analysis), () if alignment is None else alignment.missed)
    new_biases = Counter[str]()
    for edit in edits:
        if isinstance(edit, NewBias):
            new_biases[edit.path] += edit.value.tensor.numel()
    modules = dict(model.named_modules(remove_duplicate=False))
    layers = []
    for path, ops in by_owner.items():
        module = modules.get(path)
        own = [] if module is None else [n for n, _ in module.named_parameters(path) if _holder(n) == path]
        values = [by_name[n] for n in own if n in by_name]
        macs = _macs(ops, analysis, partial(_macs_before, analysis.rules))
        if not values and not macs and path not in notes:
            continue
        layers.append(
            Layer(
                path=path,
                kind=ops[0].owner.type.__name__,
                before=_description(ops, values, _original, analysis.rules),
                after=_description(ops, values, analysis.sizes, analysis.rules),
                parameters_before=sum(prod(v.shape) for v in values),
                parameters_after=sum(prod(analysis.sizes(v)) for v in values) + new_biases[path],
                macs_before=macs,
                macs_after=_macs(ops, analysis, analysis.macs),
                notes=tuple(notes.get(path, ())),
            )
        )
    return tuple(layers)


def _holder(name: str) -> str:
    """The path of the module that holds parameter `name`, or that computes a tensor of its own from it."""
    path = name.rpartition(".")[0]
    return re.sub(r"(^|\.)parametrizations\.[^.]+$", "", path)


def _macs(ops: Sequence[Op], analysis: Analysis, macs: Callable[[Op], int]) -> int:
    return sum(macs(op) for op in ops if analysis.graph.is_counted(op))


def _macs_before(rules: Rules, op: Op) -> int:
    return rule_of(op, rules).macs(op, _original)


def _description(ops: Sequence[Op], values: Sequence[Value], sizes: Sizes, rules: Rules) -> str:
    for op in ops:
        found = rule_of(op, rules).weight.attributes_of(op, sizes)
        if found:
            counts = [str(v) for k, v in found.items() if not k.endswith("groups")]
            groups = [f"{k}={v}" for k, v in found.items() if k.endswith("groups") and v != 1]
            return f"{op.owner.type.__name__}({', '.join(counts + groups)})"
    shapes = " ".join("x".join(map(str, sizes(v))) for v in values)
    return f"{ops[0].owner.type.__name__}({shapes})" if values else ops[0].owner.type.__name__


def _notes(
    edits: Sequence[Edit],
    by_name: Mapping[str, Value],
    added: Mapping[str, int],
    missed: Iterable[Misaligned],
) -> Mapping[str, list[str]]:
    notes: dict[str, list[str]] = {}
    for path, count in added.items():
        if count:
            notes[path] = [f"+{count} channels to align"]
    for one in missed:
        notes.setdefault(one.path, []).append(str(one))
    for edit in edits:
        if isinstance(edit, AddToParameter | CombineColumns | MergeColumns):
            notes.setdefault(_holder(edit.name), []).append(edit.why)
        elif isinstance(edit, NewBias):
            notes.setdefault(edit.path, []).append(edit.why)
        elif isinstance(edit, RewriteForward):
            notes.setdefault(edit.path, []).append(f"forward rewritten at {len(edit.why)} call(s)")
        elif isinstance(edit, AdoptAttention):
            notes.setdefault(edit.path, []).append("runs as speedup.attention.MultiheadAttention")
    return MappingProxyType(notes)
