"""Compacts the demo's networks, measures them before and after, and prints what came out."""

from __future__ import annotations

import copy

import attrs
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from speedup import Plan, apply_masks, materialize, plan_speedup
from speedup.demo.cases import DemoCase, lenet, resnet18
from speedup.errors import OutputError
from speedup.measuring.timing import take_turns

# Re-association of float64 sums stays orders of magnitude below this; a lost constant does not.
LARGEST_ERROR = 1e-10
CHECKED_INPUTS = 4
TIMED_ROUNDS = 15
# A longer listing of modules would only repeat the plan.
LISTED_MODULES = 10


@attrs.frozen
class Latency:
    """Median seconds of one forward of the masked and of the small model, on one thread."""

    before: float
    after: float


@attrs.frozen(eq=False)
class Outcome:
    """One case, compacted and measured; `error` is what `relative_error` returned."""

    name: str
    plan: Plan
    small: nn.Module
    error: float
    latency: Latency


def run_demo() -> None:
    """Compact and measure both networks and print the result.

    Raises `EquivalenceError` if a small model's outputs are not the masked model's.
    """
    console = Console()
    for case in (lenet(), resnet18()):
        outcome = measure_case(case)
        _print(outcome, console)
        _require_equivalence(outcome)


def demo_outcomes() -> tuple[Outcome, ...]:
    """Both networks, compacted and measured.

    Raises `EquivalenceError` if a small model's outputs are not the masked model's.
    """
    outcomes = tuple(measure_case(case) for case in (lenet(), resnet18()))
    for outcome in outcomes:
        _require_equivalence(outcome)
    return outcomes


def measure_case(case: DemoCase) -> Outcome:
    """Plan, materialize and measure `case`; its model is left as it is."""
    example = case.inputs(batch=1, seed=0)
    plan = plan_speedup(case.model, example, case.masks)
    small = materialize(plan)
    masked = apply_masks(case.model, case.masks)
    return Outcome(case.name, plan, small, relative_error(case), measure_latency(masked, small, example))


def relative_error(case: DemoCase) -> float:
    """The largest difference between small and masked outputs in float64, over how outputs vary.

    The unit is the standard deviation of an output over the inputs, averaged over the outputs:
    a difference can then not hide behind a large constant that all outputs share.
    """
    model = copy.deepcopy(case.model).double()
    inputs = case.inputs(CHECKED_INPUTS, seed=1).double()
    small = materialize(plan_speedup(model, inputs[:1], case.masks))
    with torch.inference_mode():
        expected: Tensor = apply_masks(model, case.masks)(inputs)
        difference = (small(inputs) - expected).abs().max()
        return float(difference / expected.std(dim=0).mean())


def measure_latency(masked: nn.Module, small: nn.Module, x: Tensor) -> Latency:
    """Median times of both models on `x`, their runs interleaved so that both see the same machine.

    On one thread: on a busy machine, threads that wait for one another measure the other processes.
    """
    runs = (lambda: masked(x)), (lambda: small(x))
    before, after = take_turns(runs, rounds=TIMED_ROUNDS, threads=1)
    return Latency(before.median, after.median)


def _require_equivalence(outcome: Outcome) -> None:
    # Written so that a NaN fails too.
    if not outcome.error <= LARGEST_ERROR:
        raise OutputError(
            f"{outcome.name}: the small model's outputs differ from the masked model's by "
            f"{outcome.error:.1e} of their variation (at most {LARGEST_ERROR:.0e} is rounding); "
            "this is a bug in speedup, please report it"
        )


def _print(outcome: Outcome, console: Console) -> None:
    console.rule(outcome.name)
    # The plan and the modules are laid out already: no wrapping, no markup, no colours.
    print(outcome.plan)
    if len(list(outcome.small.modules())) <= LISTED_MODULES:
        print(outcome.small)
    console.print(_measurements(outcome))
    console.print(
        f"largest error against the masked model, float64, {CHECKED_INPUTS} inputs, "
        f"in standard deviations of an output: {outcome.error:.1e}\n"
        f"latency: median of {TIMED_ROUNDS} interleaved runs, "
        f"batch size 1, float32, 1 thread",
        highlight=False,
    )


def _measurements(outcome: Outcome) -> Table:
    plan, latency = outcome.plan, outcome.latency
    table = Table("", "before", "after", "after / before")
    for column in table.columns[1:]:
        column.justify = "right"
    _add_row(table, "parameters", plan.parameters_before, plan.parameters_after)
    _add_row(table, "MACs", plan.macs_before, plan.macs_after)
    _add_row(table, "latency, ms", latency.before * 1e3, latency.after * 1e3)
    return table


def _add_row(table: Table, label: str, before: float, after: float) -> None:
    table.add_row(label, _number(before), _number(after), f"{after / before:.3f}")


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
