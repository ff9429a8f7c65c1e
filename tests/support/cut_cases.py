"""Models with masks whose plans have, between them, every kind of edit of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn

from speedup import Plan, plan_speedup


class Net(nn.Sequential):
    """Layers in a row, with weights and statistics that are random and alive."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for tensor in (*self.parameters(), *self.buffers()):
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.8 + 0.1)


class Tied(nn.Module):
    """An embedding whose weight is the last layer's too; a buffer that no state dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.last = nn.Embedding(7, 6), nn.Linear(6, 10), nn.Linear(6, 7)
        self.back = nn.Linear(10, 6, bias=False)
        self.last.weight = self.embedding.weight
        self.register_buffer("scale", torch.full((6,), 2.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embedding(x) * self.scale
        result: Tensor = self.last(self.back(torch.relu(self.hidden(y))))
        return result


def without(shape: tuple[int, ...], dim: int, *indices: int) -> Tensor:
    """A mask that drops these indices of a dimension."""
    mask = torch.ones(shape)
    mask.index_fill_(dim, torch.tensor(indices), 0)
    return mask


def sliced() -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    """What goes is masked, biases too: slices alone. One mask zeroes entries that stay."""
    model = Net(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    first, second = without((8, 5), 0, 1, 4), without((6, 8), 0, 2)
    first[0, 2] = second[1, 3] = second[5, 0] = 0
    masks = {"0.weight": first, "0.bias": without((8,), 0, 1, 4)}
    return model, torch.ones(2, 5), {**masks, "2.weight": second, "2.bias": without((6,), 0, 2)}


def with_bias_masks() -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    """All that is masked goes, and nothing else does."""
    model = Net(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    first, second = without((8, 5), 0, 1, 4), without((6, 8), 0, 2)
    masks = {
        "0.weight": first,
        "0.bias": first[:, 0].clone(),
        "2.weight": second,
        "2.bias": second[:, 0].clone(),
    }
    return model, torch.ones(2, 5), masks


def folded() -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    """Constants are added to a bias."""
    model = Net(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    return model, torch.ones(2, 5), {"0.weight": without((8, 5), 0, 1, 4)}


def with_new_bias() -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    """Constants become a bias that was not there, between other parameters."""
    model = Net(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4, bias=False), nn.ReLU(), nn.Linear(4, 3))
    return model, torch.ones(2, 5), {"0.weight": without((8, 5), 0, 1, 4)}


def merged() -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    """Behind a padded convolution one column takes multiples of others."""
    model = Net(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    return model, torch.ones(2, 3, 6, 6), {"0.weight": without((8, 3, 1, 1), 0, 1, 4, 5)}


def merged_rows() -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    """The same where rows list the inputs."""
    model = Net(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1))
    return model, torch.ones(2, 3, 6, 6), {"0.weight": without((8, 3, 1, 1), 0, 1, 4, 5)}


def combined() -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    """Behind a depthwise convolution some columns take multiples of others."""
    depthwise = nn.Conv2d(16, 16, (3, 1), padding=(1, 0), groups=16)
    model = Net(nn.Conv2d(3, 16, 1), depthwise, nn.Sigmoid(), nn.Conv2d(16, 4, 1))
    return model, torch.ones(2, 3, 7, 6), {"0.weight": without((16, 3, 1, 1), 0, *range(1, 13))}


def grouped() -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    """Each group keeps other columns."""
    model = Net(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 2, 1))
    drop = without((8, 3, 1, 1), 0, 1, 2, 4, 7)
    return model, torch.ones(2, 3, 6, 6), {"0.weight": drop, "0.bias": drop[:, 0, 0, 0].clone()}


def tied() -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    """A tied weight, and a part of the layers between."""
    drop = without((10, 6), 0, 2, 3)
    return Tied(), torch.tensor([[1, 2, 3]]), {"hidden.weight": drop, "hidden.bias": drop[:, 0].clone()}


def normed() -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    """Statistics are cut as weights are."""
    model = Net(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False), nn.Flatten()
    )
    drop = without((8, 3, 3, 3), 0, 0, 6)
    return model, torch.ones(2, 3, 5, 5), {"0.weight": drop, "1.bias": drop[:, 0, 0, 0].clone()}


CASES: Mapping[str, Callable[[], tuple[nn.Module, Tensor, dict[str, Tensor]]]] = MappingProxyType(
    {
        make.__name__: make
        for make in (
            *(sliced, with_bias_masks, folded, with_new_bias, merged, merged_rows, combined),
            *(grouped, tied, normed),
        )
    }
)


def planned(case: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Plan]:
    """A case's model, in a type, and its plan."""
    model, x, masks = CASES[case]()
    model.to(dtype).eval()
    return model, plan_speedup(model, x.to(dtype) if x.is_floating_point() else x, masks)


planned_once = cache(planned)
"""The same, made once for all tests that leave the model as it is."""

each_case = pytest.mark.parametrize("case", CASES)
