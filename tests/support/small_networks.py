"""Small masked networks, one for each way in which users write, share and wrap parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from tests.support.blocks import Bare, Tied
from tests.support.masked_model import Cut, MaskedModel, masked_model, masks_of, normal, token_ids
from tests.support.masking import Masks, l1_half_masks, random_row_masks

_VOCABULARY = 10


class LiteralLeNet(nn.Module):
    """LeNet as tutorials write it: images (batch, 1, 32, 32), and sizes written out in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 16 * 5 * 5)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class C2f(nn.Module):
    """YOLOv8's block: one convolution, cut in two halves, of which the second feeds a chain of two more."""

    def __init__(self) -> None:
        super().__init__()
        self.cv1, self.cv2 = nn.Conv2d(3, 16, 1), nn.Conv2d(32, 4, 1)
        self.m = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(F.silu(self.cv1(x)).chunk(2, 1))
        parts.extend(F.silu(block(parts[-1])) for block in self.m)
        return self.cv2(torch.cat(parts, 1))


class RecurrentClassifier(nn.Module):
    """Token ids (batch, length) to scores: an embedding, an LSTM and a hidden layer on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.enter = nn.Embedding(_VOCABULARY, 8), nn.Linear(8, 12)
        self.lstm = nn.LSTM(12, 10, batch_first=True)
        self.hidden, self.head = nn.Linear(10, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(F.relu(self.enter(self.embed(x))))
        return self.head(F.relu(self.hidden(states[:, -1])))


def _cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(64, 5),
    )


def _grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.ReLU6(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 8, 1),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
    )


def _weight_normed() -> nn.Module:
    model = _cnn()
    for at in (0, 3):
        parametrizations.weight_norm(model[at])
    return model


def _transformer_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3))


def _pruned() -> MaskedModel:
    """Under `torch.nn.utils.prune`, whose hooks make the weights anew at each call; no masks but its own."""
    model = _cnn()
    masked_model(model, l1_half_masks, normal(3, 12, 12))
    prune.ln_structured(model[0], "weight", 0.5, 2, 0)
    prune.l1_unstructured(model[3], "weight", 0.3)
    return MaskedModel(model, {}, normal(3, 12, 12))


def _half_of_rows(select: Callable[[str, nn.Module], bool]) -> Callable[[nn.Module], Masks]:
    return partial(random_row_masks, fraction=0.5, seed=3, select=select)


def _rows(*cuts: Cut) -> Callable[[nn.Module], Masks]:
    return partial(masks_of, cuts=cuts)


_FOUR = (0, 1, 4, 5)
_TIED = (
    Cut("embed.weight", 1, (0, 1)),
    Cut("mix.weight", 0, (0, 1)),
    Cut("mix.bias", 0, (0, 1)),
)
# The rows of four units in all four gates, and the columns that read them: their states stay zero.
_UNITS = (0, 2, 5, 9)
_GATES = tuple(gate * 10 + unit for gate in range(4) for unit in _UNITS)
_RECURRENT = (
    *(Cut(f"lstm.{name}_l0", 0, _GATES) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
    Cut("lstm.weight_hh_l0", 1, _UNITS),
    Cut("hidden.weight", 1, _UNITS),
)
_WEIGHT_NORMED = (
    Cut("0.parametrizations.weight.original0", 0, _FOUR),
    Cut("3.parametrizations.weight.original0", 0, _FOUR),
)


NETWORKS: Mapping[str, Callable[[], MaskedModel]] = {
    "cnn": lambda: masked_model(_cnn(), l1_half_masks, normal(3, 12, 12), normal(3, 9, 15)),
    "depthwise and grouped": lambda: masked_model(
        _grouped(), _half_of_rows(lambda path, _: path in ("0", "4")), normal(3, 9, 9), normal(3, 7, 11)
    ),
    "tied weights": lambda: masked_model(Tied(), _rows(*_TIED), token_ids(5, _VOCABULARY)),
    "weight norm": lambda: masked_model(_weight_normed(), _rows(*_WEIGHT_NORMED), normal(3, 12, 12)),
    "pruning hooks": _pruned,
    "bare parameters": lambda: masked_model(Bare(), _rows(Cut("enter", 0, (0, 3))), normal(4)),
    "LSTM classifier": lambda: masked_model(
        RecurrentClassifier(), _half_of_rows(lambda path, _: path == "hidden"), token_ids(6, _VOCABULARY)
    ),
    "LSTM units": lambda: masked_model(RecurrentClassifier(), _rows(*_RECURRENT), token_ids(6, _VOCABULARY)),
    "transformer encoder": lambda: masked_model(
        _transformer_encoder(), _half_of_rows(lambda path, _: path.endswith("linear1")), normal(5, 16)
    ),
    "LeNet with literal sizes": lambda: masked_model(LiteralLeNet(), l1_half_masks, normal(1, 32, 32)),
    "C2f": lambda: masked_model(
        C2f(), _rows(Cut("cv1.weight", 0, (0, 1, 2, 9)), Cut("cv1.bias", 0, (0, 1, 2, 9))), normal(3, 8, 8)
    ),
}
