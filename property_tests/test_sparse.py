"""Networks with zeros anywhere in their weights, in kernels that are drawn: exact, whatever the kernels are.

Patterns are single zeros, blocks, and blocks whose rows and columns were put in another order, which only an
order of one's own finds again.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from property_tests.budget import NIGHTLY, SPARSE
from speedup import apply_masks, load, materialize, plan_speedup, save
from speedup.sparse.applying import dense_model
from speedup.sparse.weight import SparseModule
from tests.support.sparse import choices_of

_WIDTHS = (8, 16, 24, 32, 48)
_LEAST_ORDERED = 50
_SHARES = (0.5, 0.7, 0.9, 0.99)


class Chain(nn.Module):
    """Layers in a row, each with an activation, and a sum around those that keep the shape."""

    def __init__(self, layers: list[nn.Module], residual: bool) -> None:
        super().__init__()
        self.layers, self.residual = nn.ModuleList(layers), residual

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            found = torch.tanh(layer(x))
            x = x + found if self.residual and found.shape == x.shape else found
        return x


@st.composite
def patterns(draw: st.DrawFn, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Masks of a weight (rows, columns)."""
    kind = draw(st.sampled_from(("single", "blocks", "ordered blocks")))
    if kind == "single":
        return torch.rand(rows, columns, generator=generator) >= draw(st.sampled_from(_SHARES))
    period = draw(st.integers(2, 4))
    down, across = torch.arange(rows // 8), torch.arange(columns // 8)
    blocks = (down[:, None] + across) % period == 0
    mask = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)
    if kind == "blocks":
        return mask
    orders = torch.randperm(rows, generator=generator), torch.randperm(columns, generator=generator)
    return mask[orders[0]][:, orders[1]]


@st.composite
def networks(draw: st.DrawFn) -> tuple[Chain, dict[str, Tensor], tuple[int, ...]]:
    """A network in float64, masks of its weights, and the shape of a sample."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    is_image = draw(st.booleans())
    widths = draw(st.lists(st.sampled_from(_WIDTHS), min_size=2, max_size=4))
    layers: list[nn.Module] = []
    masks: dict[str, Tensor] = {}
    for number, (columns, rows) in enumerate(pairwise(widths)):
        bias = draw(st.booleans())
        stride = draw(st.sampled_from((1, 1, 2)))
        layer = (
            nn.Conv2d(columns, rows, 1, stride=stride, bias=bias)
            if is_image
            else nn.Linear(columns, rows, bias=bias)
        )
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        layers.append(layer)
        mask = draw(patterns(rows, columns, generator))
        masks[f"layers.{number}.weight"] = mask.reshape(layer.weight.shape)
    sample = (widths[0], draw(st.integers(1, 5)), 4) if is_image else (widths[0],)
    return Chain(layers, draw(st.booleans())).double().eval(), masks, sample


_SEEN: Counter[str] = Counter()


@settings(max_examples=SPARSE)
@given(network=networks(), data=st.data())
def test_networks_with_drawn_kernels_are_exact(
    network: tuple[Chain, dict[str, Tensor], tuple[int, ...]], data: st.DataObject
) -> None:
    model, masks, sample = network
    plan = plan_speedup(model, torch.randn(2, *sample, dtype=torch.float64), masks)
    choices = choices_of(plan, lambda count: data.draw(st.integers(-1, count - 1)))
    small = materialize(plan, choices=choices)
    masked = apply_masks(model, masks).eval()
    dense = dense_model(small)
    layout = data.draw(st.sampled_from((torch.contiguous_format, torch.channels_last)))
    for batch in (1, 3):
        x = torch.randn(batch, *sample, dtype=torch.float64)
        x = x.contiguous(memory_format=layout) if x.ndim == 4 else x
        with torch.no_grad():
            found, wanted, again = small(x), masked(x), dense(x)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(again, wanted, rtol=1e-10, atol=1e-10)
    _require_weights_come_back(small)
    for layer in choices.chosen:
        assert layer.chosen is not None
        _SEEN[str(layer.chosen)] += 1


def _require_weights_come_back(small: nn.Module) -> None:
    for module in small.modules():
        if isinstance(module, SparseModule):
            weight = module.dense().weight
            assert isinstance(weight, Tensor)
            stored = torch.count_nonzero(module.weight_values)
            assert stored == torch.count_nonzero(weight)


@settings(max_examples=max(1, SPARSE // 4))
@given(network=networks(), data=st.data())
def test_saved_networks_come_back_bit_for_bit(
    network: tuple[Chain, dict[str, Tensor], tuple[int, ...]],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    model, masks, sample = network
    x = torch.randn(2, *sample, dtype=torch.float64)
    plan = plan_speedup(model, x, masks)
    choices = choices_of(plan, lambda count: data.draw(st.integers(-1, count - 1)))
    small = materialize(plan, choices=choices, verify="none")
    path = Path(tmp_path_factory.mktemp("saved"), "small.safetensors")
    save(small, plan, path)
    again = load(path, lambda: model)
    assert repr(again) == repr(small)
    assert torch.equal(again(x), small(x))


def test_orders_of_rows_and_columns_were_among_them() -> None:
    if NIGHTLY:
        assert sum(count for kernel, count in _SEEN.items() if "ordered" in kernel) >= _LEAST_ORDERED, _SEEN
