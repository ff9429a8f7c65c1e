"""`speedup prune`: masks for those who have none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from attrs import evolve

from speedup.cli.options import SCORE_NAMES, AsJson, Calls, DeviceName, Inputs, Model, TypeName, Weights
from speedup.cli.progress import Steps
from speedup.cli.request import PlanRequest


def prune(
    model: Model,
    inputs: Inputs,
    out: Annotated[Path, typer.Option("--out", help="The mask file to write: .pt, .pth or .safetensors.")],
    calls: Calls = None,
    weights: Weights = None,
    sparsity: Annotated[
        float | None, typer.Option("--sparsity", help="The share of channels to mask, from 0 to 1.")
    ] = None,
    macs: Annotated[
        float | None,
        typer.Option("--macs", help="Instead: the share of the MACs that may be left, such as 0.5."),
    ] = None,
    parameters: Annotated[
        float | None,
        typer.Option("--parameters", help="Instead: the share of the parameters that may be left."),
    ] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option("--latency-ms", help="Instead: milliseconds that a forward on --input may take here."),
    ] = None,
    score: Annotated[
        str, typer.Option("--score", help=f"What tells channels apart: {', '.join(SCORE_NAMES)}.")
    ] = "l1",
    scope: Annotated[
        str, typer.Option("--scope", help="layer: all lose the same share; global: ranked together.")
    ] = "layer",
    skip: Annotated[
        list[str] | None, typer.Option("--skip", help="Module whose channels stay; repeatable.")
    ] = None,
    round_to: Annotated[
        int, typer.Option("--round-to", min=1, help="Leave multiples of so many channels.")
    ] = 1,
    device: DeviceName = None,
    dtype: TypeName = None,
    as_json: AsJson = False,
) -> None:
    """Make masks of the channels of least importance, for `plan` and `compact`. The model stays as it is.

    Example: speedup prune net.py:make --weights net.pt --input 1x3x32x32 --macs 0.5 --out masks.pth
    """
    from speedup.cli.printing import require_suffix, tell_written
    from speedup.cli.pruning import save_masks, scores_of
    from speedup.cli.subject import read_plan_arguments
    from speedup.pruners import make_masks

    require_suffix(out, (".pt", ".pth", ".safetensors"), "a mask file")
    scores = scores_of(score)
    request = PlanRequest(model, inputs, calls, weights, device=device, dtype=dtype)
    with Steps(4).shown() as step:
        with step("reading the model"):
            subject = read_plan_arguments(request, asks_for_weights=True)
        with step("masking"):
            masks = make_masks(
                *(subject.model, subject.example, scores, sparsity),
                macs=macs,
                parameters=parameters,
                latency_ms=latency_ms,
                others=subject.others,
                scope=scope,  # type: ignore[arg-type]
                skip=skip or (),
                round_to=round_to,
            )
        with step("planning"):
            made = evolve(subject, masks=masks).plan()
        with step("writing"):
            save_masks(masks, out)
    named = "1 parameter" if len(masks) == 1 else f"{len(masks)} parameters"
    tell_written(made, out, subject.warnings, as_json, masks=f"masks of {named}")
