"""The packages lie in layers, and what is imported lies below."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import speedup

ROOT = Path(speedup.__file__).parent

# From the bottom up; those of one layer do not know one another.
LAYERS = (
    ("attention", "errors", "functional"),
    ("engine", "spec", "writing"),
    ("rules",),
    ("analyses", "tracing"),
    ("forwards", "masks", "reports"),
    ("stamps",),
    ("plan",),
    ("planning",),
    ("files", "planner", "pruners"),
    ("verify",),
    ("materialize",),
    ("measuring", "testing"),
    ("__init__",),
    ("cli", "demo"),
    ("__main__",),
)
HEIGHTS = {part: height for height, parts in enumerate(LAYERS) for part in parts}
FILES = sorted(ROOT.rglob("*.py"))


def part_of(file: Path) -> str:
    """The package or module of the top level that a file belongs to."""
    return file.relative_to(ROOT).with_suffix("").parts[0]


def imported(body: list[ast.stmt]) -> Iterator[str]:
    """The parts of the library that importing a module with this body imports."""
    for statement in body:
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("speedup"):
            path = (statement.module or "").split(".")[1:]
            for name in path[:1] or [alias.name for alias in statement.names]:
                yield name if name in HEIGHTS else "__init__"
        elif isinstance(statement, ast.Import):
            yield from (a.name.split(".")[1] for a in statement.names if a.name.startswith("speedup."))


def test_every_part_has_its_layer() -> None:
    assert {part_of(file) for file in FILES} == set(HEIGHTS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_lead_downward_only(file: Path) -> None:
    part = part_of(file)
    body = ast.parse(file.read_text(encoding="utf-8")).body
    above = [other for other in imported(body) if other != part and HEIGHTS[other] >= HEIGHTS[part]]
    assert above == []
