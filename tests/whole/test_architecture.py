"""The packages lie in layers, what is imported lies below, and importing the library loads no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import speedup

ROOT = Path(speedup.__file__).parent

# From the bottom up; those of one layer do not know one another.
LAYERS = (
    ("_stable", "errors", "torch_api"),
    ("engine", "ir", "writing"),
    ("lowerings",),
    ("modules", "rules"),
    ("analyses", "masks", "tracing"),
    ("explaining", "forwards", "rendering"),
    ("parts",),
    ("cutting", "text"),
    ("plan",),
    ("distributed", "sparse", "stored"),
    ("building",),
    ("checkpoints", "files", "planning"),
    ("measuring", "uniform"),
    ("hf", "pruners"),
    ("testing",),
    ("__init__", "_pytest_plugin"),
    ("demo",),
    ("cli", "recipes"),
    ("__main__",),
)
HEIGHTS = {part: height for height, parts in enumerate(LAYERS) for part in parts}
FILES = sorted(ROOT.rglob("*.py"))
MODULES = {
    ".".join(("speedup", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in FILES
}


def part_of(module: str) -> str:
    """The package or module of the top level that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def imported(file: Path) -> Iterator[str]:
    """The modules of the library that a file imports, in functions and for type checking too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "speedup":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "speedup")


def test_every_part_has_its_layer() -> None:
    assert {part_of(module) for module in MODULES} == set(HEIGHTS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_lead_downward_only(module: str) -> None:
    part = part_of(module)
    others = {other for other in imported(MODULES[module]) if part_of(other) != part}
    assert sorted(other for other in others if HEIGHTS[part_of(other)] >= HEIGHTS[part]) == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = {module: set(imported(file)) - {module} for module, file in MODULES.items()}
    try:
        TopologicalSorter(known).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("module", ["speedup", "speedup._pytest_plugin"])
def test_importing_it_loads_no_torch(module: str) -> None:
    heavy = "{'torch', 'numpy', 'attrs', 'attr', 'rich', 'cattrs', 'typer', 'hypothesis'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == "[]"


def test_every_public_name_can_be_had_and_is_listed() -> None:
    for name in speedup.__all__:
        assert getattr(speedup, name).__name__ == name if name != "STANDARD" else speedup.STANDARD
    assert set(speedup.__all__) <= set(dir(speedup))
    with pytest.raises(AttributeError, match="module 'speedup' has no attribute 'prune'"):
        getattr(speedup, "prune")  # noqa: B009


def test_no_two_public_definitions_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for module, file in MODULES.items():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}
