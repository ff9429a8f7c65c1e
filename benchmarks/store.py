"""Results on disk: a JSON file per section, written row by row, so that a run cut short loses nothing.

A file holds `machine` (class of processor and cores, no names of hosts), `versions`, `conditions` and
`rows`, each row under a key and with its date. Rows measured on another class of machine or with other
versions are not comparable: the first row of a new run discards them.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from attrs import frozen

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]

_VERSIONS = ("speedup", "torch", "torchvision", "transformers", "numpy")


@frozen
class Store:
    """The results of all sections, below `folder`."""

    folder: Path = RESULTS

    def path(self, section: str) -> Path:
        return self.folder / f"{section}.json"

    def section(self, name: str) -> dict[str, Any]:
        """Everything stored for a section; empty when it never ran."""
        path = self.path(name)
        return json.loads(path.read_text()) if path.exists() else {}

    def rows(self, section: str) -> dict[str, Row]:
        rows: dict[str, Row] = self.section(section).get("rows", {})
        return rows

    def add(
        self, section: str, key: str, row: Mapping[str, Any], conditions: Mapping[str, Any] | None = None
    ) -> None:
        """Write one row of `section`, in place of an older one under the same key."""
        here = {"machine": machine(), "versions": versions()}
        stored = self.section(section)
        comparable = all(stored.get(name) == value for name, value in here.items())
        rows = stored.get("rows", {}) if comparable else {}
        rows[key] = {**row, "date": datetime.now(UTC).date().isoformat()}
        stored = {**here, "conditions": dict(conditions or {}), "rows": rows}
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.path(section).with_suffix(".part")
        unfinished.write_text(json.dumps(stored, indent=1, allow_nan=False) + "\n")
        unfinished.replace(self.path(section))


def machine() -> dict[str, Any]:
    """The class of machine: processor, cores, memory in GiB, GPU if any."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = version("torch-speedup" if name == "speedup" else name)
        except PackageNotFoundError:
            found[name] = "from a checkout" if name == "speedup" else "absent"
    return found


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
