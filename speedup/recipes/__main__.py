"""`python -m speedup.recipes [NAME]`: the list of recipes, or one of them run, with its plan."""

from __future__ import annotations

import sys
import time

from speedup.recipes import RECIPES, load_recipe


def main(names: list[str]) -> str:
    """What the command prints: the plan and figures of each recipe named; else the list of all."""
    if not names or any(name not in RECIPES for name in names):
        needs = ((name, ", ".join(packages) or "nothing else") for name, (_, packages) in RECIPES.items())
        return "\n".join(f"{name:14} needs {packages}" for name, packages in needs)
    return "\n\n".join(_told(name) for name in names)


def _told(name: str) -> str:
    start = time.perf_counter()
    made = load_recipe(name)()
    return f"{made.plan}\n{name}: {time.perf_counter() - start:.1f} s, relative error {made.error:.0e}"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
