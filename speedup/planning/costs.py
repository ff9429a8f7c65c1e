"""What a lowering costs and brings, so that it is taken only where it pays."""

from __future__ import annotations

from typing import Final

from speedup.analyses.analysis import Analysis

CALL: Final = 300_000
"""Multiply-accumulates that a processor's core does in the time of one more call: about 20 microseconds."""


LEAST_SAVED: Final = 1_000_000
"""Multiply-accumulates per sample that rows left out must save: what putting others in places costs."""

CALLS_OF_GATE: Final = 2_000_000
"""Multiply-accumulates per sample that channels left out before a gate must save: the calls that make up for
them, which are seven.
"""

CALLS_OF_MAP: Final = 600_000
"""Multiply-accumulates per sample that carriers must cost for a map in their place: some ten small calls."""

ADDED: Final = 10
"""Multiply-accumulates that a processor's core does while it adds one number to another of a whole tensor."""

FILLED: Final = 40
"""Multiply-accumulates that a processor's core does while it puts one number among others in its place, rows
of numbers at a time; twice as many where it puts them one by one, along the last dimension.
"""

MOST_ROWS: Final = 0.85
"""The share of the rows that are wanted above which all are computed."""


def batch_of(analysis: Analysis) -> int:
    """The size of the batch that was traced."""
    return max(next((value.shape[0] for value in analysis.graph.inputs if value.ndim), 1), 1)


def macs_per_sample(analysis: Analysis) -> float:
    """Multiply-accumulates of what is kept, over the size of the batch that was traced."""
    return sum(map(analysis.macs, analysis.graph.ops)) / batch_of(analysis)
