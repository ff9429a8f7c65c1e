"""Compression and equivalence on torchvision's models for segmentation, detection, video and optical flow.

`python -m benchmarks.tasks [NAMES...] [--json FILE]` masks half of every convolution's filters, in float64
and in a lively state, and exits with 1 if a model is inexact or was touched.
"""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.verdicts import TOLERANCE, print_faults, record, table, verdict
from tests.support.measure import Exactness
from tests.support.tasks import TASKS, check_task


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Models; all by default.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results there too.")] = None,
    threads: Annotated[int, typer.Option(help="Threads torch may use.")] = 1,
) -> None:
    torch.set_num_threads(threads)
    results = [_checked(name) for name in names or TASKS]
    title = f"Half of every convolution's filters masked, in float64; {threads} thread(s)"
    Console().print(table(results, title))
    print_faults(results)
    if json_file is not None:
        json_file.write_text(json.dumps([record(result) for result in results], indent=1) + "\n")
    raise typer.Exit(0 if all(result.is_exact(TOLERANCE) for result in results) else 1)


def _checked(name: str) -> Exactness:
    result = check_task(name, also_verified=True)
    gc.collect()
    Console(stderr=True).print(f"{name}: {verdict(result)}", highlight=False)
    return result


if __name__ == "__main__":
    typer.run(main)
