"""Latency of the masked model beside that of the small one: `python -m benchmarks.latency [NAMES...]`.

float32 at 224 x 224, half of every convolution's filters masked, each layer on its own. The two take turns,
so that a change in the machine's load meets both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
import typer
from attrs import frozen
from rich.console import Console
from rich.table import Table

from speedup import apply_masks, materialize, plan_speedup
from speedup.timing import take_turns
from tests.support import vision
from tests.support.zoo import lively_classifier

SIZE = 224
MODELS = ("resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "densenet121")


@frozen
class Latency:
    """Median seconds of one forward pass of the masked and of the small model, and the share of MACs kept."""

    name: str
    masked: float
    small: float
    macs_kept: float


def main(
    names: Annotated[list[str] | None, typer.Argument(help="torchvision classifiers.")] = None,
    batch: Annotated[int, typer.Option(help="Images in a forward pass.")] = 8,
    repeats: Annotated[int, typer.Option(help="Forward passes of each model.")] = 9,
    threads: Annotated[int, typer.Option(help="Threads torch may use.")] = 1,
) -> None:
    torch.set_num_threads(threads)
    latencies = [_latency(name, batch, repeats) for name in names or MODELS]
    Console().print(_table(latencies, f"batch {batch}, {threads} thread(s), medians of {repeats}"))


def _latency(name: str, batch: int, repeats: int) -> Latency:
    model, masks = lively_classifier(name)
    x = vision.images(batch, SIZE, seed=0)
    plan = plan_speedup(model, x[:2], masks)
    models = [apply_masks(model, masks), materialize(plan)]
    masked, small = take_turns([partial(one, x) for one in models], rounds=repeats)
    return Latency(name, masked.median, small.median, plan.macs_after / plan.macs_before)


def _table(latencies: Sequence[Latency], conditions: str) -> Table:
    table = Table(title=f"forward pass, {conditions}")
    table.add_column("model")
    for heading in ("masked ms", "small ms", "masked / small", "MACs kept"):
        table.add_column(heading, justify="right")
    for it in latencies:
        times = (f"{1e3 * it.masked:.1f}", f"{1e3 * it.small:.1f}", f"{it.masked / it.small:.2f}")
        table.add_row(it.name, *times, f"{it.macs_kept:.3f}")
    return table


if __name__ == "__main__":
    typer.run(main)
