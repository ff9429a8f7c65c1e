"""Sparse buffers, which nobody can cut: models that hold them are planned, read or not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import StaleModelError, apply_masks, materialize, plan_speedup
from speedup.modules.fingerprints import checksum

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "coo": lambda dense: dense.to_sparse(),
    "coo with repetitions": lambda dense: torch.sparse_coo_tensor(
        torch.tensor([[0, 0, 3], [1, 1, 2]]), torch.tensor([1.0, 2.0, 3.0]).double(), (8, 8)
    ),
    "csr": lambda dense: dense.to_sparse_csr(),
    "csc": lambda dense: dense.to_sparse_csc(),
    "bsr": lambda dense: dense.to_sparse_bsr((2, 2)),
    "bsc": lambda dense: dense.to_sparse_bsc((2, 2)),
}


class Idle(nn.Module):
    """Holds a graph that its forward does not read."""

    graph: Tensor

    def __init__(self, graph: Tensor) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 8, 1), nn.Conv1d(8, 4, 1)
        self.register_buffer("graph", graph)
        self.double().eval()

    def forward(self, x: Tensor) -> Any:
        return self.second(self.first(x).relu())


class Mixing(Idle):
    """Mixes channels along the graph."""

    def forward(self, x: Tensor) -> Any:
        y = self.first(x).relu()
        return self.second(torch.stack([torch.sparse.mm(self.graph, one) for one in y]))


def masks() -> dict[str, dict[str, Tensor]]:
    keep = torch.tensor([0.0, 0, 0, 1, 1, 1, 1, 1])
    return {"first": {"weight": keep.view(8, 1, 1), "bias": keep}}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("kind", "kept"), [(Idle, 5), (Mixing, 8)])
def test_sparse_buffers_are_let_be(layout: str, kind: type[Idle], kept: int) -> None:
    if kind is Mixing and layout == "bsc":
        pytest.skip("torch multiplies by no such matrix")
    torch.manual_seed(0)
    model = kind(LAYOUTS[layout](torch.eye(8).double()))
    x = torch.randn(2, 3, 5).double()

    plan = plan_speedup(model, x, masks())

    assert plan == plan_speedup(model, x, masks())
    small: Any = materialize(plan)
    assert small.second.in_channels == kept
    assert small.graph.layout == model.graph.layout and small.graph is not model.graph
    assert torch.equal(small.graph.to_dense(), model.graph.to_dense())
    assert torch.allclose(apply_masks(model, masks())(x), small(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_numbers_are_noticed(layout: str) -> None:
    model = Idle(LAYOUTS[layout](torch.eye(8).double()))
    plan = plan_speedup(model, torch.randn(2, 3, 5).double(), masks())
    materialize(plan, copy.deepcopy(model) if layout.startswith("coo") else None)

    before = checksum(model.graph)
    assert before == checksum(model.graph.clone())
    model.graph = model.graph * 2
    assert before != checksum(model.graph)

    with pytest.raises(StaleModelError, match="graph"):
        materialize(plan)
