"""Whole networks: stages one after another, one or two inputs, several forms of output."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

OutputForm = Literal["tensor", "tuple", "dict", "named tuple", "dataclass"]


class Result(NamedTuple):
    """An output as a named tuple."""

    features: tuple[Tensor, ...]
    logits: Tensor


@dataclasses.dataclass
class Prediction:
    """An output as a dataclass with an entry that is not there, as transformers' outputs are."""

    logits: Tensor
    features: tuple[Tensor, ...]
    loss: Tensor | None = None


torch.export.register_dataclass(Prediction, serialized_type_name="speedup.testing.Prediction")

Output = Tensor | tuple[Tensor, ...] | dict[str, Tensor | list[Tensor]] | Result | Prediction


class Net(nn.Module):
    """The stages in order; the results of those in `taps` are returned beside the last one's."""

    def __init__(
        self, *stages: nn.Module, taps: tuple[int, ...] = (), outputs: OutputForm = "tensor"
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.taps = taps
        self.outputs = outputs

    def forward(self, x: Tensor) -> Output:
        features: list[Tensor] = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.taps:
                features.append(x)
        match self.outputs:
            case "tensor":
                return x
            case "tuple":
                return (*features, x)
            case "dict":
                return {"logits": x, "features": features}
            case "named tuple":
                return Result(tuple(features), x)
            case "dataclass":
                return Prediction(logits=x, features=tuple(features))


class TwoInputNet(nn.Module):
    """`merge` turns two inputs into one value, which `net` goes on with; some can do without the second."""

    def __init__(self, merge: nn.Module, net: Net) -> None:
        super().__init__()
        self.merge = merge
        self.net = net

    def forward(self, x: Tensor, y: Tensor | str | None = None) -> Output:
        output: Output = self.net(self.merge(x) if y is None else self.merge(x, y))
        return output


class Merge(nn.Module):
    """Each input through a branch of its own, then a sum, a product or a concatenation."""

    def __init__(
        self, left: nn.Module, right: nn.Module, how: Literal["add", "mul", "cat"], dim: int = 1
    ) -> None:
        super().__init__()
        self.left = left
        self.right = right
        self.how = how
        self.dim = dim

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        left: Tensor = self.left(x)
        right: Tensor = self.right(y)
        match self.how:
            case "add":
                return left + right
            case "mul":
                return left * right
            case "cat":
                return torch.cat([left, right], dim=self.dim)


class Matched(nn.Module):
    """Each input through a branch of its own, then the second, of other sizes, brought to those of the first.

    Along `dims` it is half as long and repeated, twice as long and averaged, or longer by two and cut.
    """

    def __init__(
        self,
        left: nn.Module,
        right: nn.Module,
        how: Literal["repeated", "averaged", "cut"],
        dims: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.left = left
        self.right = right
        self.how = how
        self.dims = dims

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        left: Tensor = self.left(x)
        right: Tensor = self.right(y)
        for dim in self.dims:
            match self.how:
                case "repeated":
                    right = right.repeat_interleave(2, dim)
                case "averaged":
                    right = right.unflatten(dim, (-1, 2)).mean(dim + 1)  # type: ignore[no-untyped-call]
                case "cut":
                    right = right.narrow(dim, 1, right.shape[dim] - 2)
        return left + right


class Siamese(nn.Module):
    """Both inputs through one and the same body; the difference of the results."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.abs(self.body(x) - self.body(y))


class Film(nn.Module):
    """Channels of (N, C, H, W) scaled and shifted by a condition (N, features) (Perez et al. 2018)."""

    def __init__(self, channels: int, hidden: int, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, hidden, 3, padding=1)
        self.condition = nn.Linear(features, 2 * hidden)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        scale, shift = self.condition(y).chunk(2, dim=1)
        modulated: Tensor = self.conv(x) * scale[:, :, None, None] + shift[:, :, None, None]
        return modulated
