"""The plan: an immutable value that says what becomes of a model, and why.

It compares and hashes by content: the edits, the layers, the reasons, the expected trace and
the masks. The model it was made for is carried along but is not part of its value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen

from speedup._stable import stable
from speedup.errors import ReportFormatError
from speedup.ir.edits import RewriteForward
from speedup.parts import PlanParts
from speedup.rendering.calls import call_text, calls_line
from speedup.rendering.explanation import explanation
from speedup.rendering.figure import report_figure, write_figure
from speedup.rendering.latency import LatencyEstimate
from speedup.rendering.overview import overview, summary_lines
from speedup.rendering.versions import made_today
from speedup.writing import StrPath, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from speedup.text.plan_diff import PlanDiff


@frozen(repr=False)
class Plan(PlanParts):
    """What `materialize` will do. Print it for a dry run; `table` has all layers, `explain` one of them."""

    def write_report(self, path: StrPath, title: str = "", latency: LatencyEstimate | None = None) -> None:
        """Write the plan for people to read: an .html page, or a figure as .svg, .pdf or .png.

        The page is `to_html`'s. The figure has bars of each layer's parameters and MACs, before and after;
        `speedup.plan_figure` makes it to be changed first. `title` is the name of the model's class by
        default. `latency` is shown beside the sizes.

        Raises:
            ReportFormatError: the suffix is another.
            MissingPackageError: figures need matplotlib, which is not installed.
            FileWriteError: the folder is missing or cannot be written to.
        """
        match Path(path).suffix.lower():
            case ".html" | ".htm":
                write_text(path, self.to_html(title, latency))
            case ".svg" | ".pdf" | ".png":
                write_figure(self.report, path, title or self.model_name, latency)
            case other:
                raise ReportFormatError(
                    f"a plan cannot be written to a file of type {other!r}; the name of {str(path)!r} has to "
                    "end in .html, .svg, .pdf or .png"
                )

    def to_json(self) -> str:
        """The plan as text, from which `from_json` makes an equal one, in any process. Nothing is pickled.

        The text holds everything but the model: edits with their constants, the report, the masks, and of
        the example input the shapes, with the values of what are no floating-point numbers and of short
        tensors. Its form is versioned and described by `speedup/text/plan.schema.json` (JSON Schema).

        Raises:
            PlanFormatError: the example input holds something that text cannot.
        """
        from speedup.text.plan_json import text_of

        return text_of(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """The plan that `to_json` wrote. It has no model: `materialize(plan, model=...)` takes one.

        Nothing in the text is executed; forwards that it rewrites are only accepted where they meet the
        model, see `materialize`.

        Raises:
            PlanFormatError: the text is truncated, of another version, or says what no plan says.
        """
        from speedup.text.plan_json import parts_of

        return cls(**asdict(parts_of(text), recurse=False))

    def apply(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The small model's state dict, from one of the planned model: bit for bit what `materialize` gives.

        It serves whatever is of the planned model's shapes and names: the model's own state, a checkpoint of
        it, a part of one, an averaged copy of the weights (EMA). A plan that follows from its masks alone
        holds for all numbers; one for which constants were computed from weights, or that counts zeros as
        masked, only for the numbers that were planned, which is checked.

        Args:
            state: tensors by the names of the planned model's state dict, not all need be there. It may be
                lazy: each tensor is asked for once, and let go before the next. The values may also be
                slices of a safetensors file, `safe_open(...).get_slice(name)`: of these only rows that stay
                are read. Sharded tensors (DTensor) are put together one at a time, for which all processes
                have to call this; `speedup.distributed` reads checkpoints without that.

        Returns:
            New tensors by the small model's names, on the devices and of the types of the given ones, and
            sharded as they are. A bias that only the small model has comes with the parameter whose type it
            has, its module's first.

        Raises:
            ArchitectureError: a name, shape or type is not as planned.
            OtherWeightsError: the plan does not hold for these numbers.
            InputError: a value is no tensor.
            ModelError: a tensor is packed by a library for quantisation.
        """
        from speedup.cutting.states import apply_to_state

        return apply_to_state(self, state)

    def apply_optimizer(self, state: Mapping[str, Any], names: Sequence[str] | None = None) -> dict[str, Any]:
        """The state for an optimizer of the small model, from that of one of the planned model.

        It is for `torch.optim`'s Adam, AdamW, SGD and RMSprop. Numbers of steps and settings stay as they
        are, and moments lose what the parameters lose; they are zero where a mask zeroes what stays.
        Training that goes on with it is, bit for bit, that of a small model which had these weights and
        moments from the start. Moments of what stays are not changed by constants: a bias to which constants
        are added, and a column that takes multiples of others, keep their own, as their gradients are what
        they were. A bias that only the small model has begins without moments.

        Args:
            state: what `optimizer.state_dict()` returned, or `get_optimizer_state_dict` of
                `torch.distributed.checkpoint`.
            names: the names of the optimizer's parameters, in the order in which it was given them; not
                needed where the state has them.

        Returns:
            What an optimizer takes by `load_state_dict` whose groups have the same parameters of the small
            model in the same order. New biases join the group of their module's parameters, where
            `named_parameters` lists them; "param_names" of each group says so.

        Raises:
            OptimizerStateError: the optimizer is another one, or the names or shapes do not fit; says why.
            ArchitectureError: the planned model has no parameter of a name.
            ModelError: the state is packed.
        """
        from speedup.cutting.optimizers import apply_to_optimizer

        return apply_to_optimizer(self, state, names)

    def apply_adapter(
        self,
        adapter: Mapping[str, Any] | StrPath,
        dst: StrPath | None = None,
        *,
        fan_in_fan_out: bool = False,
    ) -> dict[str, Any]:
        """The adapter for the small model, from a LoRA adapter of the planned one, as peft keeps it.

        `lora_A` loses the input columns that its weight loses, `lora_B` the output rows; where the mask
        zeroes rows or columns that stay, so does it in the factors. The small model with the new adapter is
        then the masked model whose weights are the mask times the sum of weight and product. What is saved
        whole (modules_to_save, biases) becomes what `apply` makes of it.

        Args:
            adapter: a folder with `adapter_config.json` and `adapter_model.safetensors`, or a state dict with
                peft's names.
            dst: a folder that is not there yet, or empty; it gets the new adapter, with the config of the
                old one.
            fan_in_fan_out: of a state dict, whether its weights list inputs first (`Conv1D` of transformers);
                of a folder, its config says so.

        Returns:
            The new tensors, by the names of the old ones.

        Raises:
            AdapterError: it cannot be cut, with the reason: another kind (DoRA, IA3, ...), a mask of single
                entries, a plan that depends on the numbers of a weight that the adapter changes; or the
                adapter is another model's, or damaged.
            ArchitectureError, OtherWeightsError: of what is saved whole, as `apply`.
            FileWriteError: `dst` is there already, or cannot be written to.
        """
        from speedup.cutting.adapters import apply_to_adapter

        return apply_to_adapter(self, adapter, dst, fan_in_fan_out)

    def __reduce__(self) -> tuple[Callable[[str], Plan], tuple[str]]:
        """A pickle holds the text of `to_json`: what comes of it has no model."""
        return restore_plan, (self.to_json(),)

    def __copy__(self) -> Plan:
        """The plan itself, which cannot change."""
        return self

    def __deepcopy__(self, memo: object) -> Plan:
        """The plan itself, which cannot change."""
        return self

    def diff(self, other: Plan) -> PlanDiff:
        """What differs from this plan to `other`: layers, edits, blockers, assumptions. Print it."""
        from speedup.text.plan_diff import plan_diff

        return plan_diff(self, other)

    def __repr__(self) -> str:
        return "\n".join(summary_lines(self.report, self._subject_line))

    def __str__(self) -> str:
        return self.overview()

    def overview(self, depth: int | None = None, latency: LatencyEstimate | None = None) -> str:
        """What `print` shows, on one screen: totals, the modules as a tree, and why what stays does.

        `depth` is how many levels of modules are told apart; None: as many as fit. The first line says what
        goes; where nothing does, how much is zero, and how much of that in whole slices. `latency`, what
        `estimate_latency(plan)` found, is a row of the totals.
        """
        return overview(self.report, self._subject_line, depth, latency=latency)

    def table(self, width: int | None = None) -> str:
        """All layers that change, all reasons, and the totals last, as a table in plain text.

        `width` is in characters; None: that of the terminal, within bounds.
        """
        # rich takes a while to import and is only needed here.
        from speedup.rendering.table import report_table

        return report_table(self.report, width)

    @property
    def _subject_line(self) -> str:
        """What the plan was made for: the model's class, the example, how many parameters have masks."""
        subject = self.subject
        more = len(subject.others) + len(subject.found)
        calls = f" and {more} other call{'s' if more > 1 else ''}" if more else ""
        count = len(subject.masks)
        masks = f"masks on {count} parameter{'s' if count > 1 else ''}" if count else "no masks"
        return f"{self.model_name} with x {call_text(subject.example)}{calls}, {masks}"

    def _repr_html_(self) -> str:
        from speedup.rendering.page.fragment import html_table

        return html_table(self.report)

    def to_html(self, title: str = "", latency: LatencyEstimate | None = None) -> str:
        """One HTML document that refers to nothing else: summary, graph, layers, and what stays and why.

        `title` is the name of the model's class by default. The page tells the date and the versions that it
        was made with. `latency`, what `estimate_latency(plan)` found, stands beside the sizes.
        """
        from speedup.rendering.page.document import html_report

        facts = (self._subject_line, made_today())
        return html_report(self.report, self.explain, title or self.model_name, facts, latency)

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


@stable
def restore_plan(text: str) -> Plan:
    """The plan of a text, as a pickle holds it."""
    return Plan.from_json(text)


def plan_figure(plan: Plan, title: str = "", latency: LatencyEstimate | None = None) -> Figure:
    """A figure with a bar per layer: pale what it was, dark what is left; the share of that beside it.

    In order of first use, at most 60 bars: layers of repeated blocks that change alike share one, and where
    there are still more, those of a module do. `title` is the name of the model's class by default;
    `latency`, what `estimate_latency(plan)` found, stands below it.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    return report_figure(plan.report, title or plan.model_name, latency)
