"""What planning costs beside an export: the time of plan_speedup less that of torch.export, over the latter.

The last column is that of a further plan of a model which `trace` has traced before, over an export.

`python -m benchmarks.plan_cost [NAMES...]` exits with 1 if a model's median ratio is 1 or more. float32 at
224 x 224; half of every convolution's filters are masked, in a ViT half of the hidden rows of every encoder
block's MLP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Annotated

import torch
import typer
from attrs import frozen
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from speedup import plan_speedup, trace
from tests.support import vision
from tests.support.masking import Masks, l1_half_masks, random_row_masks
from tests.support.zoo import lively_classifier

SIZE = 224
LIMIT = 1.0
MODELS = ("resnet50", "densenet121", "vit_b_16")


@frozen(eq=False)
class Subject:
    """A masked model and an example input."""

    name: str
    model: nn.Module
    masks: Masks
    example: Tensor


@frozen
class Cost:
    """Seconds of one `plan_speedup`, of one `torch.export.export` of the same model, and of a plan more."""

    plan: float
    export: float
    again: float

    @property
    def ratio(self) -> float:
        return (self.plan - self.export) / self.export


def main(
    names: Annotated[list[str] | None, typer.Argument(help="torchvision classifiers.")] = None,
    repeats: Annotated[int, typer.Option(help="Measurements of each model.")] = 7,
    threads: Annotated[int, typer.Option(help="Threads torch may use.")] = 1,
) -> None:
    torch.set_num_threads(threads)
    subjects = [_subject(name) for name in names or MODELS]
    # The first call in a process imports what torch.export needs.
    measured(subjects[0])
    costs: dict[str, list[Cost]] = {subject.name: [] for subject in subjects}
    for _ in range(repeats):
        for subject in subjects:
            costs[subject.name].append(measured(subject))
    Console().print(_table(costs, repeats, threads))
    raise typer.Exit(1 if any(_median_ratio(costs[name]) >= LIMIT for name in costs) else 0)


def measured(subject: Subject) -> Cost:
    """Plan once, export the model once as it is, and plan once from a trace."""
    traced = trace(subject.model, subject.example)
    return Cost(
        again=_seconds(lambda: plan_speedup(traced, masks=subject.masks)),
        plan=_seconds(lambda: plan_speedup(subject.model, subject.example, subject.masks)),
        export=_seconds(lambda: torch.export.export(subject.model, (subject.example,), strict=False)),
    )


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _subject(name: str) -> Subject:
    recipe = _half_of_hidden_rows if name.startswith("vit") else l1_half_masks
    model, masks = lively_classifier(name, size=SIZE, recipe=recipe)
    return Subject(name, model, masks, vision.images(1, SIZE, seed=0))


_half_of_hidden_rows = partial(
    random_row_masks, fraction=0.5, seed=0, select=lambda path, _: path.endswith("mlp.0")
)


def _median_ratio(costs: Sequence[Cost]) -> float:
    return median(cost.ratio for cost in costs)


def _table(costs: dict[str, list[Cost]], repeats: int, threads: int) -> Table:
    table = Table(title=f"medians of {repeats} interleaved runs, {threads} thread(s)")
    table.add_column("model")
    for heading in ("plan_speedup s", "torch.export s", "(plan - export) / export", "again / export"):
        table.add_column(heading, justify="right")
    for name, runs in costs.items():
        ratio = _median_ratio(runs)
        seconds = (median(run.plan for run in runs), median(run.export for run in runs))
        style = None if ratio < LIMIT else "red"
        again = median(run.again / run.export for run in runs)
        figures = (*(f"{value:.3f}" for value in seconds), f"{ratio:.2f}", f"{again:.2f}")
        table.add_row(name, *figures, style=style)
    return table


if __name__ == "__main__":
    typer.run(main)
