"""`plan_speedup`: trace, analyse, couple, and write down the edits. A pure function."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from speedup import constants, liveness
from speedup.coupling import Analysis, couple
from speedup.edits import AddToParameter, Edit, MergeColumns, NewBias, SetAttribute, Slice, SliceGroups
from speedup.errors import NonFiniteWeightError, UnknownModuleError
from speedup.expected import expected_trace
from speedup.graph import Graph, Op, Origin, Shape, Value
from speedup.inputs import Example, example_from
from speedup.masks import MaskSource, resolve_masks
from speedup.native import hyperparameters
from speedup.plan import Plan, Subject
from speedup.plannable import require_plannable
from speedup.reasons import blocked_channels
from speedup.report import Layer, Report
from speedup.rules import STANDARD, Rules, rule_for
from speedup.rules.rule import UNKNOWN_OPERATOR, Sizes
from speedup.stamps import stamps_of
from speedup.trace import trace


def plan_speedup(
    model: nn.Module,
    x: Any,
    masks: MaskSource | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    rules: Rules = STANDARD,
    keep: Sequence[str] = (),
) -> Plan:
    """Plan the smallest model that computes what `model` with `masks` computes, in eval mode.

    Nothing is changed: `model`, its flags and the global random state are as before.

    Args:
        model: any module that `torch.export` can trace.
        x: example input: a tensor, a tuple or list of arguments, or a dict of keyword arguments.
            Its shapes and dtypes matter; the plan holds for any batch size.
        masks: keep-masks (1 keep, 0 drop) as `{module: {"weight": m}}`, `{parameter: m}`, or the
            path of a file with either. None: zeros already in the weights count.
        kwargs: further keyword arguments of the forward.
        rules: operator rules; extend with `STANDARD | {my_operator: my_rule}`.
        keep: paths of modules that must not change.

    Raises:
        InputError, ModelError, MaskError, UnknownModuleError, NonFiniteWeightError: bad arguments.
        ExportError: the model cannot be traced; the message names the module.
    """
    with torch.inference_mode(mode=False), torch.no_grad():
        return _plan(model, example_from(x, kwargs), masks, rules, keep)


def _plan(
    model: nn.Module, example: Example, masks: MaskSource | None, rules: Rules, keep: Sequence[str]
) -> Plan:
    require_plannable(model)
    resolved = resolve_masks(model, masks)
    _check_modules(model, keep)
    stamps = stamps_of(model)
    traced = trace(model, example)
    _check_finite(traced.graph, traced.tensors)
    facts = constants.analyse(traced.graph, traced.tensors, resolved, rules)
    lives = liveness.analyse(traced.graph, facts, rules)
    analysis = couple(traced.graph, facts, lives, rules, keep)
    edits = tuple(_edits(analysis))
    return Plan(
        edits=edits,
        report=_report(model, analysis, edits),
        expected=expected_trace(analysis, edits),
        masks_digest=resolved.digest,
        subject=Subject(model, resolved, example, stamps),
    )


def _report(model: nn.Module, analysis: Analysis, edits: Sequence[Edit]) -> Report:
    layers = _layers(model, analysis, edits)
    parameters = sum(p.numel() for p in model.parameters())
    return Report(
        layers=layers,
        blocked=blocked_channels(analysis),
        unknown_operators=_unknown(analysis.graph, analysis.rules),
        parameters=(parameters, parameters + _parameter_change(analysis, edits)),
        macs=(sum(layer.macs_before for layer in layers), sum(layer.macs_after for layer in layers)),
    )


def _check_modules(model: nn.Module, names: Sequence[str]) -> None:
    known = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            raise UnknownModuleError(
                f"keep names module {name!r}, which the model does not have"
                + (f"; did you mean {', '.join(map(repr, near))}?" if near else "")
            )


def _check_finite(graph: Graph, tensors: Mapping[str, Tensor]) -> None:
    for value in graph.values:
        if value.origin is Origin.PARAMETER and value.dtype.is_floating_point and 0 not in value.shape:
            tensor = tensors[value.name]
            # One pass; NaN propagates through aminmax.
            if not tensor.is_meta and not all(bool(torch.isfinite(t)) for t in torch.aminmax(tensor)):
                raise NonFiniteWeightError(
                    f"parameter {value.name!r} holds inf or NaN; equivalence is only promised for finite "
                    "weights. Repair or re-train it before planning."
                )


def _unknown(graph: Graph, rules: Rules) -> tuple[str, ...]:
    names = (str(op.target) for op in graph.ops if rule_for(op.target, rules) is UNKNOWN_OPERATOR)
    return tuple(dict.fromkeys(names))


def _edits(analysis: Analysis) -> Iterable[Edit]:
    """Payments, then slices, then attributes, each in the order of the graph."""
    payments: list[Edit] = []
    for site in analysis.sites:
        payments.extend(rule_for(site.op.target, analysis.rules).pay(site, analysis.kept))
    yield from payments
    grouped = {edit.name for edit in payments if isinstance(edit, SliceGroups)}
    for value in analysis.graph.state:
        if value.origin is Origin.CONSTANT:
            continue
        for dim in range(value.ndim):
            if value.name in grouped and dim < 2:
                continue
            kept = analysis.kept[(value.index, dim)]
            if not analysis.kept.is_full((value.index, dim)):
                yield Slice(value.name, dim, tuple(kept.nonzero().reshape(-1).tolist()))
    yield from dict.fromkeys(_attributes(analysis))


def _attributes(analysis: Analysis) -> Iterable[SetAttribute]:
    for op in analysis.graph.ops:
        before = hyperparameters(op, _original)
        after = hyperparameters(op, analysis.sizes) if before else {}
        for name, value in before.items():
            if after[name] != value:
                yield SetAttribute(op.owner.path, name, value, after[name])


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
        own = [] if module is None else [n for n, _ in module.named_parameters(path, recurse=False)]
        values = [by_name[n] for n in own if n in by_name]
        macs = _macs(ops, analysis, _original)
        if not values and not macs:
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
    return f"{ops[0].owner.type.__name__}({shapes})"


def _notes(edits: Sequence[Edit], by_name: Mapping[str, Value]) -> Mapping[str, list[str]]:
    notes: dict[str, list[str]] = {}
    for edit in edits:
        if isinstance(edit, AddToParameter | MergeColumns):
            notes.setdefault(edit.name.rpartition(".")[0], []).append(edit.why)
        elif isinstance(edit, NewBias):
            notes.setdefault(edit.path, []).append(edit.why)
    return MappingProxyType(notes)
