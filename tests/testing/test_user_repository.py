"""A repository that tests its own model with `speedup.testing`, run as its owner would run it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import DATA, ROOT

REPOSITORY = DATA / "user_repository"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy, so that nothing is written beside the tests of this project."""
    return shutil.copytree(REPOSITORY, tmp_path / "repository", ignore=shutil.ignore_patterns("__pycache__"))


def run_pytest(repository: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """pytest in the repository, with the plugin named in case this project is not installed."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "speedup._pytest_plugin",
        "-p",
        "no:cacheprovider",
        *options,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_its_property_test_passes(repository: Path) -> None:
    ran = run_pytest(repository)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout


def test_its_property_test_has_three_lines() -> None:
    source = (REPOSITORY / "tests" / "test_shapes.py").read_text(encoding="utf-8")
    test = source.split("\n\n\n")[1]
    assert len(test.splitlines()) == 3
    assert test.startswith("@given(masks_for(MODEL))")


def test_a_planted_fault_fails_it_with_a_readable_message(repository: Path) -> None:
    ran = run_pytest(repository, "--fault", "-k", "not many")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "1 failed" in ran.stdout
    for words in (
        "AssertionError: the small ShapeNet is not the masked ShapeNet: output is off by",
        "the first module of unchanged shape whose output differs is 'head' (Linear)",
        "until that is mended, keep=['head'] leaves that module as it is",
        "from speedup.testing import MaskSpec, Slices, assert_equivalent",
        "masks = MaskSpec((Slices('widen.weight', 0, (",
        "assert_equivalent(model, x, masks)",
        "Conv2d(6, 8) -> (6, ",
    ):
        assert words in ran.stdout, ran.stdout
