"""The plan: an immutable value that says what becomes of a model, and why.

It compares and hashes by content: the edits, the layers, the reasons, the expected trace and
the masks. The model it was made for is carried along but is not part of its value.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import field, frozen
from torch import nn

from speedup.edits import Edit, RewriteForward
from speedup.explaining import explanation
from speedup.graph import Shape
from speedup.inputs import Example
from speedup.islands import Islands
from speedup.masks import Masks
from speedup.report import Blocked, Blocker, Layer, Report
from speedup.stamps import Stamp


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


@frozen(eq=False)
class Subject:
    """What a plan was made for; none of it is part of the plan's value.

    `islands` are the modules that were traced, with their calls, if the model could not be as a whole;
    `computed` are the types that the forward computes in. `is_rehearsed` says that planning has already
    traced the small model, without its weights, and found it as expected.
    """

    model: nn.Module
    masks: Masks
    example: Example
    stamps: tuple[Stamp, ...]
    islands: Islands | None = None
    computed: frozenset[torch.dtype] = frozenset()
    is_rehearsed: bool = False


@frozen
class Plan:
    """What `materialize` will do. Print it for a dry run; `explain` tells about one layer."""

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

    def blockers(self) -> tuple[Blocker, ...]:
        """The constraints that keep channels which could go, those that hold back most MACs first.

        What a constraint holds back is counted to first order, one constraint at a time: of each layer
        that makes or reads the channels, their share of the work and of the weight that the small model
        has, nothing else changed. Where two constraints keep a channel, the one that the planner met
        first counts, so that lifting it may only bring up the other. MACs are for the example input.
        """
        return self.report.blockers

    def __str__(self) -> str:
        # rich takes a while to import and is only needed to print.
        from speedup.table import report_table

        return report_table(self.report)

    def explain(self, path: str) -> str:
        """Why each part of module `path` goes or stays, as plain text.

        For a layer, index by index: the mask, constant or disuse that freed it and what its constants were
        folded into; or the need or operator that keeps it, with the constraints in between. A container is
        summarised; "" is the model.

        Raises:
            UnknownModuleError: the plan knows no such module.
        """
        rewritten = (e for e in self.edits if isinstance(e, RewriteForward) and e.path == path)
        return explanation(self.report, path, [call for edit in rewritten for call in edit.why])
