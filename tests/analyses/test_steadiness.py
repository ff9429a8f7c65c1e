"""What is read of a place at the example's size may be read of another at others: liveness knows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speedup import STANDARD
from speedup.analyses import constants, liveness
from speedup.engine.lattice import any_along
from speedup.ir.inputs import example_from
from speedup.tracing.trace import trace_call

# What reads one of five tokens, or none, and another one, or one, of longer inputs.
PLACES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "behind": lambda y, token: torch.cat([y, token.expand(len(y), 1, -1)], 1)[:, y.shape[1]],
    "turned": lambda y, token: y.flip(1)[:, 1],
    "from the end": lambda y, token: y[:, -2],
    "by the length": lambda y, token: y[:, y.shape[1] - 2],
    "of a padding": lambda y, token: F.pad(y, (0, 0, 0, 3))[:, 6],
    "flattened": lambda y, token: y.flatten(0, 1)[3:4],
}


class Places(nn.Module):
    """Reads places of what a layer makes of each token."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.function(self.first(x), self.token))
        return result


@pytest.mark.parametrize("name", PLACES)
def test_every_token_is_read_at_some_length(name: str) -> None:
    traced = trace_call(Places(PLACES[name]).eval(), example_from(torch.randn(2, 5, 4)))
    graph = traced.graph
    lives = liveness.find_liveness(
        graph, constants.find_constants(graph, traced.tensors, {}, STANDARD), STANDARD
    )
    (made,) = (op.result for op in graph.ops if op.owner.path == "first")
    assert bool(any_along(lives[made.index], 1, 5).all())
