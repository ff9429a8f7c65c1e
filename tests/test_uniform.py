"""Repeated blocks become equally wide, and the plan says what that costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import InputError, apply_masks, materialize, plan_speedup, plan_uniform


class Blocks(nn.Module):
    """Residual blocks of two layers each, and a layer before them that is no block."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 10)) for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for block in self.blocks:
            x = x + block(x)
        return x


def dropping(*counts: int) -> dict[str, Tensor]:
    """Masks that drop the first so many units of each block."""
    masks: dict[str, Tensor] = {}
    for number, count in enumerate(counts):
        rows = torch.arange(16) >= count
        masks[f"blocks.{number}.0.weight"] = rows[:, None].expand(16, 10)
        masks[f"blocks.{number}.0.bias"] = rows
    return masks


def widths(small: Any) -> list[int]:
    return [block[0].out_features for block in small.blocks]


@pytest.mark.parametrize(
    ("counts", "multiple", "width"),
    [((3, 7, 5), 1, 13), ((3, 7, 5), 4, 16), ((9, 7, 8), 4, 12), ((9, 0, 5), 1, 16), ((4, 4, 4), 1, 12)],
)
def test_blocks_are_as_wide_as_the_widest_has_to_be(
    counts: tuple[int, ...], multiple: int, width: int
) -> None:
    model, x, masks = Blocks().double().eval(), torch.randn(3, 6, dtype=torch.float64), dropping(*counts)
    plan = plan_uniform(model, x, masks, multiple=multiple)
    small = materialize(plan)
    assert widths(small) == [width] * 3
    assert [block[2].in_features for block in small.get_submodule("blocks").children()] == [width] * 3  # type: ignore[index]
    torch.testing.assert_close(small(x), apply_masks(model, masks)(x), rtol=1e-12, atol=1e-12)


def test_the_plan_says_what_it_costs() -> None:
    model, x, masks = Blocks().eval(), torch.randn(3, 6), dropping(3, 7, 5)
    plan, without = plan_uniform(model, x, masks), plan_speedup(model, x, masks)
    found = plan.report.alignment
    assert found is not None and found.to == "uniform(1)" and found.channels == (13 * 3) - (13 + 9 + 11)
    assert found.parameters == (without.parameters_after, plan.parameters_after)
    assert str(found).startswith("Aligned to uniform(1): +")


def test_what_is_not_repeated_is_as_wide_as_it_has_to_be() -> None:
    model, x = Blocks(1).eval(), torch.randn(3, 6)
    assert widths(materialize(plan_uniform(model, x, dropping(5)))) == [11]


def test_layers_in_a_row_are_no_blocks() -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 10)])

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.relu(layer(x))
            return x

    masks = {"layers.0.weight": torch.ones(16, 6), "layers.0.bias": torch.ones(16)}
    for mask in masks.values():
        mask[:4] = 0
    small: Any = materialize(plan_uniform(Ends().eval(), torch.randn(3, 6), masks))
    assert [layer.out_features for layer in small.layers] == [12, 16, 10]


def test_options_are_those_of_planning() -> None:
    model, x, masks = Blocks().eval(), torch.randn(3, 6), dropping(3, 7, 5)
    plan = plan_uniform(model, x, masks, keep=["blocks.1"])
    assert widths(materialize(plan)) == [16] * 3


@pytest.mark.parametrize("multiple", [0, -4, True, 2.0, "8"])
def test_a_multiple_that_is_none_is_refused(multiple: Any) -> None:
    with pytest.raises(InputError, match="neither a positive integer"):
        plan_uniform(Blocks().eval(), torch.randn(3, 6), dropping(3, 7, 5), multiple=multiple)
