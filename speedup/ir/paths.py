"""Names with dots: of modules, and of what they hold."""

from __future__ import annotations


def join_path(path: str, inner: str) -> str:
    """The path of what is `inner` in the module `path`, whose path is empty for the model itself."""
    return ".".join(part for part in (path, inner) if part)


def is_within(path: str, outer: str) -> bool:
    """Whether module `path` is `outer` or in it."""
    return not outer or path == outer or path.startswith(f"{outer}.")
