"""Where the repository's own files lie, and the examples of its README."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example_run_by(file: str, word: str = "") -> str:
    """The README's first example, with `word` in it, below a mark that says which file of tests runs it."""
    mark = re.escape(f"<!-- run by {Path(file).relative_to(ROOT).as_posix()} -->")
    found = re.findall(rf"^{mark}\n```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return next(str(example) for example in found if word in example)
