"""What a plan consists of: values alone, which text, tables and figures are made from."""

from __future__ import annotations

from typing import Any

import torch
from attrs import field, frozen
from torch import nn

from speedup.errors import UnboundPlanError
from speedup.ir.edits import Edit
from speedup.ir.graph import Shape
from speedup.ir.inputs import Example
from speedup.ir.report import Blocked, Blocker, Layer, Report
from speedup.masks import Masks
from speedup.modules.fingerprints import Fingerprint
from speedup.rules import Rules
from speedup.tracing.islands import Islands


@frozen
class ExpectedOp:
    """What one op of the small model's own trace must look like.

    `operands` name state by its name in the model and other values by (op, result) or input
    number; `arguments` holds everything that is not a tensor.
    """

    target: str
    path: str
    operands: tuple[Any, ...]
    arguments: tuple[Any, ...]
    results: tuple[Shape, ...]


@frozen
class Expected:
    """The trace that the small model must have.

    Of the modules in `opaque`, whose own forward is stated otherwise, it says nothing but what
    the others get from them.
    """

    ops: tuple[ExpectedOp, ...]
    outputs: tuple[Any, ...]
    opaque: frozenset[str] = frozenset()


@frozen(eq=False, kw_only=True)
class Subject:
    """What a plan was made for; none of it is part of the plan's value.

    It holds for the calls `example` and `others`, and for `found`, calls of other sizes that planning looked
    for. A plan that was read back has no `model`. `value_independent` names the
    tensors on whose numbers the plan does not depend: with others in their place it holds all the same.
    `islands` are the modules that were traced, with their calls, if the model could not be as a whole;
    `computed` are the types that the forward computes in. `is_rehearsed` says that planning has already
    traced the small model, without its weights, and found it as expected. `rules`, `keep` and `lowerings` are
    what planning was given; a plan that was read back knows none of them.
    """

    model: nn.Module | None = None
    masks: Masks
    example: Example
    others: tuple[Example, ...] = ()
    found: tuple[Example, ...] = ()
    fingerprints: tuple[Fingerprint, ...]
    value_independent: frozenset[str] = frozenset()
    islands: Islands | None = None
    computed: frozenset[torch.dtype] = frozenset()
    is_rehearsed: bool = False
    rules: Rules | None = None
    keep: tuple[str, ...] = ()
    lowerings: frozenset[str] = frozenset()

    @property
    def calls(self) -> tuple[Example, ...]:
        """All calls that were traced, the example first."""
        return (self.example, *self.others, *self.found)

    def planned_model(self) -> nn.Module:
        """The model.

        Raises:
            UnboundPlanError: there is none.
        """
        if self.model is None:
            raise UnboundPlanError(
                "this plan was read back and has no model; pass one of the planned architecture and weights, "
                "as in materialize(plan, model=model)"
            )
        return self.model


@frozen
class PlanParts:
    """The parts of a plan, without what makes text of it.

    Two are equal that have the same edits, report, expected trace and masks; the subject does not count.
    """

    edits: tuple[Edit, ...]
    report: Report = field(repr=False)
    expected: Expected = field(repr=False)
    masks_digest: str
    subject: Subject = field(eq=False, repr=False)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every module with parameters or counted work, in the order of first use."""
        return self.report.layers

    @property
    def blocked(self) -> tuple[Blocked, ...]:
        """Channels that could go but stay, with the reason."""
        return self.report.blocked

    @property
    def unknown_operators(self) -> tuple[str, ...]:
        """Operators without a rule: all that they touch is kept."""
        return self.report.unknown_operators

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the plan relies on about sizes, a line each: what planning could not find out by itself.

        Empty for most models: the plan then holds for all sizes that the model takes. Pass calls of the
        sizes in question as `others`.
        """
        return self.report.assumptions

    @property
    def parameters_before(self) -> int:
        return self.report.parameters[0]

    @property
    def parameters_after(self) -> int:
        return self.report.parameters[1]

    @property
    def macs_before(self) -> int:
        """Multiply-accumulates for the example input."""
        return self.report.macs[0]

    @property
    def macs_after(self) -> int:
        return self.report.macs[1]

    @property
    def model_name(self) -> str:
        """The name of the model's class, for titles; "Plan" where the plan does not say it."""
        return next((member.kind for member in self.report.members if not member.path), "Plan")

    def blockers(self) -> tuple[Blocker, ...]:
        """The constraints that keep channels which could go, those that hold back most MACs first.

        What a constraint holds back is counted to first order, one constraint at a time: of each layer
        that makes or reads the channels, their share of the work and of the weight that the small model
        has, nothing else changed. Where two constraints keep a channel, the one that the planner met
        first counts, so that lifting it may only bring up the other. MACs are for the example input.
        """
        return self.report.blockers
