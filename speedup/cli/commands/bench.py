"""`speedup bench`: how long the masked model takes, and how long small ones do."""

from __future__ import annotations

from typing import Annotated

import typer

from speedup.cli.options import (
    AsJson,
    Calls,
    DeviceName,
    Inputs,
    Keep,
    LoweringNames,
    MaskFile,
    Model,
    TypeName,
    Weights,
)
from speedup.cli.progress import Steps
from speedup.cli.request import PlanRequest


def bench(
    model: Model,
    inputs: Inputs,
    calls: Calls = None,
    weights: Weights = None,
    masks: MaskFile = None,
    keep: Keep = None,
    align: Annotated[
        list[int] | None, typer.Option("--align", min=1, help="Alignments to compare; 1 is none.")
    ] = None,
    lowerings: LoweringNames = "auto",
    device: DeviceName = None,
    dtype: TypeName = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads that torch may use.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="Measurements of each model.")] = 11,
    as_json: AsJson = False,
) -> None:
    """Measure the masked model beside the small one at several alignments, taking turns.

    Example: speedup bench net.py:make --weights net.pt --masks masks.pth --input 32x3x32x32 --align 1 --align 8
    """  # noqa: E501
    from speedup.cli.printing import tell
    from speedup.cli.subject import read_plan_arguments
    from speedup.cli.summaries import latency_summary
    from speedup.measuring.latency import latency_table

    request = PlanRequest(
        *(model, inputs, calls, weights, masks, keep), lowerings=lowerings, device=device, dtype=dtype
    )
    with Steps(3).shown() as step:
        with step("reading the model"):
            subject = read_plan_arguments(request, asks_for_weights=True)
        with step("planning"):
            made = subject.plan()
        with step("measuring"):
            table = latency_table(made, aligns=align or (1, 8), threads=threads, rounds=rounds)
    tell(latency_summary(table, subject.warnings), str(table), as_json)
