"""A plan as one HTML file that needs nothing else: summary, graph, layers, and what could go but stays."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from speedup.plan import Plan

__all__ = ["write_report"]


def write_report(plan: Plan, path: str | PathLike[str]) -> Path:
    """Write `plan.to_html()` to the file `path`, which is returned.

    Raises:
        OSError: the file cannot be written.
    """
    target = Path(path)
    target.write_text(plan.to_html(), encoding="utf-8")
    return target
