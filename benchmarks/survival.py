"""What small models survive beside their originals: `python -m benchmarks.survival [NAMES...]`.

Exits with 1 if one does not survive what its original does, or is not as small as expected.
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from rich.console import Console

from tests.support.survival import Survival
from tests.support.survival_cases import CASES, check_case
from tests.support.survival_table import table_lines


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Cases; all by default.")] = None,
    quick: Annotated[bool, typer.Option(help="Only those that every test run has.")] = False,
    threads: Annotated[int, typer.Option(help="Threads torch may use.")] = 1,
) -> None:
    torch.set_num_threads(threads)
    chosen = names or [name for name, case in CASES.items() if case.quick or not quick]
    results = [_checked(name) for name in chosen]
    survivals = [result for result in results if isinstance(result, Survival)]
    for line in table_lines(survivals):
        print(line)
    faults = [result for result in results if isinstance(result, str)]
    for fault in faults:
        print(fault)
    raise typer.Exit(1 if faults or any(survival.failures for survival in survivals) else 0)


def _checked(name: str) -> Survival | str:
    """What `name` survives, or what went wrong before that could be asked."""
    Console(stderr=True).print(name, highlight=False)
    try:
        return check_case(name)
    except Exception as error:
        return f"{name}: {type(error).__name__}: {error}"


if __name__ == "__main__":
    typer.run(main)
