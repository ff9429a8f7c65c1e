"""The fast tier: which files it has, and which operators' laws a change adds to it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from speedup.rules import STANDARD, fourier
from tests.support.fast_tier import LAWS, QUICK, changed_paths, families, is_fast, operators_of
from tests.support.repository import ROOT

FOURIER = "speedup/rules/fourier.py"


def test_a_change_of_a_family_chooses_its_operators_and_no_others() -> None:
    assert operators_of([FOURIER, "README.md"]) == {f"aten.{name}" for name in fourier.RULES}


def test_a_change_of_anything_else_chooses_none() -> None:
    elsewhere = ["speedup/rules/rule.py", "speedup/rules/__init__.py", "speedup/plan.py", "fourier.py"]
    assert operators_of(elsewhere) == frozenset()


def test_changes_of_all_families_choose_every_operator_of_the_table() -> None:
    assert operators_of(families()) >= {str(key) for key in STANDARD}


def test_every_family_is_known_by_a_file_that_is_there() -> None:
    assert [path for path in families() if not (ROOT / path).is_file()] == []


def test_what_is_quick_is_there() -> None:
    assert [path for path in (*QUICK, LAWS) if not (ROOT / path).exists()] == []


def test_laws_are_fast_for_chosen_operators_only() -> None:
    chosen = frozenset({"aten.fft_fft"})
    assert is_fast(LAWS, "aten.fft_fft", chosen)
    assert not is_fast(LAWS, "aten.add", chosen)
    assert not is_fast(LAWS, None, chosen)
    assert not is_fast("tests/rules/test_einsum.py", "aten.fft_fft", chosen)


def test_folders_and_files_are_fast_by_their_path_whatever_is_chosen() -> None:
    assert is_fast("tests/engine/test_lattice.py", None, frozenset())
    assert is_fast("tests/masks/test_masks.py", None, frozenset())
    assert not is_fast("tests/masks/test_masks_from_heads.py", None, frozenset())


def git(root: Path, *arguments: str) -> None:
    settings = ("user.name=somebody", "user.email=somebody@example.org", "commit.gpgsign=false")
    options = [part for setting in settings for part in ("-c", setting)]
    subprocess.run(["git", *options, *arguments], cwd=root, check=True, capture_output=True)


def write(root: Path, *names: str, text: str = "changed") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit, on main."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    write(tmp_path, "a/kept", "a/staged", "a/unstaged", "a/committed", text="first")
    git(tmp_path, "init", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_on_main_what_differs_from_the_last_commit_is_changed(checkout: Path) -> None:
    assert changed_paths(checkout) == frozenset()
    write(checkout, "a/staged", "a/unstaged", "a/new")
    git(checkout, "add", "a/staged")
    assert changed_paths(checkout) == {"a/staged", "a/unstaged", "a/new"}


def test_on_a_branch_what_differs_from_where_it_left_main_is_changed(checkout: Path) -> None:
    git(checkout, "switch", "-c", "branch")
    write(checkout, "a/committed")
    git(checkout, "commit", "-am", "second")
    git(checkout, "switch", "main")
    write(checkout, "a/kept")
    git(checkout, "commit", "-am", "on main")
    git(checkout, "switch", "branch")
    write(checkout, "a/unstaged")
    assert changed_paths(checkout) == {"a/committed", "a/unstaged"}


def test_without_a_branch_main_the_last_commit_counts(checkout: Path) -> None:
    git(checkout, "branch", "-m", "trunk")
    write(checkout, "a/unstaged")
    assert changed_paths(checkout) == {"a/unstaged"}


def test_what_is_no_checkout_has_no_changes(tmp_path: Path) -> None:
    write(tmp_path, "speedup/rules/fourier.py")
    assert changed_paths(tmp_path) == frozenset()


def test_a_copy_inside_another_checkout_has_no_changes(checkout: Path) -> None:
    write(checkout, "copy/speedup/rules/fourier.py")
    assert changed_paths(checkout / "copy") == frozenset()


def test_without_git_there_are_no_changes(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(checkout, "a/unstaged")
    monkeypatch.setenv("PATH", "")
    assert changed_paths(checkout) == frozenset()
