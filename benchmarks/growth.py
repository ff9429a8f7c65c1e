"""How the cost of planning grows: against depth, width, resolution and parameters. Section `growth`.

Every point is measured in a process of its own, which makes its peak of memory its own.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.settings import Settings
from benchmarks.store import Row

_ROOT = Path(__file__).parents[1]
_TIMEOUT = 900
# Kind of growth -> the sizes it is measured at. Parameters are in millions.
SIZES: Mapping[str, tuple[int, ...]] = {
    "depth": (10, 30, 100, 300, 1000),
    "depth_attention": (4, 12, 36, 108),
    "width": (16, 64, 256, 1024),
    "resolution": (32, 64, 128, 256, 512),
    "parameters": (1, 10, 100, 1000, 7000, 70000),
}
_SMOKE = {"depth": (2, 4)}


def run(settings: Settings) -> None:
    """Measure all points, one row each under `kind/size`."""
    sizes = _SMOKE if settings.smoke else SIZES
    for kind in settings.chosen(sizes, sizes):
        for size in sizes[kind]:
            settings.measure("growth", f"{kind}/{size}", partial(_row, kind, size))


def _row(kind: str, size: int) -> Row:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.growth_point", kind, str(size)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-300:] or f"exit status {done.returncode}")
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return {"kind": kind, "size": size, **row}


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The slope of a least-squares line through (log x, log y): y grows as x to this power."""
    if len(points) < 2:
        return math.nan
    xs, ys = ([math.log(v) for v in axis] for axis in zip(*points, strict=True))
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return covariance / sum((x - mean_x) ** 2 for x in xs)


def series(rows: Mapping[str, Row], kind: str, quantity: str) -> list[tuple[float, float]]:
    """(size, `quantity`) of the points of one kind, in order of size; sizes of depth count layers."""
    found = [
        (row["layers" if kind.startswith("depth") else "size"], row[quantity])
        for row in rows.values()
        if row.get("kind") == kind
    ]
    return sorted(found)
