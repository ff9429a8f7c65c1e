"""Models to save in one process and to load in another, each with an example input and masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn
from torch.nn.utils import prune

WIDTH = 6


class Residual(nn.Module):
    """Two stages of a ResNet: constants behind BatchNorm, padded convolutions, an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)
        self.bn1.eval()
        for norm in (self.bn1, self.bn2, self.bn3):
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn3(self.conv3(F.relu(self.bn2(self.conv2(x))))))
        return self.fc(x.mean((2, 3)))


class Rewritten(nn.Module):
    """States a size in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)).view(-1, 12))


class Headed(nn.Module):
    """Keeps its number of heads as an attribute, scaled by a number that the constructor computes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 3
        self.first, self.last = nn.Linear(WIDTH, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).view(x.shape[0], self.heads, self.width)
        return self.last(torch.relu(x).flatten(1))


class Attending(nn.Module):
    """Loses heads, which `nn.MultiheadAttention` itself cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.attention(x, x, x, need_weights=False)[0])


class Tied(nn.Module):
    """An embedding that is also the head, and a table that no state dict holds."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight
        table = torch.arange(40.0).reshape(5, 8).sin() * torch.tensor([1, 1, 0, 1, 1, 0, 1, 1])
        self.register_buffer("table", table, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.table[: tokens.shape[1]]
        return self.head(self.down(torch.relu(self.up(x))) + x)


class Recurrent(nn.Module):
    """An LSTM that loses inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 10)
        self.lstm = nn.LSTM(10, 5, batch_first=True)
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.lstm(torch.relu(self.first(x)))[0])


class Block(nn.Module):
    """Two layers; what is between them can shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 10), nn.Linear(10, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class Forked(nn.Module):
    """Takes one of two ways, by the values of its input, and so is planned in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.positive, self.negative, self.last = Block(), Block(), Block()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.positive(x) if x.sum() > 0 else self.negative(x))


class Computed(nn.Module):
    """Cannot be made without data: it looks at numbers, keeps a plain tensor, and one in a closure."""

    def __init__(self) -> None:
        super().__init__()
        rates = [rate.item() for rate in torch.linspace(0, 1, 3)]
        self.scale = torch.tensor(rates).exp()
        self.first, self.last = nn.Linear(WIDTH, 9), nn.Linear(9, 3)
        shift = self.scale * 2
        self.last.register_forward_hook(lambda module, args, output: output + shift)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x))) * self.scale


class Closed(nn.Module):
    """Can be made without data, but only a function holds the tensor that it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, 9), nn.Linear(9, 3)
        shift = torch.arange(3.0)
        self.last.register_forward_hook(lambda module, args, output: output + shift)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


def pruned() -> nn.Module:
    """With `torch.nn.utils.prune` on one layer, weight normalisation in both its forms on others."""
    model = nn.Sequential(
        nn.utils.weight_norm(nn.Linear(WIDTH, 8)),
        nn.ReLU(),
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
        nn.ReLU(),
        nn.Linear(8, 3),
    )
    prune.random_unstructured(model[4], "weight", 5)
    return model


def half() -> nn.Module:
    """In bfloat16 throughout, partly frozen, in eval mode."""
    model = nn.Sequential(nn.Linear(WIDTH, 12), nn.ReLU(), nn.Linear(12, 3)).to(torch.bfloat16).eval()
    model[0].requires_grad_(False)
    return model


def channels_last() -> nn.Module:
    """Convolutions whose weights lie in another order."""
    return Residual().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@frozen(eq=False)
class SavedCase:
    """How to make a model, and which rows of which modules go; biases go along."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    rows: Mapping[str, tuple[int, ...]]
    weights_only: bool = False
    dtype: torch.dtype = torch.float32

    def model(self, seed: int = 0) -> nn.Module:
        """The model with the weights of `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make()

    def example(self, seed: int = 0) -> Tensor:
        """A batch of two."""
        generator = torch.Generator().manual_seed(seed)
        if self.dtype is torch.int64:
            return torch.randint(11, (2, *self.shape), generator=generator)
        return torch.randn((2, *self.shape), generator=generator).to(self.dtype)

    def masks(self, model: nn.Module) -> dict[str, dict[str, Tensor]]:
        """Masks of the rows."""
        found: dict[str, dict[str, Tensor]] = {}
        for path, rows in self.rows.items():
            for name, parameter in model.get_submodule(path).named_parameters(recurse=False):
                if self.weights_only and name != "weight":
                    continue
                mask = torch.ones_like(parameter, dtype=torch.float32)
                mask[list(rows)] = 0
                found.setdefault(path, {})[name] = mask
        return found


def _heads(*heads: int, width: int = 2, parts: int = 3, embed: int = 8) -> tuple[int, ...]:
    rows = [h * width + w for h in heads for w in range(width)]
    return tuple(part * embed + row for part in range(parts) for row in rows)


CASES: Mapping[str, SavedCase] = MappingProxyType(
    {
        "residual": SavedCase(Residual, (3, 8, 8), {"conv1": (0, 3), "conv2": (1, 2, 5), "conv3": (0, 3)}),
        "channels last": SavedCase(channels_last, (3, 8, 8), {"conv2": (1, 2, 5)}),
        "rewritten": SavedCase(Rewritten, (WIDTH,), {"first": (0, 3, 4, 7, 11)}),
        "attributes": SavedCase(Headed, (WIDTH,), {"first": (3, 4, 5)}),
        "attention": SavedCase(Attending, (5, 8), {"attention": ()}),
        "tied": SavedCase(Tied, (5,), {"up": (1, 4), "down": (2, 5)}, dtype=torch.int64),
        "recurrent": SavedCase(Recurrent, (4, WIDTH), {"first": (2, 7)}),
        "islands": SavedCase(Forked, (WIDTH,), {"positive.up": (1, 2), "last.up": (0, 9)}),
        "computed": SavedCase(Computed, (WIDTH,), {"first": (1, 2, 8)}),
        "closed over": SavedCase(Closed, (WIDTH,), {"first": (1, 2, 8)}),
        "pruned": SavedCase(pruned, (WIDTH,), {"4": ()}),
        "bfloat16": SavedCase(half, (WIDTH,), {"0": (0, 5, 6)}, dtype=torch.bfloat16),
        "new bias": SavedCase(
            lambda: nn.Sequential(nn.Linear(WIDTH, 9), nn.Sigmoid(), nn.Linear(9, 3, bias=False)),
            (WIDTH,),
            {"0": (1, 2)},
            weights_only=True,
        ),
    }
)


def masks_of(name: str, model: nn.Module) -> Any:
    """The masks of a case; those of attention drop whole heads."""
    if name == "attention":
        mask = torch.ones(24, 8)
        mask[list(_heads(1, 2))] = 0
        columns = torch.ones(8, 8)
        columns[:, [2, 3, 4, 5]] = 0
        return {"attention.in_proj_weight": mask, "attention.out_proj.weight": columns}
    if name == "pruned":
        mask = torch.ones(8, 1)
        mask[[1, 6]] = 0
        return {"0.weight_g": mask, "0.bias": mask.reshape(-1)}
    masks = CASES[name].masks(model)
    if name == "tied":
        masks["embedding"] = {"weight": torch.tensor([[1, 1, 0, 1, 1, 0, 1, 1]])}
    return masks
