"""What a lowering costs and brings, so that it is taken only where it pays."""

from __future__ import annotations

from typing import Final

from speedup.analyses.analysis import Analysis
from speedup.rules import rule_of

CALL: Final = 300_000
"""Multiply-accumulates that a processor's core does in the time of one more call: about 20 microseconds."""


def macs_per_sample(analysis: Analysis) -> float:
    """Multiply-accumulates of what is kept, over the size of the batch that was traced."""
    batch = next((value.shape[0] for value in analysis.graph.inputs if value.ndim), 1)
    total = sum(rule_of(op, analysis.rules).macs(op, analysis.sizes) for op in analysis.graph.ops)
    return total / max(batch, 1)
