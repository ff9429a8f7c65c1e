"""`speedup report`: the plan as a page or a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from speedup.cli.options import (
    Align,
    AsJson,
    Calls,
    DeviceName,
    Inputs,
    Keep,
    Latency,
    LoweringNames,
    MaskFile,
    Model,
    TypeName,
    Weights,
)
from speedup.cli.progress import Steps
from speedup.cli.request import PlanRequest


def report(
    model: Model,
    inputs: Inputs,
    out: Annotated[Path, typer.Option("--out", help="The file to write: .html, .svg, .png or .pdf.")],
    calls: Calls = None,
    weights: Weights = None,
    masks: MaskFile = None,
    keep: Keep = None,
    align: Align = None,
    lowerings: LoweringNames = "auto",
    device: DeviceName = None,
    dtype: TypeName = None,
    latency: Latency = False,
    as_json: AsJson = False,
) -> None:
    """Write the plan as a page to look at (.html), or as a figure (.svg, .png, .pdf).

    Example: speedup report net.py:make --weights net.pt --masks masks.pth --input 1x3x32x32 --out report.html
    """
    from speedup.cli.printing import require_suffix, tell_written
    from speedup.cli.subject import estimate_for, read_plan_arguments

    require_suffix(out, (".html", ".htm", ".svg", ".png", ".pdf"), "a report")
    request = PlanRequest(
        *(model, inputs, calls, weights, masks, keep, align, None, lowerings, device, dtype)
    )
    with Steps(4 if latency else 3).shown() as step:
        with step("reading the model"):
            subject = read_plan_arguments(request, asks_for_weights=True)
        with step("planning"):
            made = subject.plan()
        estimate = estimate_for(made, step) if latency else None
        with step("drawing"):
            made.write_report(out, latency=estimate)
    tell_written(made, out, subject.warnings, as_json)
