"""Tables of a page: between `<!-- benchmark: NAME -->` and `<!-- end -->` stands what the results give."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.store import Store
from benchmarks.tables import TABLES, conditions

PAGES = (Path(__file__).parent / "README.md", Path(__file__).parents[1] / "README.md")
_BLOCK = re.compile(r"(<!-- benchmark: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rewrite(file: Path, store: Store) -> None:
    """Replace the tables in `file` by those that `store` gives."""
    file.write_text(rewritten(file.read_text(), store))


def rewritten(text: str, store: Store) -> str:
    """`text` with the tables that `store` gives.

    Raises:
        KeyError: a marker names no table.
    """

    def block(match: re.Match[str]) -> str:
        section, make = TABLES[match[2]]
        made = make(store)
        content = f"{made}\n\n{conditions(store, section)}\n" if made else "Not measured yet.\n"
        return f"{match[1]}{content}{match[3]}"

    return _BLOCK.sub(block, text)
