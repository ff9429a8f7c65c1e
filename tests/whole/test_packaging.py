"""What is said of installing is so: the distribution's name, its extras, and what is shipped."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

from tests.support.repository import README, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
METADATA = PROJECT["project"]


def _texts() -> Iterator[tuple[str, str]]:
    yield "README.md", README
    for file in (ROOT / "speedup").rglob("*.py"):
        yield str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")


def test_the_distribution_is_not_the_other_project_of_the_name() -> None:
    assert METADATA["name"] == "torch-speedup"
    assert METADATA["scripts"] == {"speedup": "speedup.cli:app"}


def test_every_extra_that_is_told_of_exists() -> None:
    told = [
        (where, name, extra)
        for where, text in _texts()
        for name, extra in re.findall(r"pip install '?([\w-]+)\[([\w,]+)\]", text)
    ]
    assert {extra for _, _, extra in told} == {"testing", "figures", "hf"}
    for where, name, extra in told:
        assert name == METADATA["name"], where
        assert extra in METADATA["optional-dependencies"], where


def test_users_tests_need_hypothesis_alone() -> None:
    extras = METADATA["optional-dependencies"]
    assert extras["testing"] == ["hypothesis"]
    assert "torch-speedup[bench,test]" in extras["dev"]


def test_newer_versions_are_not_shut_out() -> None:
    """A bound from above would put an older torch in the place of a user's own."""
    bounds = [METADATA["requires-python"], *METADATA["dependencies"]]
    assert [bound for bound in bounds if "<" in bound] == []


def test_the_source_distribution_has_what_its_tests_read() -> None:
    shipped = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    for path in (
        "speedup",
        "tests",
        "property_tests",
        "benchmarks",
        ".ci",
        "constraints.txt",
        "CONTRIBUTING.md",
    ):
        assert f"/{path}" in shipped
        assert (ROOT / path).exists()


def test_the_versions_in_the_readme_are_those_that_are_allowed() -> None:
    (least,) = [d.partition(">=")[2] for d in METADATA["dependencies"] if d.startswith("torch>=")]
    python = METADATA["requires-python"].removeprefix(">=")
    assert f"Python {python} or newer and torch {least} or newer" in README
    tested = set(re.findall(r"^\| (3\.\d+)\S* \|", README, re.MULTILINE))
    listed = {c.rpartition(" ")[2] for c in METADATA["classifiers"] if " :: 3." in c}
    assert tested == listed
