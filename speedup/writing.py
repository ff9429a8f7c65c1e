"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
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
    with (
        _told_of(path, "Name a file in a folder that exists and can be written to."),
        tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder,
    ):
        written = Path(folder, target.name)
        yield written
        _flush(written)
        os.replace(written, target)


@contextmanager
def new_folder(path: StrPath) -> Iterator[Path]:
    """An empty folder beside `path` to write files into; when all went well it becomes `path`.

    Until then it has another name, which begins with a dot; a failure removes it. What a process that was
    killed has left is removed by the next one.

    Raises:
        FileWriteError: `path` is there and not empty, another process is at it, its parent is missing, or
            something cannot be written, as on a disk that is full.
    """
    target = Path(path)
    unfinished = target.parent / f".{target.name}.unfinished"
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileWriteError(
            f"{os.fspath(path)!r} is there already. Name a folder that is not, or remove it."
        )
    advice = "Name a folder on a disk with enough space, in one that exists and can be written to."
    with _told_of(path, advice), _held(unfinished, path):
        try:
            yield unfinished
            for file in unfinished.iterdir():
                _flush(file)
            _flush(unfinished)
            os.replace(unfinished, target)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        _flush(target.parent)


@contextmanager
def _told_of(path: StrPath, advice: str) -> Iterator[None]:
    """What goes wrong inside with files and folders is told of `path`."""
    try:
        yield
    except FileWriteError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise FileWriteError(f"{os.fspath(path)!r} cannot be written: {reason}. {advice}") from error


@contextmanager
def _held(folder: Path, path: StrPath) -> Iterator[None]:
    """The folder, made anew, and held against other processes: the lock goes with the process."""
    import fcntl  # not there on every system on which files are written

    for is_left in (True, False):
        if is_left and not folder.exists():
            continue
        if not is_left:
            folder.mkdir()
        handle = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FileWriteError(
                    f"{os.fspath(path)!r} is being written by another process. Wait for it, or name another "
                    "folder."
                ) from None
            if is_left:
                shutil.rmtree(folder)
            else:
                yield
        finally:
            os.close(handle)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: StrPath, text: str) -> None:
    """Write `text` to the file `path`, all of it or nothing.

    Raises:
        FileWriteError: the folder is missing or cannot be written to.
    """
    with replacing(path) as written:
        written.write_text(text, encoding="utf-8")
