"""Whether the forward's own code carries the keep-sets, and what is missing where it does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from speedup import STANDARD
from speedup.analyses import constants, liveness
from speedup.analyses.analysis import Analysis
from speedup.forwards.rewriting import SourceRewriter
from speedup.ir.expressions import AttributeOf
from speedup.ir.inputs import example_from
from speedup.lowerings import Arguments
from speedup.masks import resolve_masks
from speedup.planning.coupling import solve_coupling
from speedup.tracing.trace import trace_call
from tests.support.contract import dropped, shrunk
from tests.support.drawn import doubles

vectors = doubles(4)


class Net(nn.Module):
    """Twelve features of which the first five go."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 12), nn.Linear(12, 3)
        self.wide, self.parts = 12, 3

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(torch.relu(self.first(x))))

    def between(self, x: Tensor) -> Tensor:
        return x


class Literal(Net):
    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, 12)


class Attribute(Net):
    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, self.wide)


class OfSize(Net):
    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, x.shape[1])


class Guarded(Net):
    def between(self, x: Tensor) -> Tensor:
        return x.tanh() if x.shape[1] == 12 else x


class Scattered(Net):
    def between(self, x: Tensor) -> Tensor:
        y = x.tanh()
        y[:, 2:6] = x[:, 2:6]
        return y


class Uneven(Net):
    def between(self, x: Tensor) -> Tensor:
        first, *rest = x.tensor_split(5, dim=1)
        return torch.cat([*rest, first], 1)


class OfBatch(Net):
    def between(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0] * 12).reshape(-1, 12)


class OfLength(Net):
    def between(self, x: Tensor) -> Tensor:
        return x.reshape(len(x) * 12).reshape(-1, 12)


class BesideLength(Net):
    def between(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 3, 4).reshape(len(x), 12)


class OfSeveralWidths(Net):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(12, 12)

    def between(self, x: Tensor) -> Tensor:
        for step in (torch.tanh, self.second):
            x = step(x).view(-1, 12)
        return x


def analysed(kind: type[Net], writable: bool = True, batch: int = 2, gone: int = 5) -> Analysis:
    model = kind().double()
    traced = trace_call(model, example_from(vectors(batch)))
    masks = resolve_masks(model, dropped(model, {"first": range(gone)}))
    facts = constants.find_constants(traced.graph, traced.tensors, masks, STANDARD)
    lives = liveness.find_liveness(traced.graph, facts, STANDARD)
    rewriter = SourceRewriter(dict(model.named_modules()), () if writable else ("",))
    return solve_coupling(traced.graph, facts, lives, STANDARD, rewriter)


def widths(analysis: Analysis) -> set[int]:
    """The sizes that values of twelve features have in the small model."""
    return {analysis.sizes(v)[1] for v in analysis.graph.values if v.ndim == 2 and v.shape[1] == 12}


def test_a_size_follows_by_itself() -> None:
    found = analysed(OfSize)
    assert widths(found) == {7}
    assert not found.attributes and not found.restated


def test_an_attribute_is_set() -> None:
    found = analysed(Attribute)
    assert widths(found) == {7}
    assert dict(found.attributes) == {AttributeOf("", "wide", 12): 7}
    assert not found.restated


def test_a_literal_is_restated() -> None:
    found = analysed(Literal)
    assert widths(found) == {7}
    assert list(found.restated.values()) == [Arguments({"size": (-1, 7)})]
    assert found.restated_paths == {""}


def test_a_literal_that_cannot_be_restated_keeps_the_channels() -> None:
    assert widths(analysed(Literal, writable=False)) == {12}


def test_unequal_parts_that_cannot_be_restated_keep_the_channels() -> None:
    found = analysed(Uneven, writable=False, gone=2)
    (split,) = (op for op in found.graph.ops if op.name == "tensor_split")
    assert [found.sizes(r)[1] for r in split.results] == [3, 3, 2, 2, 2]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", [OfBatch, OfLength])
def test_a_number_that_follows_the_batch_is_not_written_down(kind: type[Net], batch: int) -> None:
    found = analysed(kind, batch=batch)
    assert widths(found) == {12} and not found.restated


@pytest.mark.parametrize("batch", [1, 2])
def test_a_number_beside_one_that_follows_the_batch_is_written_down(batch: int) -> None:
    found = analysed(BesideLength, batch=batch, gone=4)
    assert widths(found) == {8}
    stated = [Arguments({"shape": (batch, 2, 4)}), Arguments({"shape": (batch, 8)})]
    assert list(found.restated.values()) == stated


def test_a_call_that_another_width_runs_too_is_not_restated() -> None:
    found = analysed(OfSeveralWidths)
    assert widths(found) == {12} and not found.restated


def test_a_branch_that_would_change_keeps_its_size() -> None:
    found = analysed(Guarded)
    assert widths(found) == {12}
    assert any("another branch" in c.reason.words for c in found.constraints)


def test_a_slice_that_is_written_to_keeps_what_it_cannot_state() -> None:
    """Such a call is traced as a scatter, whose shapes alone do not tell that it no longer fits."""
    _, small = shrunk(Scattered(), vectors, {"first": range(5)})
    assert small.first.out_features >= 7


def test_arguments_are_those_of_the_small_model() -> None:
    found = analysed(Attribute)
    (view,) = (op for op in found.graph.ops if op.name == "view")
    assert found.arguments(view)["size"] == (-1, 7)
    assert found.lookup(AttributeOf("", "parts", 3)) == 3
