"""`plan_speedup`: trace, analyse, couple, and write down the edits. A pure function."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn

from speedup import constants, liveness
from speedup.coupling import couple
from speedup.editing import edits_of, solved_attributes
from speedup.edits import RewriteForward
from speedup.errors import NonFiniteWeightError, UnknownModuleError
from speedup.expected import expected_trace
from speedup.graph import Graph, Origin
from speedup.inputs import Example, example_from
from speedup.islands import survey
from speedup.masks import MaskSource, resolve_masks
from speedup.plan import Plan, Subject
from speedup.plannable import require_plannable
from speedup.rehearsal import rehearse
from speedup.rewriting import Writer
from speedup.rules import STANDARD, Rules
from speedup.stamps import stamps_of
from speedup.summary import report_of


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
        model: any module. Of one that `torch.export` cannot trace as a whole, the largest modules that
            it can trace are planned, see `Plan.report`.
        x: example input: a tensor, a tuple or list of arguments, or a dict of keyword arguments.
            Its shapes and dtypes matter; the plan holds for any batch size.
        masks: keep-masks (1 keep, 0 drop) as `{module: {"weight": m}}`, `{parameter: m}`, or the
            path of a file with either. None: zeros already in the weights count.
        kwargs: further keyword arguments of the forward.
        rules: operator rules; extend with `STANDARD | {my_operator: my_rule}`.
        keep: paths of modules that must not change.

    Raises:
        InputError, ModelError, MaskError, UnknownModuleError, NonFiniteWeightError: bad arguments.
        ExportError: no part of the model can be traced; the message names the module.
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
    found = survey(model, example)
    traced = found.trace
    _check_finite(traced.graph, traced.tensors)
    facts = constants.analyse(traced.graph, traced.tensors, resolved, rules)
    lives = liveness.analyse(traced.graph, facts, rules)
    modules = dict(model.named_modules(remove_duplicate=False))
    writer = Writer(modules, tuple(keep))
    while True:
        analysis = couple(traced.graph, facts, lives, rules, writer, keep)
        edits = tuple(edits_of(analysis, writer))
        expected = expected_trace(analysis, edits)
        numbers = frozenset(e.path for e in solved_attributes(analysis))
        changed = numbers | frozenset(e.path for e in edits if isinstance(e, RewriteForward))
        failing = rehearse(model, example, found.islands, edits, expected, changed)
        if not failing:
            break
        # Where new numbers do not work out, the source may still be told the sizes; else it stays as it is.
        writer = evolve(
            writer,
            own_numbers=writer.own_numbers | failing & numbers,
            own_source=writer.own_source | (failing - numbers),
        )
    return Plan(
        edits=edits,
        report=report_of(model, analysis, edits, found, resolved),
        expected=expected,
        masks_digest=resolved.digest,
        subject=Subject(
            model, resolved, example, stamps, found.islands, _computed(traced.graph), bool(changed)
        ),
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


def _computed(graph: Graph) -> frozenset[torch.dtype]:
    """The types that the forward computes in."""
    return frozenset(value.dtype for value in graph.values if not value.is_state)
