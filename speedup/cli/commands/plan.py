"""`speedup plan`: the dry run."""

from __future__ import annotations

import json
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
    Uniform,
    Weights,
)
from speedup.cli.progress import Steps
from speedup.cli.request import PlanRequest
from speedup.writing import write_text


def plan(
    model: Model,
    inputs: Inputs,
    calls: Calls = None,
    weights: Weights = None,
    masks: MaskFile = None,
    keep: Keep = None,
    align: Align = None,
    uniform: Uniform = None,
    lowerings: LoweringNames = "auto",
    device: DeviceName = None,
    dtype: TypeName = None,
    explain: Annotated[str | None, typer.Option("--explain", help="Say why, for one module.")] = None,
    depth: Annotated[
        int | None, typer.Option("--depth", min=1, help="Levels of modules to tell apart; else what fits.")
    ] = None,
    latency: Latency = False,
    table: Annotated[bool, typer.Option("--table", help="Print all layers and all reasons.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the whole plan here, as .json; - prints it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what would shrink, what would not, and why. Nothing is built.

    Example: speedup plan torchvision.models:resnet18 --input 1x3x224x224 --masks masks.pth

    Two calls: speedup plan net.py:make --input ids=1x16:int64:1000 --call "ids=1x1:int64:1000 past=1x4x9x8"
    """
    from speedup.cli.printing import require_suffix
    from speedup.cli.subject import estimate_for, read_plan_arguments
    from speedup.cli.summaries import plan_summary

    is_printed = out is not None and str(out) == "-"
    if out is not None and not is_printed:
        require_suffix(out, (".json",), "a plan")
    request = PlanRequest(
        *(model, inputs, calls, weights, masks, keep, align, uniform, lowerings, device, dtype)
    )
    with Steps(3 if latency else 2).shown() as step:
        with step("reading the model"):
            subject = read_plan_arguments(request)
        with step("planning"):
            made = subject.plan()
        estimate = estimate_for(made, step) if latency else None
    if out is not None and not is_printed:
        write_text(out, made.to_json() + "\n")
    if is_printed:
        typer.echo(made.to_json())
    elif explain is not None:
        said = made.explain(explain)
        typer.echo(json.dumps({"path": explain, "explanation": said.splitlines()}) if as_json else said)
    elif as_json:
        typer.echo(json.dumps(plan_summary(made, latency=estimate)))
    else:
        typer.echo(made.table() if table else made.overview(depth, estimate))
