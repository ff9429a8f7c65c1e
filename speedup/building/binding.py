"""A plan meets a model other than the one that it was made for: does it hold for that one too?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs
import torch
from torch import Tensor, nn

from speedup.errors import ArchitectureError, OtherWeightsError, StaleModelError
from speedup.forwards.restated import require_restated
from speedup.ir.edits import AdoptAttention, RewriteForward, SetAttribute
from speedup.ir.inputs import Example
from speedup.masks import Masks
from speedup.modules.attention import MultiheadAttention
from speedup.modules.attributes import attribute_of
from speedup.modules.fingerprints import (
    Fingerprint,
    changed_names,
    fingerprints_of,
    other_architecture,
    other_contents,
    tensor_names,
)
from speedup.modules.plannable import require_weights
from speedup.modules.reparametrized import Plain, as_planned
from speedup.parts import Subject
from speedup.plan import Plan
from speedup.tracing.islands import Island, Islands

_FEW = 3


def current_plan(plan: Plan, model: nn.Module | None) -> Plan:
    """The plan for `model`, or for its own model if that is None or the same; both are as planned.

    Raises:
        UnboundPlanError: there is no model.
        StaleModelError: the plan's own model changed.
        ArchitectureError, OtherWeightsError, ForeignSourceError: as of `bind_plan`.
    """
    if model is not None and model is not plan.subject.model:
        return bind_plan(plan, model)
    plain = plain_model(plan)
    changed = changed_names(plan.subject.fingerprints, fingerprints_of(plain.model, plain.made))
    if changed:
        names = first_words(name or "the model itself" for name in changed)
        raise StaleModelError(f"the model changed since it was planned: {names}. Plan it again.")
    return plan


def plain_model(plan: Plan, model: nn.Module | None = None) -> Plain:
    """`model`, or the plan's own, as the plan is about it: with constant weights as plain parameters.

    Raises:
        UnboundPlanError: there is no model.
    """
    given = plan.subject.planned_model() if model is None else model
    return as_planned(given, tensor_names(plan.subject.fingerprints))


def bind_plan(plan: Plan, model: nn.Module) -> Plan:
    """The same plan for another model of the planned architecture.

    Raises:
        ModelError: the model's weights are not in it, see `plan_speedup`.
        ArchitectureError: names, shapes, types or classes differ, or attributes that the plan sets.
        OtherWeightsError: the weights differ, and the plan depends on them.
        ForeignSourceError: the plan rewrites forwards to something that `model` does not hold.
    """
    require_weights(model)
    plain = plain_model(plan, model)
    fingerprints = fingerprints_of(plain.model, plain.made)
    require_architecture(plan, plain.model, fingerprints)
    other = other_contents(plan.subject.fingerprints, fingerprints, plan.subject.value_independent)
    if other:
        raise OtherWeightsError(
            f"the plan depends on weights that this model does not have: {first_words(map(repr, other))} "
            "hold other numbers than planned. Constants were computed from them, or they held zeros. Load "
            "the weights that were planned, or plan this model again."
        )
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    subject = attrs.evolve(
        calls_on(plan.subject, device),
        model=model,
        masks=_place_masks(plan.subject.masks, plain.model),
        fingerprints=fingerprints,
        is_rehearsed=False,
    )
    return attrs.evolve(plan, subject=subject)


def require_architecture(
    plan: Plan, model: nn.Module, fingerprints: Sequence[Fingerprint], *, dtypes: bool = True
) -> None:
    """Raise unless the plan's edits are for what `model`, of these `fingerprints`, has.

    Raises:
        ArchitectureError, ForeignSourceError: as of `bind_plan`. `dtypes` says whether types have to agree.
    """
    found = [*other_architecture(plan.subject.fingerprints, tuple(fingerprints), dtypes)]
    found = found or [*_unlike(plan, dict(model.named_modules(remove_duplicate=False)))]
    if found:
        raise ArchitectureError(
            f"the model is not of the planned architecture: {first_words(found)}. Make the model as it was "
            "when it was planned, or plan this one."
        )
    for edit in plan.edits:
        if isinstance(edit, RewriteForward):
            module = model.get_submodule(edit.path)
            require_restated(type(module), edit.functions, vars(module))


def _unlike(plan: Plan, modules: dict[str, nn.Module]) -> Iterator[str]:
    """What the plan's edits of modules do not find as they expect it."""
    # These get attributes that they do not have yet.
    adopted = {edit.path for edit in plan.edits if isinstance(edit, AdoptAttention)}
    for edit in plan.edits:
        if isinstance(edit, AdoptAttention) and not MultiheadAttention.can_adopt(modules[edit.path]):
            yield f"module {edit.path!r} is no plain nn.MultiheadAttention"
        elif isinstance(edit, SetAttribute) and edit.path not in adopted:
            now = attribute_of(modules[edit.path], edit.attribute)
            if isinstance(edit.before, int | float) and now != edit.before:
                yield f"{edit.attribute!r} of module {edit.path!r} is {now!r}, planned was {edit.before!r}"


def first_words(words: Iterable[str]) -> str:
    """A few of `words`, and whether there are more."""
    listed = list(words)
    return ", ".join(listed[:_FEW]) + (" and others" if len(listed) > _FEW else "")


def _place_masks(masks: Masks, model: nn.Module) -> Masks:
    """The masks where their parameters are."""
    devices = {name: _home(parameter) for name, parameter in model.named_parameters()}
    if all(mask.device == devices[name] for name, mask in masks.items()):
        return masks
    return Masks({name: mask.to(devices[name]) for name, mask in masks.items()})


def _home(parameter: Tensor) -> torch.device:
    return torch.device("cpu") if parameter.is_meta else parameter.device


def calls_on(subject: Subject, device: torch.device) -> Subject:
    """The same with all calls on `device`."""
    islands = subject.islands
    return attrs.evolve(
        subject,
        example=subject.example.to(device),
        others=tuple(call.to(device) for call in subject.others),
        found=tuple(call.to(device) for call in subject.found),
        islands=None if islands is None else _islands_on(islands, device),
    )


def _islands_on(islands: Islands, device: torch.device) -> Islands:
    def moved(calls: Iterable[Example]) -> tuple[Example, ...]:
        return tuple(call.to(device) for call in calls)

    return attrs.evolve(islands, islands=tuple(Island(one.path, moved(one.calls)) for one in islands.islands))
