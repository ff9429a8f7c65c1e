"""Bad input ends in a typed error that says what was wrong, and leaves everything as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from speedup import SpeedupError
from speedup.testing.snapshots import model_state, process_state
from tests.support.bad_calls import ALL, Bad, Net

# These change the model between planning and materializing: that is what is wrong with them.
_CHANGING = ("changed", "swapped", "gone")


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ALL)
def test_a_call_that_cannot_work_says_so_and_changes_nothing(name: str, tmp_path: Path, capfd) -> None:
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
