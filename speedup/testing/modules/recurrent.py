"""Recurrent networks: the outputs of a layer, its last states, a cell in a loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["gru", "lstm", "tanh", "relu"]

_LAYERS: Mapping[Kind, Callable[..., nn.RNNBase]] = {
    "gru": nn.GRU,
    "lstm": nn.LSTM,
    "tanh": nn.RNN,
    "relu": partial(nn.RNN, nonlinearity="relu"),
}
_CELLS: Mapping[Kind, Callable[..., nn.RNNCellBase]] = {
    "gru": nn.GRUCell,
    "lstm": nn.LSTMCell,
    "tanh": nn.RNNCell,
    "relu": partial(nn.RNNCell, nonlinearity="relu"),
}


class Recurrent(nn.Module):
    """The outputs of a recurrent layer: (N, L, features) -> (N, L, directions * hidden)."""

    def __init__(
        self,
        features: int,
        hidden: int,
        kind: Kind = "gru",
        layers: int = 1,
        bidirectional: bool = False,
        bias: bool = True,
        batch_first: bool = True,
    ) -> None:
        super().__init__()
        self.layer = _LAYERS[kind](
            features, hidden, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.layer.batch_first:
            outputs: Tensor = self.layer(x)[0]
        else:
            outputs = self.layer(x.transpose(0, 1))[0].transpose(0, 1)
        return outputs


class LastState(Recurrent):
    """The last layer's last states, of both directions if it has them: (N, L, features) -> (N, ..)."""

    def forward(self, x: Tensor) -> Tensor:
        states = self.layer(x if self.layer.batch_first else x.transpose(0, 1))[1]
        hidden: Tensor = states[0] if isinstance(states, tuple) else states
        return torch.cat([hidden[-2], hidden[-1]], dim=-1) if self.layer.bidirectional else hidden[-1]


class Translator(nn.Module):
    """A layer that reads (N, L, features), and another that starts from its last states."""

    def __init__(self, features: int, hidden: int, kind: Kind = "gru", layers: int = 1) -> None:
        super().__init__()
        self.encoder = _LAYERS[kind](features, hidden, layers, batch_first=True)
        self.decoder = _LAYERS[kind](features, hidden, layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.decoder(x, self.encoder(x)[1])[0]
        return outputs


class Stepped(nn.Module):
    """A cell called on each step of (N, L, features), its states stacked to (N, L, hidden)."""

    def __init__(self, features: int, hidden: int, kind: Kind = "gru", bias: bool = True) -> None:
        super().__init__()
        self.cell = _CELLS[kind](features, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        state, seen = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            seen.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(seen, dim=1)
