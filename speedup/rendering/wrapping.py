"""Lines of text: between words, and in paths after dots."""

from __future__ import annotations

import re
from collections.abc import Iterable

_STEP = re.compile(r"[^.]*\.|[^.]+")


def wrap(text: str, width: int) -> str:
    """`text` in lines of at most `width` characters, but for names that are longer than that.

    >>> print(wrapped("into bias of layer2.0.downsample.0", 20))
    into bias of
    layer2.0.downsample.
    0
    """
    lines: list[str] = []
    for word in text.split(" "):
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines += _pieces(word, width)
    return "\n".join(lines)


def widest(texts: Iterable[str]) -> int:
    """The length of the longest line."""
    return max((len(line) for text in texts for line in text.split("\n")), default=0)


def _pieces(word: str, width: int) -> list[str]:
    pieces = [""]
    for step in _STEP.findall(word) if len(word) > width else (word,):
        if pieces[-1] and len(pieces[-1]) + len(step) > width:
            pieces.append("")
        pieces[-1] += step
    return pieces
