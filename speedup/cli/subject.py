"""What most commands work on: a model, an example input and masks, as the command line names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from torch import Tensor, nn

from speedup.cli.examples import call_of, example_of
from speedup.cli.references import hollow_model_of, model_of
from speedup.plan import Plan
from speedup.planning.choosing import Lowerings, resolve_lowerings
from speedup.planning.planner import plan_speedup


@frozen(eq=False)
class PlanArguments:
    """A model with its example input, further calls, and the other arguments of its plan."""

    model: nn.Module
    example: Any
    others: tuple[Any, ...]
    masks: str | None
    keep: tuple[str, ...]
    align: int | None
    lowerings: Lowerings

    def plan(self) -> Plan:
        """The plan; raises what `plan_speedup` raises."""
        return plan_speedup(
            self.model,
            self.example,
            self.masks,
            others=self.others,
            keep=self.keep,
            align=self.align,
            lowerings=self.lowerings,
        )


def read_plan_arguments(
    model: str,
    inputs: Sequence[str],
    calls: Sequence[str] | None,
    weights: Path | None,
    masks: str | None,
    keep: Sequence[str] | None,
    align: int | None,
    lowerings: str,
    *,
    hollow: bool = False,
) -> PlanArguments:
    """The subject that a command line names; inputs first, as reading them is quick.

    A `hollow` model is made without memory for its weights: what goes then follows from masks alone.
    """
    example, others = example_of(inputs), tuple(call_of(text) for text in calls or ())
    wanted = resolve_lowerings(lowerings if lowerings in ("auto", "none") else lowerings.split(","))
    if hollow:
        example, others = _without_data(example), tuple(map(_without_data, others))
    made = hollow_model_of(model) if hollow else model_of(model, weights)
    return PlanArguments(made, example, others, masks, tuple(keep or ()), align, wanted)


def _without_data(example: Any) -> Any:
    """What `example_of` returned, without numbers."""
    match example:
        case Tensor():
            return example.to("meta")
        case dict():
            return {name: tensor.to("meta") for name, tensor in example.items()}
        case _:
            return tuple(tensor.to("meta") for tensor in example)
