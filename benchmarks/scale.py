"""Checkpoints larger than they should be in memory: made smaller on disk, planned without weights.

Section `scale`. Each size is measured in a process of its own, `benchmarks.scale_point`, in a folder that is
removed afterwards.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.settings import Settings
from benchmarks.store import Row

SIZES = ("2.5GB", "70B")
"""What is measured by default; `10GB` besides where the disk has 20 GB to spare, `tiny` in tests."""

_ROOT = Path(__file__).parents[1]
_TIMEOUT = 7200


def run(settings: Settings, sizes: tuple[str, ...] = SIZES, scratch: Path | None = None) -> None:
    """Measure each size; `scratch` is where checkpoints are written, by default where temporary files are."""
    for size in settings.chosen(sizes, ("tiny",)):
        settings.measure("scale", size, partial(_row, size, scratch))


def _row(size: str, scratch: Path | None) -> Row:
    with tempfile.TemporaryDirectory(prefix="speedup-scale-", dir=scratch) as folder:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale_point", size, folder]
        done = subprocess.run(
            command, cwd=_ROOT, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-300:] or f"exit status {done.returncode}")
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row
