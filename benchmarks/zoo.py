"""Compression and equivalence on torchvision's classifiers with half of every convolution's filters masked.

`python -m benchmarks.zoo [NAMES...] [--max-params 100e6] [--json FILE]` takes every classifier of at most
that many parameters, in float64 and in a lively state, and exits with 1 if one is inexact or was touched.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from attrs import asdict
from rich.console import Console
from rich.table import Table

from tests.support import vision
from tests.support.measure import Exactness
from tests.support.zoo import check_classifier

TOLERANCE = 1e-9


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Classifiers; all by default.")] = None,
    max_params: Annotated[float, typer.Option(help="Leave out larger models.")] = 100e6,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results there too.")] = None,
    threads: Annotated[int, typer.Option(help="Threads torch may use.")] = 1,
) -> None:
    torch.set_num_threads(threads)
    results = [_checked(name) for name in names or vision.classifiers(int(max_params))]
    Console().print(_table(results, threads))
    _print_faults(results)
    if json_file is not None:
        json_file.write_text(json.dumps([_record(result) for result in results], indent=1) + "\n")
    raise typer.Exit(0 if all(result.is_exact(TOLERANCE) for result in results) else 1)


def _checked(name: str) -> Exactness:
    result = check_classifier(name)
    # Models of a few hundred MB in float64: cycles must not keep the last one beside the next.
    gc.collect()
    Console(stderr=True).print(f"{name}: {_verdict(result)}", highlight=False)
    return result


def _record(result: Exactness) -> dict[str, object]:
    """`result` as JSON takes it: an error that is not finite becomes null."""
    return {**asdict(result), "error": result.error if math.isfinite(result.error) else None}


def _table(results: Sequence[Exactness], threads: int) -> Table:
    table = Table(title=f"R1 in float64: parts kept and relative error; {threads} thread(s)")
    for heading in ("model", "params", "MACs", "error", "untouched", "plan s", "make s"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for result in results:
        table.add_row(result.name, *_cells(result), style=None if result.is_exact(TOLERANCE) else "red")
    return table


def _cells(result: Exactness) -> Iterable[str]:
    untouched = "no" if result.touched else "yes"
    if not result.parameters_before:
        return ("-", "-", "failed", untouched, "-", "-")
    return (
        f"{result.parameters_kept:.3f}",
        f"{result.macs_kept:.3f}",
        "failed" if result.failure else f"{result.error:.1e}",
        untouched,
        f"{result.plan_seconds:.2f}",
        f"{result.materialize_seconds:.2f}",
    )


def _verdict(result: Exactness) -> str:
    if result.failure is not None:
        return f"failed: {result.failure.strip().splitlines()[-1]}"
    touched = f", touched {len(result.touched)} things" if result.touched else ""
    return f"error {result.error:.1e}, {result.parameters_kept:.3f} of the parameters kept{touched}"


def _print_faults(results: Sequence[Exactness]) -> None:
    faulty = [result for result in results if not result.is_exact(TOLERANCE)]
    print(f"{len(results) - len(faulty)} of {len(results)} exact (below {TOLERANCE:.0e}) and untouched")
    for result in faulty:
        print(f"{result.name}: {_verdict(result)}")


if __name__ == "__main__":
    typer.run(main)
