"""How calls and subscripts of each kind are changed in the source, and that the result is exact."""

from __future__ import annotations

import ast
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, chunk, mean, nn

from speedup.ir.inputs import example_from
from speedup.lowerings.arguments import Arguments
from speedup.lowerings.lowering import Written
from speedup.lowerings.syntax import read_call
from speedup.tracing.trace import Trace, trace_call
from tests.support.contract import shrunk
from tests.support.drawn import doubles

vectors = doubles(4)


class Base(nn.Module):
    """Twelve features between two layers; those of `GONE` go. The head reads `wide` features."""

    wide = 12

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 12), nn.Linear(type(self).wide, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(torch.relu(self.first(x))))

    def between(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Chunk(Base):
    def between(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.cat([a.tanh(), b], 1)


class ChunkFunction(Base):
    def between(self, x: Tensor) -> Tensor:
        a, b = torch.chunk((x + x), 2, dim=-1)
        return torch.cat([a.tanh(), b], 1)


class ChunkName(Base):
    def between(self, x: Tensor) -> Tensor:
        a, b = chunk(x, 2, 1)
        return torch.cat([a.tanh(), b], 1)


class ChunkOfSum(Base):
    def between(self, x: Tensor) -> Tensor:
        a, b = (x + x.tanh()).chunk(2, dim=1)
        return torch.cat([a.tanh(), b], 1)


class SplitSize(Base):
    def between(self, x: Tensor) -> Tensor:
        a, b, c = x.split(4, dim=1)
        return torch.cat([a.tanh(), b, c.sigmoid() - 0.5], 1)


class SplitFunction(Base):
    def between(self, x: Tensor) -> Tensor:
        a, b, c = torch.split(x, 4, dim=1)
        return torch.cat([a.tanh(), b, c.sin()], 1)


class SplitSizes(Base):
    def between(self, x: Tensor) -> Tensor:
        a, b, c = x.split([2, 4, 6], dim=1)
        return torch.cat([a.tanh(), b, c.sin()], 1)


class SplitSizesFunction(Base):
    def between(self, x: Tensor) -> Tensor:
        a, b, c = torch.split(x, (2, 4, 6), 1)  # type: ignore[arg-type]
        return torch.cat([a.tanh(), b, c.sin()], 1)


class SplitWithSizes(Base):
    def between(self, x: Tensor) -> Tensor:
        a, b, c = x.split_with_sizes([2, 4, 6], 1)
        return torch.cat([a.tanh(), b, c.sin()], 1)


class TensorSplit(Base):
    def between(self, x: Tensor) -> Tensor:
        a, b = torch.tensor_split(x, 2, dim=1)
        return torch.cat([a.tanh(), b], 1)


class UnbindHeads(Base):
    wide = 4

    def between(self, x: Tensor) -> Tensor:
        a, b, c = x.view(-1, 3, 4).unbind(1)
        return a + b.tanh() * c


class SliceTo(Base):
    def between(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :8].tanh(), x[:, 8:]], 1)


class SliceEllipsis(Base):
    def between(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., :5].tanh(), x[..., 5:]], -1)


class SliceNegative(Base):
    def between(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :-4].tanh(), x[:, -4:]], 1)


class SliceStep(Base):
    def between(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, ::2].tanh(), x[:, 1::2]], 1)


class SliceBoth(Base):
    wide = 6

    def between(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1)[:, 0:1, 3:9].flatten(1)


class SliceStored(Base):
    def between(self, x: Tensor) -> Tensor:
        y = x.tanh()
        y[:, 2:6] = x[:, 2:6]
        return y


class SelectOne(Base):
    wide = 1

    def between(self, x: Tensor) -> Tensor:
        return x[:, 5].unsqueeze(1)


class SelectTwo(Base):
    wide = 2

    def between(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 5], x.select(1, -2)], 1)


class Narrow(Base):
    wide = 7

    def between(self, x: Tensor) -> Tensor:
        return x.narrow(1, 2, 7)


class NarrowFunction(Base):
    wide = 7

    def between(self, x: Tensor) -> Tensor:
        return torch.narrow(x, dim=1, start=2, length=7)


class Flip(Base):
    def between(self, x: Tensor) -> Tensor:
        return x.flip(1)


class FlipOfSum(Base):
    def between(self, x: Tensor) -> Tensor:
        return (x + 2 * x).flip(-1)


class FlipFunction(Base):
    def between(self, x: Tensor) -> Tensor:
        return torch.flip(x + x, [1])


class Roll(Base):
    def between(self, x: Tensor) -> Tensor:
        return torch.roll(x, 5, 1)


class Shuffle(Base):
    def between(self, x: Tensor) -> Tensor:
        return F.channel_shuffle(x.unsqueeze(-1), 3).squeeze(-1)


class ShuffleByHand(Base):
    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, 3, 4).transpose(1, 2).reshape(-1, 12)


class Mean(Base):
    wide = 1

    def between(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True)


class MeanFunction(Base):
    wide = 1

    def between(self, x: Tensor) -> Tensor:
        return 2 * torch.mean(x + x, dim=-1).unsqueeze(-1) ** 2


class MeanName(Base):
    wide = 1

    def between(self, x: Tensor) -> Tensor:
        return mean(x, 1).unsqueeze(-1) ** 2


class Unflatten(Base):
    def between(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (3, 4)).tanh().flatten(1)


class Affine(Base):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.randn(12)), nn.Parameter(torch.randn(12))


class LayerNormed(Affine):
    def between(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (12,), self.scale, self.shift)


class LayerNormedByShape(Affine):
    def between(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weight=self.scale, eps=1e-3)


class LayerNormedOddly(Affine):
    def between(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, [12], self.scale, self.shift, (1e-3))


class LayerNormedFully(Affine):
    def between(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, [12], self.scale, self.shift, 1e-3, True)


class RmsNormed(Affine):
    def between(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (12,), self.scale, eps=1e-3)


class GroupNormed(Base):
    def between(self, x: Tensor) -> Tensor:
        return F.group_norm(x, 3)


class Expanded(Base):
    def between(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0).expand(2, -1, 12).sum(0)


class Repeated(Base):
    wide = 24

    def between(self, x: Tensor) -> Tensor:
        return x.repeat(1, 2).view(-1, 24)


KINDS: dict[type[Base], int] = {
    Chunk: 7, ChunkFunction: 7, ChunkName: 7, ChunkOfSum: 7, SplitSize: 7, SplitFunction: 7, SplitSizes: 7,
    SplitSizesFunction: 7, SplitWithSizes: 7, TensorSplit: 7, UnbindHeads: 6, SliceTo: 7,
    SliceEllipsis: 7, SliceNegative: 7, SliceStep: 7, SliceBoth: 3, SliceStored: 12, SelectOne: 1,
    SelectTwo: 2, Narrow: 4, NarrowFunction: 4, Flip: 7, FlipOfSum: 7, FlipFunction: 7, Roll: 7,
    Shuffle: 7, ShuffleByHand: 12, Mean: 7, MeanFunction: 7, MeanName: 7, Unflatten: 12, LayerNormed: 7,
    LayerNormedByShape: 7, LayerNormedOddly: 12, LayerNormedFully: 12, RmsNormed: 12, GroupNormed: 12,
    Expanded: 7, Repeated: 7,
}  # fmt: skip


def shrunk_to(kind: type[Base], gone: tuple[int, ...]) -> int:
    """How many features are left of twelve once those of `gone`, and what scales them, are masked."""
    model = kind()
    keep = torch.ones(12)
    keep[list(gone)] = 0
    masks = (
        {"": {name: keep for name, _ in model.named_parameters(recurse=False)}}
        if isinstance(model, Affine)
        else {}
    )
    _, small = shrunk(model, vectors, {"first": gone}, masks=masks)
    return small.first.out_features


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_a_restated_call_is_exact(kind: type[Base]) -> None:
    assert shrunk_to(kind, (0, 3, 4, 6, 11)) == KINDS[kind]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_a_restated_call_is_exact_where_a_whole_part_goes(kind: type[Base]) -> None:
    assert shrunk_to(kind, (4, 5, 6, 7)) <= 12


def _narrowed(source: str) -> tuple[Any, ...] | None:
    """The changes that make a call of `narrow` in `source` tell another length."""
    op = next(op for op in traced(Narrow()).graph.ops if op.name == "narrow")
    call = ast.parse(source, mode="eval").body
    assert isinstance(call, ast.Call)
    written = Written(op, call, read_call(call, {}), None, op.arguments, lambda name, place: True)
    return Arguments({"length": 4}).rewrite(written)


@pytest.mark.parametrize("spread", ["x.narrow(*nothing, 1, 2, 6)", "x.narrow(*two, 6, 9)"])
def test_behind_what_is_spread_no_number_is_told_by_its_place(spread: str) -> None:
    assert _narrowed(spread) is None
    assert _narrowed("x.narrow(1, 2, 6)") is not None
    assert _narrowed("x.narrow(*two, length=6)") is not None


def traced(model: nn.Module) -> Trace:
    return trace_call(model.eval(), example_from(torch.randn(2, 4)))
