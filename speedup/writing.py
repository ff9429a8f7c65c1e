"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speedup.errors import FileWriteError

StrPath = str | os.PathLike[str]


@contextmanager
def replacing(path: StrPath) -> Iterator[Path]:
    """A file beside `path`, of the same name, to write; when all went well it takes the place of `path`.

    A failure leaves the file that was there as it was.

    Raises:
        FileWriteError: the folder is missing or cannot be written to.
    """
    target = Path(path)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            written = Path(folder, target.name)
            yield written
            with written.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(written, target)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise FileWriteError(
            f"{os.fspath(path)!r} cannot be written: {reason}. Name a file in a folder that exists "
            "and can be written to."
        ) from error


def write_text(path: StrPath, text: str) -> None:
    """Write `text` to the file `path`, all of it or nothing.

    Raises:
        FileWriteError: the folder is missing or cannot be written to.
    """
    with replacing(path) as written:
        written.write_text(text, encoding="utf-8")
