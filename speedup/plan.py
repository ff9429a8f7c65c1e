"""The plan: an immutable value that says what becomes of a model, and why.

It compares and hashes by content: the edits, the layers, the reasons, the expected trace and
the masks. The model it was made for is carried along but is not part of its value.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from attrs import field, frozen
from torch import nn

from speedup.errors import ReportFormatError, UnboundPlanError
from speedup.masks import Masks
from speedup.reports.calls import calls_line
from speedup.reports.explaining import explanation
from speedup.rules import Rules
from speedup.spec.edits import Edit, RewriteForward
from speedup.spec.graph import Shape
from speedup.spec.inputs import Example
from speedup.spec.report import Blocked, Blocker, Layer, Report
from speedup.stamps import Stamp
from speedup.tracing.islands import Islands
from speedup.writing import StrPath, write_text

if TYPE_CHECKING:
    from speedup.files.plan_diff import PlanDiff


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
    for. A plan that was read back has no `model`. `free` names the tensors on whose numbers the plan does not
    depend: with others in their place it holds all the same. `islands` are the modules that were traced,
    with their calls, if the model could not be as a whole;
    `computed` are the types that the forward computes in. `is_rehearsed` says that planning has already
    traced the small model, without its weights, and found it as expected. `rules` and `keep` are what
    planning was given; a plan that was read back knows neither.
    """

    model: nn.Module | None = None
    masks: Masks
    example: Example
    others: tuple[Example, ...] = ()
    found: tuple[Example, ...] = ()
    stamps: tuple[Stamp, ...]
    free: frozenset[str] = frozenset()
    islands: Islands | None = None
    computed: frozenset[torch.dtype] = frozenset()
    is_rehearsed: bool = False
    rules: Rules | None = None
    keep: tuple[str, ...] = ()

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

    def write_report(self, path: StrPath, title: str = "") -> None:
        """Write the plan for people to read: an .html page, or a figure as .svg, .pdf or .png.

        The page is `to_html`'s. The figure has bars of each layer's parameters and MACs, before and after;
        `speedup.plan_figure` makes it to be changed first. `title` is the name of the model's class by
        default.

        Raises:
            ReportFormatError: the suffix is another.
            MissingPackageError: figures need matplotlib, which is not installed.
            FileWriteError: the folder is missing or cannot be written to.
        """
        from speedup.reports.figure import write_figure

        match Path(path).suffix.lower():
            case ".html" | ".htm":
                write_text(path, self.to_html(title))
            case ".svg" | ".pdf" | ".png":
                write_figure(self, path, title)
            case other:
                raise ReportFormatError(
                    f"a plan cannot be written to a file of type {other!r}; the name of {str(path)!r} has to "
                    "end in .html, .svg, .pdf or .png"
                )

    @property
    def model_name(self) -> str:
        """The name of the model's class, for titles; "Plan" of a plan that was read back."""
        return "Plan" if self.subject.model is None else type(self.subject.model).__name__

    def to_json(self) -> str:
        """The plan as text, from which `from_json` makes an equal one, in any process. Nothing is pickled.

        The text holds everything but the model: edits with their constants, the report, the masks, and of
        the example input the shapes, with the values of what are no floating-point numbers and of short
        tensors. Its form is versioned and described by `speedup/files/plan.schema.json` (JSON Schema).

        Raises:
            PlanFormatError: the example input holds something that text cannot.
        """
        # cattrs takes a while to import.
        from speedup.files.plan_json import text_of

        return text_of(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """The plan that `to_json` wrote. It has no model: `materialize(plan, model=...)` takes one.

        Nothing in the text is executed; forwards that it rewrites are only accepted where they meet the
        model, see `materialize`.

        Raises:
            PlanFormatError: the text is truncated, of another version, or says what no plan says.
        """
        from speedup.files.plan_json import plan_of

        return plan_of(text)

    def diff(self, other: Plan) -> PlanDiff:
        """What differs from this plan to `other`: layers, edits, blockers, assumptions. Print it."""
        from speedup.files.plan_diff import plan_diff

        return plan_diff(self, other)

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
        from speedup.reports.table import report_table

        return report_table(self.report)

    def _repr_html_(self) -> str:
        from speedup.reports.page.fragment import html_table

        return html_table(self.report)

    def to_html(self, title: str = "") -> str:
        """One HTML document that refers to nothing else: summary, graph, layers, and what stays and why.

        `title` is the name of the model's class by default.
        """
        from speedup.reports.page.document import html_report

        return html_report(self.report, self.explain, title or self.model_name)

    def explain(self, path: str) -> str:
        """Why each part of module `path` goes or stays, as plain text.

        For a layer, index by index: the mask, constant or disuse that freed it and what its constants were
        folded into; or the need or operator that keeps it, with the constraints in between. A container is
        summarised; "" is the model, with the calls that it was planned for and what the plan relies on.

        Raises:
            UnknownModuleError: the plan knows no such module.
        """
        rewritten = (e for e in self.edits if isinstance(e, RewriteForward) and e.path == path)
        text = explanation(self.report, path, [call for edit in rewritten for call in edit.why])
        if path:
            return text
        subject = self.subject
        calls = calls_line(subject.example, subject.others, subject.found)
        return "\n".join((text, f"  {calls}", *(f"  relies on: {line}" for line in self.assumptions)))
