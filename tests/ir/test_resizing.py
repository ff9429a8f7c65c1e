from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup.ir.graph import Graph, Shape
from speedup.ir.inputs import example_from
from speedup.ir.resizing import resized_shapes
from speedup.tracing.trace import trace_call


def _graph(model: nn.Module, *shape: int) -> Graph:
    return trace_call(model, example_from(torch.randn(*shape), None)).graph


def _ends(graph: Graph, *shapes: Shape) -> list[Shape]:
    found = resized_shapes(graph, shapes, [value.index for value in graph.outputs])
    return [found[value.index] for value in graph.outputs if value.index in found]


class Views(nn.Module):
    """The same operators, told different numbers."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        batch, length = x.shape
        return (
            x.reshape(batch, length),
            x.reshape(batch * length, 1),
            x.reshape(1, batch * length),
            x.reshape(batch * 2, length // 2),
            x[:, :2].reshape(2, batch),
        )


def test_calls_that_are_told_other_numbers_make_other_sizes() -> None:
    graph = _graph(Views(), 3, 4)
    assert _ends(graph, (3, 4)) == [(3, 4), (12, 1), (1, 12), (6, 2), (2, 3)]
    assert _ends(graph, (5, 8)) == [(5, 8), (40, 1), (1, 40), (10, 4), (2, 5)]
    assert _ends(graph, (3, 4)) == [(3, 4), (12, 1), (1, 12), (6, 2), (2, 3)]


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv1d(2, 2, 3)
        self.wide = nn.Conv1d(2, 2, 3, padding=1)
        self.again = nn.Conv1d(2, 2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.narrow(x), self.wide(x), self.again(self.narrow(x)), torch.relu(x) + 1


def test_layers_with_other_settings_make_other_sizes() -> None:
    graph = _graph(Layers(), 1, 2, 9)
    assert _ends(graph, (4, 2, 7)) == [(4, 2, 5), (4, 2, 7), (4, 2, 3), (4, 2, 7)]


def test_what_does_not_run_at_a_size_does_not_the_next_time_and_runs_at_others() -> None:
    graph = _graph(Layers(), 1, 2, 9)
    for _ in range(2):
        assert _ends(graph, (1, 2, 2)) == []
        # The second of the layers in a row has nothing left to go by.
        assert _ends(graph, (1, 2, 4)) == [(1, 2, 2), (1, 2, 4)]
        assert _ends(graph, (1, 2, 5)) == [(1, 2, 3), (1, 2, 5), (1, 2, 1), (1, 2, 5)]


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1 / (x.shape[1] - 1))


def test_numbers_that_decide_no_size_are_not_computed() -> None:
    assert _ends(_graph(Scaled(), 2, 3), (2, 1)) == [(2, 1)]


class Steps(nn.Module):
    """Three steps of a cell."""

    def __init__(self, kind: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.cell = kind(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for step in range(3):
            state = self.cell(x[:, step], state)
        made: Tensor = state[0] if isinstance(state, tuple) else state
        return made


_LAYERS: list[Callable[[], nn.Module]] = [
    *(
        partial(kind, 4, 6, num_layers=layers, batch_first=leads, bidirectional=both)
        for kind in (nn.LSTM, nn.GRU, nn.RNN)
        for layers in (1, 2)
        for leads in (False, True)
        for both in (False, True)
    ),
    partial(nn.LSTM, 4, 6, proj_size=3, batch_first=True),
    *(partial(Steps, kind) for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)),
]


@pytest.mark.parametrize("make", _LAYERS, ids=str)
def test_recurrent_layers_make_what_torch_makes_of_them(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    graph = _graph(model, 2, 5, 4)
    for shape in [(2, 5, 4), (3, 7, 4), (1, 4, 4), (2, 0, 4), (0, 5, 4), (2, 5, 3)]:
        try:
            made = torch.utils._pytree.tree_leaves(model(torch.randn(*shape)))
        except (RuntimeError, IndexError):
            made = []
        assert _ends(graph, shape) == [tuple(tensor.shape) for tensor in made], shape


class Attends(nn.Module):
    """What attention makes lies otherwise in memory than what is made of tensors without data."""

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = x.view(batch, length, 2, width // 2).transpose(1, 2)
        made = nn.functional.scaled_dot_product_attention(heads, heads, heads)
        return made.transpose(1, 2).view(batch, length, width)


def test_views_run_whatever_the_strides_of_tensors_without_data() -> None:
    graph = _graph(Attends(), 2, 5, 8)
    assert _ends(graph, (2, 5, 8)) == [(2, 5, 8)]
    assert _ends(graph, (3, 7, 8)) == [(3, 7, 8)]
