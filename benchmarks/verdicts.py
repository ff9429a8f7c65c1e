"""How results of checks for exactness are told: as a table, in words, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from attrs import asdict
from rich.table import Table

from tests.support.measure import AtSize, Exactness

TOLERANCE = 1e-9


def record(result: Exactness) -> dict[str, object]:
    """`result` as JSON takes it: an error that is not finite becomes null.

    An error by size is null too where the size is refused, and "inf" where only the small model fails.
    """
    sizes = [{"size": at.size, "error": _finite_or_text(at.error)} for at in result.sizes]
    error = result.error if math.isfinite(result.error) else None
    return {**asdict(result), "error": error, "sizes": sizes}


def _finite_or_text(error: float | None) -> float | str | None:
    return error if error is None or math.isfinite(error) else str(error)


def table(results: Sequence[Exactness], title: str) -> Table:
    table = Table(title=f"{title}: parts kept and relative error")
    for heading in ("model", "params", "MACs", "error", "untouched", "plan s", "make s"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for result in results:
        table.add_row(result.name, *_cells(result), style=None if result.is_exact(TOLERANCE) else "red")
    return table


def work_table(results: Sequence[Exactness], title: str) -> Table:
    """What layers keep beside what they need, the errors at each batch size; at the end means."""
    batches = next((result.batches for result in results if result.batches), ())
    table = Table(title=f"{title}: parts kept, what layers need, relative error")
    headings = ("model", "params", "MACs kept", "needed", "over", "of the saving")
    for heading in (*headings, *(f"error at {at.size}" for at in batches), "untouched", "plan s"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for result in results:
        exact = result.is_exact(TOLERANCE)
        table.add_row(result.name, *_work_cells(result), style=None if exact else "red")
    counted = [result.work for result in results if result.work is not None]
    if counted:
        kept, allowed = fmean(work.kept for work in counted), fmean(work.allowed for work in counted)
        table.add_section()
        table.add_row("mean", "", *_saving_cells(kept, allowed))
    return table


def _work_cells(result: Exactness) -> Iterable[str]:
    work = result.work
    yield f"{result.parameters_kept:.3f}" if result.parameters_before else "-"
    yield from ("-",) * 4 if work is None else _saving_cells(work.kept, work.allowed)
    yield from (_at_size(at) for at in result.batches)
    yield "no" if result.touched else "yes"
    yield "failed" if result.failure else f"{result.plan_seconds:.2f}"


def _saving_cells(kept: float, allowed: float) -> Iterable[str]:
    share = f"{(1 - kept) / (1 - allowed):.0%}" if allowed < 1 else "-"
    return (f"{kept:.3f}", f"{allowed:.3f}", f"{kept / allowed:.2f}" if allowed else "-", share)


def size_table(results: Sequence[Exactness], title: str) -> Table:
    """Errors by height and width: at the size that a model was planned at, then a column for each other."""
    others = sorted({at.size for result in results for at in result.sizes[1:]})
    table = Table(title=f"{title}: relative error by height and width")
    for heading in ("model", "planned at", "error there", *map(str, others), "untouched"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for result in results:
        first, *rest = result.sizes or (AtSize(0, math.nan),)
        found = {at.size: _at_size(at) for at in rest}
        table.add_row(
            result.name,
            str(first.size or "-"),
            _at_size(first) if first.size else "failed",
            *(found.get(size, "-") for size in others),
            "no" if result.touched else "yes",
            style=None if result.is_exact(TOLERANCE) else "red",
        )
    return table


def _at_size(at: AtSize) -> str:
    return "refused" if at.error is None else f"{at.error:.1e}"


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
