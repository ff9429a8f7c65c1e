"""What most commands work on: a model, an example input and masks, as the command line names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from speedup.cli.examples import call_of, example_of
from speedup.cli.placing import device_of, dtype_of, placed_call, placed_model
from speedup.cli.progress import Steps
from speedup.cli.references import factory_of, fill_model, hollow_model, makes_other_weights
from speedup.cli.request import PlanRequest
from speedup.errors import InputError
from speedup.measuring.estimating import estimate_latency
from speedup.plan import Plan
from speedup.planning.choosing import Lowerings, resolve_lowerings
from speedup.planning.planner import plan_speedup
from speedup.rendering.latency import LatencyEstimate
from speedup.uniform import plan_uniform

_FRESH = "the weights are freshly initialised, as {} makes others each time; pass --weights for trained ones"


@frozen(eq=False)
class PlanArguments:
    """A model with its example input, further calls, and the other arguments of its plan."""

    model: nn.Module
    example: Any
    others: tuple[Any, ...]
    masks: str | Mapping[str, Tensor] | None
    keep: tuple[str, ...]
    align: int | None
    lowerings: Lowerings
    warnings: tuple[str, ...] = ()
    uniform: int | None = None

    def plan(self) -> Plan:
        """The plan; raises what `plan_speedup` raises."""
        arguments = self.model, self.example, self.masks
        options: dict[str, Any] = {"others": self.others, "keep": self.keep, "lowerings": self.lowerings}
        if self.uniform is not None:
            return plan_uniform(*arguments, multiple=self.uniform, **options)
        return plan_speedup(*arguments, align=self.align, **options)


def read_plan_arguments(
    request: PlanRequest, *, asks_for_weights: bool = False, hollow: bool = False
) -> PlanArguments:
    """The subject that a command line names; inputs first, as reading them is quick.

    With `asks_for_weights` there is a warning where the weights are nobody's. A `hollow` model is made
    without memory for its weights: what goes then follows from masks alone.
    """
    if request.align is not None and request.uniform is not None:
        raise InputError("--uniform aligns widths too: leave --align out")
    place = torch.device("meta") if hollow else device_of(request.device), dtype_of(request.dtype)
    example, *others = (
        placed_call(call, *place) for call in (example_of(request.inputs), *map(call_of, request.calls or ()))
    )
    named = request.lowerings
    wanted = resolve_lowerings(named if named in ("auto", "none") else named.split(","))
    factory = factory_of(request.model)
    made = hollow_model(factory) if hollow else fill_model(factory(), request.weights)
    fresh = asks_for_weights and request.weights is None and makes_other_weights(factory, made)
    return PlanArguments(
        placed_model(made, *place),
        example,
        tuple(others),
        request.masks,
        tuple(request.keep or ()),
        request.align,
        wanted,
        (_FRESH.format(request.model),) if fresh else (),
        request.uniform,
    )


def estimate_for(plan: Plan, step: Steps) -> LatencyEstimate:
    """How long forwards take here, as a step of its own."""
    with step("measuring"):
        return estimate_latency(plan)
