"""Sets of indices in a plan's text: a long one is written once, in a table, however many edits name it.

The readers of a stream of channels all lose the same ones, so that their edits differ in names alone.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import torch

from speedup.ir.tensor_text import indices_from_text, indices_text

# What is not longer than this stands where it is used.
_SHORT = 32


class IndexSets:
    """The table of one text, with the forms in which it holds them: ranges, or a bit for each index."""

    def __init__(self, entries: Iterable[Any] = ()) -> None:
        self._entries = [*entries]
        self._numbers: dict[tuple[int, ...], int] = {}
        self._read: dict[int, tuple[int, ...]] = {}

    @property
    def entries(self) -> list[Any]:
        """What the text has to hold."""
        return self._entries

    def write(self, indices: Iterable[int]) -> str | int:
        """These indices, or their number in the table."""
        found = tuple(indices)
        if found in self._numbers:
            return self._numbers[found]
        text = indices_text(found)
        if len(text) <= _SHORT:
            return text
        self._numbers[found] = len(self._entries)
        bits = _bits_text(found) if all(a < b for a, b in pairwise(found)) else text
        self._entries.append({"bits": bits} if len(bits) < len(text) else text)
        return self._numbers[found]

    def read(self, given: object) -> tuple[int, ...]:
        """The indices that `write` wrote.

        Raises:
            ValueError: it says something else.
        """
        if type(given) is not int:
            return indices_from_text(given)
        if given not in self._read:
            if not 0 <= given < len(self._entries):
                raise ValueError(f"there is no set {given} among {len(self._entries)} sets of indices")
            self._read[given] = _entry_from_json(self._entries[given])
        return self._read[given]


_TABLE: ContextVar[IndexSets] = ContextVar("table")


@contextmanager
def table_in_use(table: IndexSets) -> Iterator[IndexSets]:
    """Inside, `shared_indices` and `indices_of_shared` are about this table."""
    token = _TABLE.set(table)
    try:
        yield table
    finally:
        _TABLE.reset(token)


def shared_indices(indices: Iterable[int]) -> str | int:
    """As `IndexSets.write` of the table in use."""
    return _TABLE.get().write(indices)


def indices_of_shared(given: object) -> tuple[int, ...]:
    """As `IndexSets.read` of the table in use."""
    return _TABLE.get().read(given)


def _bits_text(indices: tuple[int, ...]) -> str:
    """The bits of bytes from the lowest on, in base64; `indices` ascend."""
    flags = torch.zeros(-(-(indices[-1] + 1) // 8) * 8, dtype=torch.uint8)
    flags[list(indices)] = 1
    packed = (flags.reshape(-1, 8) << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)
    return base64.b64encode(packed.numpy().tobytes()).decode()


def _entry_from_json(given: object) -> tuple[int, ...]:
    if not isinstance(given, dict):
        return indices_from_text(given)
    if list(given) != ["bits"] or not isinstance(given["bits"], str):
        raise ValueError("a set of indices is written as ranges or as bits")
    packed = torch.tensor(list(base64.b64decode(given["bits"], validate=True)), dtype=torch.uint8)
    flags = packed[:, None].bitwise_right_shift(torch.arange(8, dtype=torch.uint8)).bitwise_and(1)
    return tuple(flags.reshape(-1).nonzero().reshape(-1).tolist())
