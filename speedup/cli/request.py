"""What a command line says about a plan, as it says it: nothing is read yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import frozen


@frozen
class PlanRequest:
    """The options that several commands have in common; see `speedup.cli.options` for what they mean."""

    model: str
    inputs: Sequence[str]
    calls: Sequence[str] | None = None
    weights: Path | None = None
    masks: str | None = None
    keep: Sequence[str] | None = None
    align: int | None = None
    uniform: int | None = None
    lowerings: str = "auto"
    device: str | None = None
    dtype: str | None = None
