"""Modules that combine other modules: residual adds, concatenations, splits, gates, reuse."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """`body(x) + shortcut(x)`, where no shortcut means `x` itself."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, in_place: bool = False) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(x)
        out: Tensor = self.body(x)
        if self.in_place:
            out += shortcut
            return out
        return out + shortcut


class Concat(nn.Module):
    """The branches' results side by side along `dim`; two identities make `cat([x, x])`."""

    def __init__(self, *branches: nn.Module, dim: int = 1) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=self.dim)


class SplitPaths(nn.Module):
    """Split `x` along `dim`, send each piece down its own path, and join the results.

    Without `sizes` the pieces come from `chunk`; the join is a concatenation unless `add`.
    """

    def __init__(
        self, *paths: nn.Module, sizes: tuple[int, ...] | None = None, dim: int = 1, add: bool = False
    ) -> None:
        super().__init__()
        self.paths = nn.ModuleList(paths)
        self.sizes = sizes
        self.dim = dim
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        if self.sizes is None:
            pieces = x.chunk(len(self.paths), dim=self.dim)
        else:
            pieces = torch.split(x, list(self.sizes), dim=self.dim)
        results = [path(piece) for path, piece in zip(self.paths, pieces, strict=True)]
        if not self.add:
            return torch.cat(results, dim=self.dim)
        total: Tensor = results[0]
        for result in results[1:]:
            total = total + result
        return total


class Gated(nn.Module):
    """`body(x) * sigmoid(gate(x))`: a masked gate is 0.5, not 0."""

    def __init__(self, body: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x) * torch.sigmoid(self.gate(x))
        return result


class GatedUnit(nn.Module):
    """The feed-forward layer of Llama: `down(silu(gate(x)) * up(x))`."""

    def __init__(self, features: int, hidden: int, bias: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(features, hidden, bias=bias)
        self.up = nn.Linear(features, hidden, bias=bias)
        self.down = nn.Linear(hidden, features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(nn.functional.silu(self.gate(x)) * self.up(x))
        return result


class Twice(nn.Module):
    """One module called on its own result."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(torch.relu(self.body(x)))
        return result


class BothWays(nn.Module):
    """One module called on `x` and on `-x`, the two results side by side along `dim`."""

    def __init__(self, body: nn.Module, dim: int = 1) -> None:
        super().__init__()
        self.body = body
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.body(x), self.body(-x)], dim=self.dim)
