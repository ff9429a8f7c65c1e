"""`plan_speedup`: trace, analyse, couple, and write down the edits. A pure function."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from speedup.analyses import borders, constants, liveness
from speedup.analyses.alignment import Align, chooser
from speedup.analyses.analysis import Analysis
from speedup.analyses.chains import Chain, find_chains
from speedup.analyses.partial_sums import PartialSum, find_partial_sums
from speedup.building.expected import expected_trace
from speedup.engine.borders import Bordered
from speedup.engine.lattice import Fact
from speedup.errors import (
    InputError,
    NonFiniteWeightError,
    SpeedupError,
    UnboundPlanError,
    UnknownModuleError,
)
from speedup.forwards.rewriting import SourceRewriter
from speedup.ir.edits import AddToParameter, CombineColumns, Edit, MergeColumns, NewBias, RewriteForward
from speedup.ir.graph import Graph, Origin
from speedup.ir.inputs import Example, example_from, further_calls
from speedup.masks import Masks, MaskSource, resolve_masks
from speedup.modules.copying import held_tensors
from speedup.modules.fingerprints import Fingerprint, TensorFingerprint, fingerprints_of, tensor_names
from speedup.modules.plannable import require_plannable
from speedup.modules.reparametrized import Plain, as_planned
from speedup.parts import Expected, Subject
from speedup.plan import Plan
from speedup.planning.baking import Reparametrized, bake, require_reparametrized
from speedup.planning.choosing import (
    CARRIERS,
    FILLS,
    GATES,
    MAPS,
    ROWS,
    SHUFFLES,
    Lowerings,
    resolve_lowerings,
)
from speedup.planning.coupling import solve_coupling
from speedup.planning.editing import edits_of, solved_attributes
from speedup.planning.guarding import keeping_failed, op_at
from speedup.planning.rehearsal import rehearse
from speedup.planning.summary import report_of
from speedup.planning.traced import Traced
from speedup.rules import STANDARD, Rules
from speedup.torch_api import Overload
from speedup.tracing.islands import Survey, survey


def plan_speedup(
    model: nn.Module | Traced,
    x: Any = None,
    masks: MaskSource | None = None,
    *,
    others: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    rules: Rules = STANDARD,
    keep: Sequence[str] = (),
    align: Align | None = None,
    lowerings: Lowerings = "auto",
    reparametrized: Reparametrized = "bake",
) -> Plan:
    """Plan the smallest model that computes what `model` with `masks` computes, in eval mode.

    Nothing is changed: `model`, its flags and the global random state are as before.

    Args:
        model: any module. Of one that `torch.export` cannot trace as a whole, the largest modules that
            it can trace are planned, see `Plan.report`. Its weights must be in it: a model is refused whose
            weights hooks bring before each forward (offloaded by accelerate) or that is partitioned
            (DeepSpeed's ZeRO-3). On the meta device, without such hooks, it has none and is planned.
            Or what `trace` returned for a model; `x`, `others` and `kwargs` are then those of that call.
        x: example input: a tensor, a tuple or list of arguments, or a dict of keyword arguments.
            Its dtypes and the way it is called matter; the plan holds for any batch size, and for any
            length and resolution that the model takes. Where the forward goes other ways at other sizes,
            these are looked for and planned with; `Plan.assumptions` says what could not be found out.
        masks: keep-masks (1 keep, 0 drop) as `{module: {"weight": m}}`, `{parameter: m}`, or the
            path of a file with either. None: zeros already in the weights count.
        others: further calls of the model, each as `x`: with other arguments, at other sizes, with a cache,
            for another task. The one plan holds for all of them.
        kwargs: further keyword arguments of the forward.
        rules: operator rules; extend with `STANDARD | {my_operator: my_rule}`.
        keep: paths of modules that must not change.
        align: how many channels layers shall keep for their kernels to run at full speed: multiples of
            an integer, or what a function of a `Width` returns. It gets the count that has to stay, and is
            asked about every larger one on the way; less than that count counts as that, more than there
            are as all. Layers that do not shrink are not asked about. `Plan.report.alignment` says what
            it costs.
        lowerings: what the plan may do so that masked channels go which coupling or borders would hold
            back: "auto", what pays; "none"; or names of `LOWERINGS`.
        reparametrized: "bake": weights that `torch.nn.utils` computes before each forward (`prune` with its
            hooks, `parametrize`, `weight_norm`, `spectral_norm`) are plain parameters of the small model,
            where they are the same for every input; the plan is that of a model without them. Those stay
            computed whose own parameters are masked, other than pruned weights. "keep": all stay computed.

    Raises:
        InputError, ModelError, MaskError, UnknownModuleError, NonFiniteWeightError: bad arguments.
        ExportError: no part of the model can be traced; the message names the module.
    """
    with torch.inference_mode(mode=False), torch.no_grad():
        traced = model if isinstance(model, Traced) else None
        given: nn.Module = model.model if isinstance(model, Traced) else model
        require_plannable(given)
        calls = _calls(traced, x, others, kwargs)
        if align is not None:
            chooser(align)
        wanted = resolve_lowerings(lowerings)
        require_reparametrized(reparametrized)
        resolved = resolve_masks(given, masks)
        _check_modules(given, keep)
        plain = Plain(given)
        if reparametrized == "bake":
            plain, resolved = bake(given, resolved, calls)
        return _plan(Request(given, plain, calls, resolved, rules, tuple(keep), align, wanted, traced))


def _calls(
    traced: Traced | None, x: Any, others: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> tuple[Example, ...]:
    if traced is None:
        return (example_from(x, kwargs), *further_calls(others))
    if x is not None or others or kwargs:
        raise InputError(
            "a traced model has its calls from trace(); pass x, others and kwargs there, and here only "
            "plan_speedup(traced, masks=...)"
        )
    return traced.calls


def realign(plan: Plan, align: Align | None) -> Plan:
    """`plan` made again, of its model as it is now, with another alignment; see `plan_speedup`.

    Raises:
        UnboundPlanError: the plan was read back, and so does not say how it was made.
    """
    with torch.inference_mode(mode=False), torch.no_grad():
        if align is not None:
            chooser(align)
        return _plan(evolve(request_of(plan), align=align))


@frozen(eq=False)
class Request:
    """What is to be planned: the arguments of `plan_speedup`, checked.

    `plain` is the model `given` with its constant weights as plain parameters; `traced` is what has been
    found out about it before.
    """

    given: nn.Module
    plain: Plain
    calls: tuple[Example, ...]
    masks: Masks
    rules: Rules
    keep: tuple[str, ...]
    align: Align | None
    lowerings: frozenset[str]
    traced: Traced | None = None

    @property
    def model(self) -> nn.Module:
        """The model that is traced, and that edits are for."""
        return self.plain.model

    def masked(self, tensor: Tensor) -> Tensor:
        """The numbers that a tensor of the model has in the masked one."""
        names = (name for name, held in self.model.named_parameters() if held is tensor)
        mask = self.masks.get(next(names, ""))
        return tensor if mask is None else torch.where(mask.to(tensor.device), tensor, 0)


@frozen(eq=False)
class Solution:
    """What analyses and coupling found, and the edits that it amounts to.

    `rewriter` says which numbers and sources were left as they are; `changed` are the modules whose forward
    gets new numbers or source.
    """

    survey: Survey
    analysis: Analysis
    edits: tuple[Edit, ...]
    expected: Expected
    rewriter: SourceRewriter
    changed: frozenset[str]


def request_of(plan: Plan) -> Request:
    """What `plan` was made of, without alignment.

    Raises:
        UnboundPlanError: the plan was read back, and so does not say how it was made.
    """
    subject = plan.subject
    if subject.rules is None:
        raise UnboundPlanError(
            "this plan was read back and does not say which rules and keep= it was made with; make it again "
            "with plan_speedup to compare alignments"
        )
    given, calls = subject.planned_model(), (subject.example, *subject.others)
    require_plannable(given)
    plain = as_planned(given, tensor_names(subject.fingerprints))
    return Request(given, plain, calls, subject.masks, subject.rules, subject.keep, None, subject.lowerings)


def find_solution(request: Request, found: Survey | None = None) -> Solution:
    """Trace the model, analyse and couple it, and rehearse what comes of it until it works out.

    `found` is what tracing shows, where that is known.
    """
    found = found or survey(request.model, request.calls, values=request.masked)
    traced = found.trace
    _check_finite(traced.graph, traced.tensors)
    findings = _analyse(traced.graph, traced.tensors, request)
    modules = dict(request.model.named_modules(remove_duplicate=False))
    rewriter = SourceRewriter(modules, _first_names(modules, request.keep))
    while True:
        analysis = _couple(traced.graph, findings, request, rewriter)
        edits = tuple(edits_of(analysis, rewriter))
        expected = expected_trace(analysis, edits)
        numbers = frozenset(e.path for e in solved_attributes(analysis))
        changed = numbers | frozenset(e.path for e in edits if isinstance(e, RewriteForward))
        calls = (*request.calls, *found.found)
        held = held_tensors(request.model)
        read = {value.name: request.masked(held[value.name]) for value in traced.graph.consulted}
        failing = rehearse(request.model, calls, found.islands, edits, expected, changed, read)
        if not failing:
            return Solution(found, analysis, edits, expected, rewriter, changed)
        # Where new numbers do not work out, the source may still be told the sizes; else it stays as it is.
        rewriter = evolve(
            rewriter,
            own_numbers=rewriter.own_numbers | failing & numbers,
            own_source=rewriter.own_source | (failing - numbers),
        )


@frozen(eq=False)
class _Findings:
    """What is known of each value, of each element whether anything reads it, what is known near borders,
    which ops put channels in another order, and which sums have an operand with rows that need no computing.
    """

    facts: tuple[Fact, ...]
    lives: tuple[Tensor, ...]
    borders: Mapping[int, Bordered]
    chains: tuple[Chain, ...]
    partial_sums: tuple[PartialSum, ...]


def _analyse(graph: Graph, tensors: Mapping[str, Tensor], request: Request) -> _Findings:
    facts = constants.find_constants(graph, tensors, request.masks, request.rules)
    bordered = borders.find_borders(graph, facts, request.rules) if CARRIERS in request.lowerings else {}
    lives = liveness.find_liveness(graph, facts, request.rules)
    chains = find_chains(graph, request.rules) if SHUFFLES in request.lowerings else ()
    partial_sums = find_partial_sums(graph, facts, request.rules) if ROWS in request.lowerings else ()
    return _Findings(facts, lives, bordered, chains, partial_sums)


def _couple(graph: Graph, found: _Findings, request: Request, rewriter: SourceRewriter) -> Analysis:
    return solve_coupling(
        graph,
        found.facts,
        found.lives,
        request.rules,
        rewriter,
        rewriter.kept,
        request.align,
        found.borders,
        found.chains,
        found.partial_sums,
        FILLS in request.lowerings,
        GATES in request.lowerings,
        MAPS in request.lowerings,
    )


def _plan(request: Request) -> Plan:
    """The plan; an operator whose rule fails is kept."""
    failed: set[Overload] = set()
    while True:
        try:
            return _planned(request)
        except (SpeedupError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            op = op_at(error)
            if op is None or op.target in failed:
                raise
            failed.add(op.target)
            request = evolve(request, rules=keeping_failed(request.rules, op, error))


def _planned(request: Request) -> Plan:
    fingerprints = fingerprints_of(request.model, request.plain.made)
    # What was traced computes weights that are plain now.
    traced = request.traced if request.model is request.given else None
    solution = find_solution(request, None if traced is None else traced.survey_now(fingerprints))
    found = solution.survey
    return Plan(
        edits=solution.edits,
        report=report_of(
            request.model, solution.analysis, solution.edits, found, request.masks, request.align
        ),
        expected=solution.expected,
        masks_digest=request.masks.digest,
        subject=Subject(
            model=request.given,
            masks=request.masks,
            example=request.calls[0],
            others=request.calls[1:],
            found=found.found,
            fingerprints=fingerprints,
            value_independent=_value_independent(fingerprints, request, solution),
            islands=found.islands,
            computed=_computed_types(found.trace.graph),
            is_rehearsed=bool(solution.changed),
            rules=request.rules,
            keep=request.keep,
            lowerings=request.lowerings,
        ),
    )


def _value_independent(
    fingerprints: Sequence[Fingerprint], request: Request, solution: Solution
) -> frozenset[str]:
    """The tensors whose numbers the plan does not depend on.

    Those are the ones that no operation reads, or that have no data. And the weights, if the same edits
    follow where nothing is known of them but that they are zero where they are masked.
    """
    traced, edits = solution.survey.trace, solution.edits
    named = {
        fingerprint.name: fingerprint
        for fingerprint in fingerprints
        if isinstance(fingerprint, TensorFingerprint)
    }
    # Nor can it depend on those of tensors that have none yet.
    empty = {name for name, tensor in traced.tensors.items() if tensor.is_meta}
    consulted = {value.name for value in traced.graph.consulted}
    read = {v.name for v in traced.graph.state if traced.graph.readers[v.index]} - empty
    unread = frozenset(named) - read - consulted
    if any(isinstance(edit, AddToParameter | CombineColumns | MergeColumns | NewBias) for edit in edits):
        return unread
    weights = {name for name in read - consulted if name in named and _is_weight(named[name].dtype)}
    if not weights:
        return unread
    # Of a tensor without data nothing is known.
    unknown = {name: t.to("meta") if name in weights else t for name, t in traced.tensors.items()}
    findings = _analyse(traced.graph, unknown, request)
    again = edits_of(_couple(traced.graph, findings, request, solution.rewriter), solution.rewriter)
    return unread | weights if tuple(again) == tuple(edits) else unread


def _is_weight(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _first_names(modules: Mapping[str, nn.Module], names: Sequence[str]) -> tuple[str, ...]:
    """`names`, and by what the modules called so, and those in them, go in the trace: their first names."""
    first = {id(module): path for path, module in reversed(tuple(modules.items()))}
    held = (path for name in names for path in modules if path == name or path.startswith(f"{name}."))
    return tuple(dict.fromkeys((*names, *(first[id(modules[path])] for path in held))))


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
            if not tensor.is_meta and not _is_finite(tensor):
                raise NonFiniteWeightError(
                    f"parameter {value.name!r} holds inf or NaN; equivalence is only promised for finite "
                    "weights. Repair or re-train it before planning."
                )


def _is_finite(tensor: Tensor) -> bool:
    # One pass each: inf and NaN propagate through a sum, which may also run over, and NaN through aminmax.
    if bool(torch.isfinite(tensor.sum())):
        return True
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))


def _computed_types(graph: Graph) -> frozenset[torch.dtype]:
    """The types that the forward computes in."""
    return frozenset(value.dtype for value in graph.values if not value.is_state)
