"""Which layers are said to read which, and where several come together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from speedup import plan_speedup
from speedup.ir.report import Junction, Report


def report(model: nn.Module, *shape: int) -> Report:
    return plan_speedup(model, torch.randn(shape)).report


def rows(module: nn.Module) -> Report:
    return report(module, 2, 8)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


def test_operators_without_parameters_are_passed_through() -> None:
    found = rows(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 4)))
    assert found.links == (("0", "3"),)
    assert found.junctions == ()


def test_a_residual_addition_is_a_junction_of_the_module_that_adds() -> None:
    found = rows(nn.Sequential(nn.Linear(8, 8), Block(), nn.Linear(8, 2)))
    assert found.junctions == (Junction("1 (add)", "1", "add"),)
    assert set(found.links) == {
        ("0", "1.up"),
        ("1.up", "1.down"),
        ("0", "1 (add)"),
        ("1.down", "1 (add)"),
        ("1 (add)", "2"),
    }


def test_links_of_a_residual_stream_grow_with_its_length_only() -> None:
    found = rows(nn.Sequential(*(Block() for _ in range(30))))
    # Within the first block one link; into, within, around and out of each other one four.
    assert len(found.links) == 1 + 29 * 4
    assert len(found.junctions) == 29


def test_every_link_ends_in_a_layer_or_a_junction() -> None:
    found = rows(nn.Sequential(*(Block() for _ in range(3))))
    known = {layer.path for layer in found.layers} | {junction.name for junction in found.junctions}
    assert {name for link in found.links for name in link} == known


def test_junctions_of_one_module_have_names_of_their_own() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x) + self.c(x)

    found = rows(Sums())
    assert found.junctions == (Junction("(add)", "", "add"), Junction("(add 2)", "", "add"))
    assert ("(add)", "(add 2)") in found.links


def test_what_a_layer_reads_twice_is_one_link_and_no_junction() -> None:
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(x * torch.sigmoid(x))

    found = rows(Square())
    assert found.links == (("a", "b"),)
    assert found.junctions == ()


def test_a_layer_that_is_called_twice_links_back() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.other = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(self.other(self.shared(x)))

    assert set(rows(Twice()).links) == {("shared", "other"), ("other", "shared")}


def test_a_weight_that_is_computed_is_part_of_its_layer() -> None:
    found = rows(nn.Sequential(weight_norm(nn.Linear(8, 6)), nn.ReLU(), weight_norm(nn.Linear(6, 4))))
    assert found.links == (("0", "2"),)


def test_parameters_of_the_model_itself_link_it_to_what_it_reads() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 2)
            self.shift = nn.Parameter(torch.ones(1, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x) + self.shift.expand(2, -1).sum(0))

    assert set(rows(Shifted()).links) == {("first", ""), ("", "last")}


def test_what_multiplies_is_a_layer_of_its_own() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1) @ x
            return self.out(x)

    found = report(nn.Sequential(Attention()), 2, 3, 8)
    assert set(found.links) == {("0.q", "0"), ("0.k", "0"), ("0", "0.out")}
    assert found.junctions == ()
