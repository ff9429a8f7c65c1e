"""What commands print when they are done, in words or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from speedup.cli.summaries import choices_summary, file_summary
from speedup.errors import FileWriteError
from speedup.plan import Plan
from speedup.rendering.verdict import verdict
from speedup.sparse.choices import Choices


def tell(summary: dict[str, Any], said: str, as_json: bool) -> None:
    """Print what came out; warnings are in the summary, or go to stderr."""
    if as_json:
        typer.echo(json.dumps(summary))
        return
    for warning in summary["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(said)


def tell_written(
    made: Plan,
    out: Path,
    warnings: Sequence[str],
    as_json: bool,
    choices: Choices | None = None,
    **further: str,
) -> None:
    """Print what a plan comes to, what was measured for it, and the file that was written of it."""
    said = "; ".join(["written", *further.values()])
    summary = file_summary(made, out, warnings, **further)
    lines = [verdict(made.report)]
    if choices is not None:
        summary |= choices_summary(choices)
        lines.append(str(choices))
    tell(summary, "\n".join([*lines, f"{out}: {said}"]), as_json)


def require_suffix(path: Path, known: Sequence[str], what: str) -> None:
    """Refuse a name that does not say what is written to `path`.

    Raises:
        FileWriteError: it ends in something else than what is `known`.
    """
    if path.suffix.lower() not in known:
        raise FileWriteError(
            f"--out {str(path)!r}: {what} is written as {' or '.join(known)}; name such a file"
        )
