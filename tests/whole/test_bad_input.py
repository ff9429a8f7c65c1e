"""Bad input ends in a typed error that says what was wrong, and leaves everything as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from speedup import SpeedupError
from speedup.cli import app
from speedup.testing.snapshots import model_state, process_state
from tests.support import bad_calls, bad_commands, bad_files
from tests.support.bad_calls import Bad, Net

ALL = {
    f"{group}: {bad.name}": bad
    for group, bads in {**bad_calls.GROUPS, **bad_files.GROUPS}.items()
    for bad in bads
}
# These change the model between planning and materializing: that is what is wrong with them.
_CHANGING = ("changed", "swapped", "gone")


def files_in(folder: Path) -> dict[str, bytes]:
    """What is written in a folder, apart from Python's compiled sources."""
    return {
        str(path): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix != ".pyc" and path.is_file()
    }


@pytest.mark.parametrize("name", ALL)
def test_a_call_that_cannot_work_says_so_and_changes_nothing(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad: Bad = ALL[name]
    model = (bad.make or Net)()
    untouched = (
        None if name.endswith(_CHANGING) or name == "model: an uninitialised layer" else model_state(model)
    )
    process = process_state()
    with pytest.raises(bad.error) as caught:
        bad.call(model, tmp_path)
    assert isinstance(caught.value, SpeedupError)
    message = str(caught.value)
    for word in bad.words:
        assert word in message, message
    assert "must never run" not in capfd.readouterr().out
    assert untouched is None or model_state(model) == untouched
    assert process_state() == process
    assert {Path(path).name for path in files_in(tmp_path)} <= {"masks.pth", "m.safetensors"}


def test_the_table_is_long() -> None:
    assert len(ALL) >= 60


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    bad_commands.fill(folder)
    return folder


@pytest.mark.parametrize("name", bad_commands.ALL)
def test_a_command_that_cannot_work_ends_in_one_line_and_writes_nothing(
    name: str, filled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = bad_commands.ALL[name]
    before = files_in(filled)
    result = CliRunner().invoke(app, bad.arguments.format(folder=filled).split())
    assert result.exit_code == bad.code, result.output
    for word in bad.words:
        assert word in result.stderr, result.stderr
    # Bad usage is shown by typer, in a box of its own.
    assert name in bad_commands.USAGE or (
        result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    )
    assert "Traceback" not in result.output
    assert "must never run" not in capfd.readouterr().out
    assert files_in(filled) == before


def test_debug_shows_where_a_command_failed(filled: Path) -> None:
    line = bad_commands.ALL["a factory that raises"].arguments.format(folder=filled)
    result = CliRunner().invoke(app, ["--debug", *line.split()])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "breaks" in result.stderr
