"""How a run goes: how long, on how many threads, and where its results go."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import frozen

from benchmarks.store import Row, Store


@frozen
class Settings:
    """`smoke` runs every section on its smallest subjects only, in seconds; its figures mean nothing."""

    store: Store
    smoke: bool = False
    threads: int = 2
    only: tuple[str, ...] = ()

    def chosen(self, names: Iterable[str], smoke: Iterable[str]) -> list[str]:
        """Those of `names` that this run is about."""
        found = list(smoke if self.smoke else names)
        return [name for name in found if not self.only or name in self.only]

    def conditions(self) -> Mapping[str, Any]:
        return {"threads": self.threads, "smoke": self.smoke}

    def measure(self, section: str, key: str, row: Callable[[], Row]) -> None:
        """Store what `row` returns, or why it failed, and say so: one failure must not end a long run."""
        try:
            found = row()
        except Exception as error:
            traceback.print_exc(limit=-3)
            found = {"failure": f"{type(error).__name__}: {str(error).strip()[:300]}"}
        self.store.add(section, key, found, self.conditions())
        print(f"{section}: {key}: {found.get('failure', 'done')}", file=sys.stderr, flush=True)
