"""Measured latencies to choose an alignment by: of the small model, and of its layers by their widths.

Which widths are fast is a matter of the device, the dtype, the sizes and the libraries behind torch, so
nothing is assumed here: measure on the device, and at the batch size, that the model will run on.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

import torch
from attrs import frozen
from rich.console import Console
from rich.table import Table

from speedup.analyses.alignment import Width
from speedup.errors import InputError
from speedup.ir.inputs import example_from
from speedup.masks import apply_masks
from speedup.measuring.conditions import (
    Conditions,
    conditions_of,
    moved_call,
    require_device,
)
from speedup.measuring.forwards import forward_of, small_on
from speedup.measuring.layer_calls import LayerCall, call_at, measurable
from speedup.measuring.subject import analysed_call
from speedup.measuring.timing import Timing, take_turns
from speedup.modules.isolation import isolated
from speedup.plan import Plan
from speedup.planning.planner import realign

# Quartiles that are further apart, as a share of the median, are no property of the model.
_NOISY = 0.15


@frozen
class ModelLatency:
    """The small model aligned to `align`: parameters, MACs for the planned example, time of one forward.

    Without alignment `align` is 1; None stands for the masked model.
    """

    align: int | None
    parameters: int
    macs: int
    timing: Timing


@frozen
class LatencyTable:
    """Latency of the masked model and of the small one by alignment. Print it.

    `best` is the alignment to plan with.
    """

    masked: ModelLatency
    rows: tuple[ModelLatency, ...]
    conditions: Conditions

    @property
    def spread(self) -> float:
        """How far apart the quartiles of a model are, as a share of its median, at most."""
        timings = (row.timing for row in (self.masked, *self.rows))
        return max((timing.high - timing.low) / timing.median for timing in timings)

    @property
    def is_noisy(self) -> bool:
        """Whether something else ran on the machine, so that medians say little."""
        return self.spread > _NOISY

    @property
    def best(self) -> int:
        """The least alignment that is not slower than the fastest one's upper quartile."""
        limit = min(self.rows, key=lambda row: row.timing.median).timing.high
        return min(row.align or 1 for row in self.rows if row.timing.median <= limit)

    def __str__(self) -> str:
        cells = (
            (_label(row.align), f"{row.parameters:,}", f"{row.macs:,}", str(row.timing))
            for row in (self.masked, *self.rows)
        )
        text = _printed(("model", "parameters", "MACs", "forward"), cells, self.conditions)
        if not self.is_noisy:
            return text
        return (
            f"{text}\nThe machine was too busy to tell: quartiles are up to {self.spread:.0%} of a median "
            "apart. Measure again while nothing else runs, with more rounds or fewer threads."
        )


@frozen
class LayerLatency:
    """One layer at several numbers of result channels, all else as in the small model.

    `path` and `weight` are as of a `Width`.
    """

    path: str
    widths: tuple[tuple[int, Timing], ...]
    weight: str = ""


@frozen
class WidthTable:
    """Latencies of layers by their widths. `plan_speedup(..., align=table.best_width)` chooses by them."""

    layers: tuple[LayerLatency, ...]
    conditions: Conditions

    def best_width(self, width: Width) -> int:
        """The fastest measured width from `width.kept` to `width.total`; `kept` where none was measured.

        Widths that are not slower than the fastest one's upper quartile count as equally fast; of these
        it is the smallest.
        """
        if width.side != "out" or width.groups != 1:
            return width.kept
        measured = [
            (count, timing)
            for layer in self.layers
            if (layer.path, layer.weight) == (width.path, width.weight)
            for count, timing in layer.widths
            if width.kept <= count <= width.total
        ]
        limit = min(measured, key=lambda one: one[1].median)[1].high if measured else -inf
        return min((count for count, timing in measured if timing.median <= limit), default=width.kept)

    def __str__(self) -> str:
        cells = (
            (layer.path, str(count), str(timing)) for layer in self.layers for count, timing in layer.widths
        )
        return _printed(("module", "channels", "call"), cells, self.conditions)


def latency_table(
    plan: Plan,
    x: Any = None,
    *,
    aligns: Sequence[int] = (1, 4, 8, 16),
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    threads: int | None = None,
    rounds: int = 11,
    seconds: float = 0.02,
) -> LatencyTable:
    """Plan again for each of `aligns` and measure the small models beside the masked one, taking turns.

    The planned model is not changed. All measured models are in memory together.

    Args:
        plan: a plan of the model, with or without alignment.
        x: the input to measure with, as in `plan_speedup`; None: the example that was planned with.
        aligns: the alignments to compare; 1 is none.
        device, dtype: what the small models and the floating-point inputs are moved to; None: as they are.
        threads: threads that torch may use on the CPU; None: as many as now.
        rounds: measurements of each model.
        seconds: how long a measurement takes at least; short forwards are repeated in it.

    Raises:
        InputError: there is nothing to measure, `x` is no input, or `device` is not there.
    """
    if not aligns or rounds < 2:
        raise InputError("nothing to measure: give at least one alignment and at least two rounds")
    require_device(device)
    plans = [realign(plan, align) for align in aligns]
    example = moved_call(plan.subject.example if x is None else example_from(x), device, dtype)
    masked = apply_masks(plan.subject.planned_model(), plan.subject.masks).eval()
    models = [masked.to(device=device, dtype=dtype), *(small_on(one, device, dtype) for one in plans)]
    runs = [forward_of(model, example) for model in models]
    with isolated():
        before, *timings = take_turns(runs, rounds=rounds, threads=threads, seconds=seconds)
    rows = (
        ModelLatency(align, one.parameters_after, one.macs_after, timing)
        for align, one, timing in zip(aligns, plans, timings, strict=True)
    )
    baseline = ModelLatency(None, plan.parameters_before, plan.macs_before, before)
    return LatencyTable(baseline, tuple(rows), conditions_of(example, threads, rounds))


def _label(align: int | None) -> str:
    if align is None:
        return "masked"
    return "small" if align == 1 else f"small, aligned to {align}"


def measure_widths(
    plan: Plan,
    x: Any = None,
    *,
    reach: int = 16,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    threads: int | None = None,
    rounds: int = 7,
    seconds: float = 0.01,
) -> WidthTable:
    """Measure each layer that shrinks at the widths from what it keeps to `reach` more.

    Layers are products with a weight, by whichever operator, without groups or depthwise. Each is called as
    in the small model without alignment, on random numbers; layers of the same sizes are measured once. One
    layer takes about `reach * rounds * seconds`. Arguments are otherwise as in `latency_table`.

    Raises:
        InputError: `x` is no input, or `device` is not there.
        UnboundPlanError: the plan was read back, and so does not say how it was made.
    """
    call = analysed_call(plan, x, device, dtype)
    known: dict[tuple[LayerCall, ...], tuple[tuple[int, Timing], ...]] = {}
    layers: list[LayerLatency] = []
    with isolated():
        for op, dim in measurable(call.analysis):
            least, most = call.analysis.kept.count(dim.dim), call.analysis.kept[dim.dim].numel()
            widths = range(least, min(least + reach, most) + 1)
            calls = tuple(call_at(width, op, dim, call.analysis) for width in widths)
            if calls not in known:
                runs = [one.runnable(call.fill) for one in calls]
                timings = take_turns(runs, rounds=rounds, threads=threads, seconds=seconds)
                known[calls] = tuple(zip(widths, timings, strict=True))
            layers.append(LayerLatency(op.owner.path, known[calls], dim.weight))
    return WidthTable(tuple(layers), conditions_of(call.example, threads, rounds))


def _printed(headings: Sequence[str], rows: Iterable[Sequence[str]], conditions: Conditions) -> str:
    stream = io.StringIO()
    table = Table()
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(file=stream, width=120, color_system=None, highlight=False).print(table)
    return f"{stream.getvalue().rstrip()}\n{conditions}"
