"""Every recipe runs, and ends with what the masked model computes."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speedup import recipes
from speedup.recipes import RECIPES, Made, load_recipe
from speedup.recipes.__main__ import main
from tests.support.repository import README, ROOT
from tests.support.vision import available

FOLDER = Path(recipes.__file__).parent


@pytest.mark.parametrize("name", RECIPES)
def test_it_ends_with_what_the_masked_model_computes(name: str) -> None:
    for package in RECIPES[name][1]:
        pytest.importorskip(package, reason=f"the recipe {name} needs {package}")
    if name == "ahead_of_time" and shutil.which("g++") is None:
        pytest.skip("AOTInductor needs a C++ compiler")
    # timm and transformers import torchvision, which may be a build for another torch: that is made up for.
    available()
    torch.manual_seed(0)

    made = load_recipe(name)()

    assert made.error < made.tolerance
    assert made.plan.parameters_after < 0.9 * made.plan.parameters_before
    if made.megabytes is not None:
        before, after = made.megabytes
        assert after < 0.95 * before


def test_a_wrong_output_is_seen() -> None:
    made = load_recipe("quantised")()
    wrong = Made(made.plan, made.expected, made.expected + made.expected.abs().max() / 10)
    assert wrong.error > 0.05 > made.error


def test_every_file_is_a_recipe_and_none_hides_a_package() -> None:
    """A file that is run by its path shadows what it imports if it has the same name."""
    files = {file.stem for file in FOLDER.glob("*.py")} - {"__init__", "__main__", "made"}
    assert files == set(RECIPES)
    for file in FOLDER.glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        imported = {
            a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names
        }
        imported |= {str(n.module).split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not imported & files, file


def test_the_readme_names_them_all() -> None:
    assert [name for name in RECIPES if f"`{name}`" not in README] == []


def test_the_command_lists_them_and_runs_one() -> None:
    listed = main([])
    assert all(name in listed for name in RECIPES)
    assert "needs onnx, onnxruntime, onnxscript" in listed
    command = [sys.executable, "-m", "speedup.recipes", "quantised"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    assert "relative error" in ran.stdout
