"""How results of checks for exactness are told: as a table, in words, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from attrs import asdict
from rich.table import Table

from tests.support.measure import Exactness

TOLERANCE = 1e-9


def record(result: Exactness) -> dict[str, object]:
    """`result` as JSON takes it: an error that is not finite becomes null."""
    return {**asdict(result), "error": result.error if math.isfinite(result.error) else None}


def table(results: Sequence[Exactness], title: str) -> Table:
    table = Table(title=f"{title}: parts kept and relative error")
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


def verdict(result: Exactness) -> str:
    if result.failure is not None:
        return f"failed: {result.failure.strip().splitlines()[-1]}"
    touched = f", touched {len(result.touched)} things" if result.touched else ""
    return f"error {result.error:.1e}, {result.parameters_kept:.3f} of the parameters kept{touched}"


def print_faults(results: Sequence[Exactness]) -> None:
    faulty = [result for result in results if not result.is_exact(TOLERANCE)]
    print(f"{len(results) - len(faulty)} of {len(results)} exact (below {TOLERANCE:.0e}) and untouched")
    for result in faulty:
        print(f"{result.name}: {verdict(result)}")
