"""Folders that are written whole or not at all, and by one process at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from speedup import FileWriteError
from speedup.writing import new_folder


def test_a_folder_that_is_being_written_is_not_taken_from_who_writes_it(tmp_path: Path) -> None:
    with new_folder(tmp_path / "made") as folder:
        (folder / "first").write_text("1")
        with pytest.raises(FileWriteError, match="by another process"), new_folder(tmp_path / "made"):
            raise AssertionError("both hold it")
        assert (folder / "first").read_text() == "1"
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["first"]


def test_what_was_left_by_a_process_that_ended_goes(tmp_path: Path) -> None:
    (tmp_path / ".made.unfinished").mkdir()
    (tmp_path / ".made.unfinished" / "old").write_text("0")
    with new_folder(tmp_path / "made") as folder:
        (folder / "first").write_text("1")
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["first"]
    assert [folder.name for folder in tmp_path.iterdir()] == ["made"]
