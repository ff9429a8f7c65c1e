"""Which release made a report, and when."""

from __future__ import annotations

from datetime import date
from importlib import metadata


def package_version() -> str:
    """The version of the distribution that the command belongs to; "unknown" where none is installed."""
    (script, *_) = (*metadata.entry_points(group="console_scripts", name="speedup"), None)
    return "unknown" if script is None or script.dist is None else script.dist.version


def made_today() -> str:
    """The date and the versions that a report was made with, in one line."""
    import torch  # Not for those who ask for the package's version alone.

    return f"{date.today().isoformat()}, speedup {package_version()}, torch {torch.__version__}"
