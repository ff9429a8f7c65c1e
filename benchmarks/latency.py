"""Latency of the masked model beside that of the small one: `python -m benchmarks.latency [NAMES...]`.

float32 at 224 x 224, half of every convolution's filters masked, each layer on its own. The two take turns,
so that a change in the machine's load meets both.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Annotated

import torch
import typer
from attrs import frozen
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from speedup import apply_masks, materialize, plan_speedup
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


def interleaved_medians(models: Sequence[nn.Module], x: Tensor, repeats: int) -> tuple[float, ...]:
    """Median seconds of a forward pass in inference mode, per model, taking turns after one to warm up."""
    seconds: list[list[float]] = [[] for _ in models]
    with torch.inference_mode():
        for model in models:
            model(x)
        for _ in range(repeats):
            for model, runs in zip(models, seconds, strict=True):
                start = time.perf_counter()
                model(x)
                runs.append(time.perf_counter() - start)
    return tuple(median(runs) for runs in seconds)


def _latency(name: str, batch: int, repeats: int) -> Latency:
    model, masks = lively_classifier(name)
    x = vision.images(batch, SIZE, seed=0)
    plan = plan_speedup(model, x[:2], masks)
    masked, small = interleaved_medians([apply_masks(model, masks), materialize(plan)], x, repeats)
    return Latency(name, masked, small, plan.macs_after / plan.macs_before)


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
