"""Which tests `-m fast` runs: the quick ones of every room, and the laws of the operators being worked on.

The laws take minutes, those of one family seconds. So of `tests/rules/test_every_operator.py` the tier has
the operators of families whose file, `speedup/rules/FAMILY.py`, was changed since the branch left main,
committed or not; on main itself, since the last commit. A change of what all families share chooses none.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from types import ModuleType

from speedup import rules
from speedup.rules.rule import Rule

QUICK = (
    "tests/analyses/test_steadiness.py",
    "tests/building/test_native.py",
    "tests/engine",
    "tests/explaining/test_links.py",
    "tests/forwards/test_fitting.py",
    "tests/forwards/test_restated.py",
    "tests/forwards/test_solving.py",
    "tests/forwards/test_source.py",
    "tests/ir",
    "tests/masks/test_masks.py",
    "tests/modules/test_copying.py",
    "tests/lowerings/test_functional.py",
    "tests/modules/test_rewritten.py",
    "tests/planning/test_debugging.py",
    "tests/planning/test_planner.py",
    "tests/planning/test_rehearsal.py",
    "tests/rendering/test_table.py",
    "tests/test_plan.py",
    "tests/tracing/test_adapting.py",
    "tests/tracing/test_merging.py",
    "tests/tracing/test_provenance.py",
    "tests/whole/test_architecture.py",
    "tests/whole/test_fast_tier.py",
    "tests/whole/test_packaging.py",
    "tests/whole/test_readme.py",
)
"""Folders and files, all of whose tests together take half a minute."""

LAWS = "tests/rules/test_every_operator.py"

_ROOM = PurePosixPath("speedup/rules")
_MAIN = "main"


def families() -> dict[str, Mapping[str, Rule]]:
    """The families of the table of rules by the path of their file, each by what it calls its operators."""
    modules = (value for value in vars(rules).values() if isinstance(value, ModuleType))
    of_modules = ((module, getattr(module, "RULES", None)) for module in modules)
    in_table = {id(family) for family in rules.FAMILIES}
    return {
        str(_ROOM / f"{module.__name__.rpartition('.')[2]}.py"): family
        for module, family in of_modules
        if family is not None and id(family) in in_table
    }


def operators_of(paths: Iterable[str]) -> frozenset[str]:
    """The operators, as the laws' tests are named, of the families whose files are among `paths`.

    Paths are relative to the repository's root.
    """
    chosen = set(paths)
    return frozenset(
        name if "::" in name else f"aten.{name}"
        for path, family in families().items()
        if path in chosen
        for name in family
    )


def is_fast(file: str, key: str | None, operators: frozenset[str]) -> bool:
    """Whether a test is in the tier: by its file, or as the law of an operator among `operators`."""
    path = PurePosixPath(file)
    return (file == LAWS and key in operators) or any(path.is_relative_to(quick) for quick in QUICK)


def changed_paths(root: Path) -> frozenset[str]:
    """The files of a checkout that differ from where its branch left main, untracked ones too.

    Paths are relative to `root`. None differ if `root` is not the root of a checkout, or git is missing.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if not top or Path(top[0]).resolve() != root.resolve():
        return frozenset()
    base = _git(root, "merge-base", "HEAD", _MAIN) or ["HEAD"]
    changed = _git(root, "diff", "--name-only", base[0])
    return frozenset((*changed, *_git(root, "ls-files", "--others", "--exclude-standard")))


def _git(root: Path, *arguments: str) -> list[str]:
    """The lines that git prints, none if it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return []
    return [] if done.returncode else done.stdout.splitlines()
