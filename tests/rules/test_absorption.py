"""What takes over the constants of dropped channels, where several calls read a weight or many differ."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from speedup import apply_masks, materialize, plan_speedup
from speedup.ir.inputs import example_from
from speedup.masks import resolve_masks
from speedup.modules.reparametrized import Plain
from speedup.planning.planner import Request, find_solution
from speedup.rules import STANDARD
from speedup.rules.absorption import Compensation, compensation_of

ROWS, CHANNELS = 5, 12


class Positions(nn.Module):
    """Scales each place by what a small network makes of a table, as window attention does."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Buffer(table)
        self.read = nn.Linear(CHANNELS, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.read(self.table)
        return x[:, None, :] * scale


def compensations(model: nn.Module, *inputs: Any) -> list[Compensation | None]:
    """Of each linear layer's op, in all calls."""
    calls = tuple(example_from(x, None) for x in inputs)
    request = Request(model, Plain(model), calls, resolve_masks(model, {}), STANDARD, (), None, frozenset())
    with torch.no_grad():
        analysis = find_solution(request).analysis
    return [compensation_of(site) for site in analysis.sites if site.op.name == "linear"]


def test_calls_that_read_the_same_constants_say_them_once() -> None:
    table = torch.randn(ROWS, CHANNELS).double()
    model = Positions(table).double().eval()
    inputs = [torch.randn(n, 3).double() for n in (2, 4, 7)]
    found = compensations(model, *inputs)
    assert len(found) == len(inputs)
    for one in found:
        assert one is not None
        assert torch.equal(one.profiles, table.T)


def test_calls_that_read_other_constants_are_all_heard() -> None:
    class Halved(Positions):
        def forward(self, x: Tensor, first: bool = True) -> Tensor:
            scale: Tensor = self.read(self.table[:2] if first else self.table[2:])
            return x[:, None, :] * scale

    table = torch.randn(ROWS, CHANNELS).double()
    model = Halved(table).double().eval()
    x = torch.randn(2, 3).double()
    found = compensations(model, (x, True), (x, False), (x, True))
    assert len(found) == 3
    for one in found:
        assert one is not None
        assert torch.equal(one.profiles, table.T)


def test_multiples_of_one_another_make_a_family() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, ROWS, generator=generator).double()
    # Two that have the mean in common and are no multiples; one of mean zero.
    base[1] = base[0].flip(0)
    base[2] -= base[2].mean()
    which = [0, 1, 2, 3, 0, 1, 2, 3, 2, 1, 0, 0]
    factors = [1, 1, 1, 1, -3, 2, -1e-3, 7, 1e4, 1 / 3, 0.1, 1e-6]
    table = (base[which] * torch.tensor(factors).double()[:, None]).T
    for one in compensations(Positions(table).double().eval(), torch.randn(2, 3).double()):
        assert one is not None
        assert [family.nonzero().flatten().tolist() for family in one.families] == [
            [n for n, base_of in enumerate(which) if base_of == number] for number in range(4)
        ]


def test_a_table_s_channels_go_with_one_of_each_family_left() -> None:
    table = torch.randn(ROWS, 3).double().repeat(1, CHANNELS // 3)
    model = Positions(table).double().eval()
    x, y = torch.randn(2, 3).double(), torch.randn(5, 3).double()
    small = materialize(plan_speedup(model, x, {}, others=[y]))
    for one in (x, y, torch.randn(1, 3).double()):
        torch.testing.assert_close(small(one), apply_masks(model, {})(one), rtol=1e-12, atol=1e-12)
