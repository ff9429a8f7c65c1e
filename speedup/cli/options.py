"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SYNTAX = "1x3x224x224, 1x3x224x224:float16, ids=1x16:int64:1000 (a keyword argument, integers below 1000)"
"""How an example input is written."""

SCORE_NAMES = ("l1", "l2", "fpgm", "slimming", "random")
"""What `speedup prune` may tell channels apart by."""

Model = Annotated[
    str,
    typer.Argument(help="package.module:factory or file.py:factory, called without arguments."),
]
Inputs = Annotated[
    list[str],
    typer.Option("--input", help=f"Example input, once per argument of the forward: {SYNTAX}; or a file."),
]
Calls = Annotated[
    list[str] | None,
    typer.Option(
        "--call",
        help="A further call that the plan has to hold for, its inputs written as for --input, with spaces "
        "or semicolons between them; repeatable.",
    ),
]
Weights = Annotated[Path | None, typer.Option("--weights", help="State dict to load: .pt or .safetensors.")]
MaskFile = Annotated[str | None, typer.Option("--masks", help="Mask file; else zeros in the weights count.")]
Keep = Annotated[list[str] | None, typer.Option("--keep", help="Module that must not change; repeatable.")]
Align = Annotated[int | None, typer.Option("--align", min=1, help="Let widths be multiples of this.")]
Uniform = Annotated[
    int | None,
    typer.Option(
        "--uniform", min=1, help="Let repeated blocks be equally wide, in multiples of this, as configs ask."
    ),
]
LoweringNames = Annotated[
    str,
    typer.Option(
        "--lowerings",
        help="What may be done so that more goes: auto, none, or names with commas between them.",
    ),
]
DeviceName = Annotated[
    str | None, typer.Option("--device", help="Put model and inputs there, such as cuda; by default the CPU.")
]
TypeName = Annotated[
    str | None, typer.Option("--dtype", help="Cast the model and its floating-point inputs, such as float64.")
]
Latency = Annotated[
    bool, typer.Option("--latency", help="Estimate how long forwards take here, from measured calls.")
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print a summary as JSON, for other programs; errors too are JSON then."),
]
