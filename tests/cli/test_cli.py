"""The command line: what it prints and the exit codes it ends with."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable

import pytest
import torch
from typer.testing import CliRunner

import speedup.demo
from speedup.cli import app, exit_code
from speedup.errors import (
    EquivalenceError,
    MaskShapeError,
    OutputError,
    SpeedupError,
    StructureError,
    UnknownNameError,
)
from speedup.rendering.versions import package_version

RUNNER = CliRunner()


def _raising(error: Exception) -> Callable[[], None]:
    def run_demo() -> None:
        raise error

    return run_demo


def test_demo_prints_the_shapes_and_the_errors_of_both_networks() -> None:
    result = RUNNER.invoke(app, ["demo"], catch_exceptions=False)

    assert result.exit_code == 0
    assert "Conv2d(1, 3, kernel_size=(5, 5)" in result.stdout
    assert "Conv2d(3, 16, kernel_size=(5, 5)" in result.stdout
    assert result.stdout.count("largest error against the masked model") == 2
    assert len(re.findall(r"│ (?:parameters|MACs|latency, ms) ", result.stdout)) == 6


def test_unknown_command_is_bad_usage() -> None:
    result = RUNNER.invoke(app, ["no-such-command"])

    assert result.exit_code == 2
    assert "no-such-command" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EquivalenceError("differs"), 1),
        (StructureError("differs"), 1),
        (OutputError("differs"), 1),
        (UnknownNameError("no module 'conv9'"), 2),
        (MaskShapeError("(3,) does not fit (6,)"), 2),
    ],
)
def test_error_ends_as_one_line_and_its_exit_code(
    error: SpeedupError, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speedup.demo, "run_demo", _raising(error))

    result = RUNNER.invoke(app, ["demo"])

    assert exit_code(error) == code
    assert result.exit_code == code
    assert result.stderr == f"error: {error}\n"


def test_message_of_several_lines_is_printed_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speedup.demo, "run_demo", _raising(SpeedupError("first,\n  second")))

    assert RUNNER.invoke(app, ["demo"]).stderr == "error: first, second\n"


def test_debug_shows_the_traceback_and_keeps_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speedup.demo, "run_demo", _raising(OutputError("differs")))

    for line in (["--debug", "demo"], ["demo", "--debug"]):
        result = RUNNER.invoke(app, line)

        assert result.exit_code == 1
        assert "Traceback" in result.stderr
        assert "OutputError: differs" in result.stderr


def test_a_run_that_fails_otherwise_ends_in_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speedup.demo, "run_demo", _raising(ZeroDivisionError("a bug")))

    result = RUNNER.invoke(app, ["demo"])

    assert result.exit_code == 1
    assert result.stderr == "error: ZeroDivisionError: a bug; speedup --debug shows where\n"
    assert "ZeroDivisionError: a bug" in RUNNER.invoke(app, ["--debug", "demo"]).stderr


@pytest.mark.parametrize("command", ["plan", "compact", "verify", "report", "bench", "demo"])
def test_every_command_tells_how_it_is_used(command: str) -> None:
    result = RUNNER.invoke(app, [command, "--help"])

    assert result.exit_code == 0
    assert RUNNER.invoke(app, [command, "-h"]).stdout == result.stdout
    assert command == "demo" or f"speedup {command} " in result.stdout
    assert f" {command} " in RUNNER.invoke(app, ["--help"]).stdout


def test_version_names_the_versions_that_matter() -> None:
    result = RUNNER.invoke(app, ["--version"])

    assert result.exit_code == 0
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    assert result.stdout == f"speedup {package_version()} ({versions})\n"
    assert re.fullmatch(r"\d+\.\d+.*", package_version())


def test_completion_can_be_had() -> None:
    said = RUNNER.invoke(app, ["--help"]).stdout

    assert "--install-completion" in said and "--show-completion" in said


def test_errors_are_json_where_json_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speedup.demo, "demo_outcomes", _raising(MaskShapeError("(3,) does not fit (6,)")))

    result = RUNNER.invoke(app, ["demo", "--json"])

    assert result.exit_code == 2
    assert result.stderr == ""
    assert json.loads(result.stdout) == {
        "error": {"type": "MaskShapeError", "message": "(3,) does not fit (6,)", "exit_code": 2}
    }


@pytest.mark.parametrize(
    "line", ["plan x.py:make --json", "plan --json --inptu 1x3", "no-such-command --json"]
)
def test_wrong_usage_is_json_too(line: str) -> None:
    result = RUNNER.invoke(app, line.split())

    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["exit_code"]) == (2, 2)
    assert error["message"]
    assert result.stderr == ""


def test_demo_as_json_has_the_figures_of_both_networks() -> None:
    found = json.loads(RUNNER.invoke(app, ["demo", "--json"], catch_exceptions=False).stdout)

    assert len(found["cases"]) == 2
    for case in found["cases"]:
        assert case["parameters"]["after"] < case["parameters"]["before"]
        assert case["error"] < 1e-10
        assert case["seconds"]["after"] > 0
