"""When a tool's result counts as exact."""

from __future__ import annotations

from benchmarks.store import Row

# In standard deviations of an output: float64 rounding stays far below, a lost constant far above.
EXACT_BELOW = 1e-6


def is_exact(row: Row) -> bool:
    """Whether a tool's result computes what the masked model does."""
    error = row.get("error")
    return bool(row.get("works")) and error is not None and error < EXACT_BELOW
