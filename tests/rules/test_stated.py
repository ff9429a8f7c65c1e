"""Arguments that layout operators need once some of what they move is gone, on bare keep-sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from speedup.engine.keepsets import solve_keep_sets
from speedup.engine.lattice import unknown
from speedup.ir.graph import Op, Value
from speedup.lowerings import SplitSizes, TakeIndices
from speedup.rules import STANDARD, rule_for
from speedup.rules.site import Site
from tests.support.soundness import graph_of

KEPT = (0, 1, 4, 5, 6, 9, 11)


def asked(function: Callable[[Tensor], Any], what: str) -> Any:
    """What the rule of the last op says when, of twelve channels, only `KEPT` are needed."""
    graph = graph_of(function, torch.randn(2, 12))
    op: Op = graph.ops[-1]
    facts = [unknown(v.ndim, v.dtype) for v in graph.values]
    site = Site(graph, op, facts, [])
    rule = rule_for(op.target, STANDARD)
    data = op.operands[0]
    needed = torch.zeros(12, dtype=torch.bool)
    needed[list(KEPT)] = True
    extents = {(v.index, d): n for v in graph.values for d, n in enumerate(v.shape)}
    seeds = {dim: None for dim in extents if dim[1] == 0} | {(data.index, data.ndim - 1): needed}
    kept = solve_keep_sets(extents, seeds, list(rule.couple(site)))

    def sizes(value: Value) -> tuple[int, ...]:
        return tuple(kept.count((value.index, d)) for d in range(value.ndim))

    return getattr(rule, what)(site, sizes, kept)


NEEDS: dict[str, tuple[Callable[[Tensor], Any], Mapping[str, Any]]] = {
    "view": (lambda x: x.view(-1, 12), {"size": (-1, 7)}),
    "view of all": (lambda x: x.view(2, 12), {"size": (2, 7)}),
    "slice": (lambda x: x[:, 4:10], {"start": 2, "end": 6}),
    "slice from the end": (lambda x: x[:, -8:-1], {"start": -5, "end": -1}),
    "slice to the end": (lambda x: x[:, 5:], {"start": 3, "end": 2**63 - 1}),
    "slice with steps": (lambda x: x[:, ::2], {}),
    "narrow": (lambda x: torch.ops.aten.narrow(x, 1, 4, 6), {"start": 2, "length": 4}),
    "select": (lambda x: x.select(1, 9), {"index": 5}),
    "select from the end": (lambda x: x.select(1, -1), {"index": -1}),
    "split sizes": (lambda x: x.split([2, 4, 6], 1), {"split_sizes": (2, 2, 3)}),
}


@pytest.mark.parametrize("name", NEEDS)
def test_numbers_are_counted_in_what_is_left(name: str) -> None:
    function, expected = NEEDS[name]
    assert dict(asked(function, "needs")) == expected


def test_a_split_needs_its_largest_part() -> None:
    assert asked(lambda x: x.split(4, 1), "needs") == {"split_size": 3}


RESTATED: dict[str, tuple[Callable[[Tensor], Any], Any]] = {
    "chunk": (lambda x: x.chunk(2, 1), SplitSizes((4, 3), 1)),
    "split": (lambda x: x.split(4, 1), SplitSizes((2, 3, 2), 1)),
    "flip": (lambda x: x.flip(1), TakeIndices((6, 5, 4, 3, 2, 1, 0), 1)),
    "roll": (lambda x: x.roll(3, 1), TakeIndices((5, 6, 0, 1, 2, 3, 4), 1)),
    "slice with steps": (lambda x: x[:, ::2], TakeIndices((0, 2, 4), 1)),
    "shuffle": (lambda x: F.channel_shuffle(x.unsqueeze(-1), 3), None),
    "view": (lambda x: x.view(-1, 3, 4), None),
}


@pytest.mark.parametrize("name", ["chunk", "split", "flip", "roll", "slice with steps", "view"])
def test_what_no_numbers_state_is_offered_as_another_call(name: str) -> None:
    function, expected = RESTATED[name]
    offered = [one.lowering for one in asked(function, "alternatives") if not one.constraints]
    assert offered == ([] if expected is None else [expected])
