"""Moves and blocks on their own: splits of reshapes, boxes, projections, restrictions."""

from __future__ import annotations

from itertools import product
from math import prod

import pytest
import torch
from torch import Tensor

from speedup.engine.layout import (
    Block,
    IndexMap,
    box,
    identity_blocks,
    project,
    pull,
    push,
    reshape_blocks,
    restrict_index,
    same_dims,
)

NONE = torch.tensor(0)


def groups(source: tuple[int, ...], target: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The blocks between dimensions wider than 1."""
    blocks = reshape_blocks(source, target)
    assert all(b.index is None for b in blocks)
    return [(b.source, b.target) for b in blocks if b.source and b.target]


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ((2, 6, 5), (12, 5), [((0, 1), (0,)), ((2,), (1,))]),
        ((12, 5), (2, 6, 5), [((0,), (0, 1)), ((1,), (2,))]),
        ((2, 3, 4), (2, 3, 4), [((0,), (0,)), ((1,), (1,)), ((2,), (2,))]),
        ((4, 6), (3, 8), [((0, 1), (0, 1))]),
        ((2, 3, 4, 5), (6, 20), [((0, 1), (0,)), ((2, 3), (1,))]),
        ((2, 6, 5, 7), (4, 3, 35), [((0, 1), (0, 1)), ((2, 3), (2,))]),
        ((2, 1, 3), (1, 2, 3, 1), [((0,), (1,)), ((2,), (2,))]),
        ((1,), (), []),
        ((), (1, 1), []),
    ],
)
def test_reshape_blocks_are_these(
    source: tuple[int, ...],
    target: tuple[int, ...],
    expected: list[tuple[tuple[int, ...], tuple[int, ...]]],
) -> None:
    assert groups(source, target) == expected


SHAPES = [s for rank in range(1, 4) for s in product((1, 2, 3, 4, 6), repeat=rank) if prod(s) in (12, 24)]
PAIRS = [(s, t) for s in SHAPES for t in SHAPES if prod(s) == prod(t)][::7]


def test_reshape_blocks_take_every_dimension_once_and_balance() -> None:
    for source, target in PAIRS:
        blocks = reshape_blocks(source, target)
        assert sorted(d for b in blocks for d in b.source) == list(range(len(source)))
        assert sorted(d for b in blocks for d in b.target) == list(range(len(target)))
        assert all(prod(source[d] for d in b.source) == prod(target[d] for d in b.target) for b in blocks)


def test_reshape_blocks_are_the_finest_split() -> None:
    for source, target in PAIRS:
        inner = {prod(source[:d]) for d in range(1, len(source))} & {
            prod(target[:d]) for d in range(1, len(target))
        }
        cuts = inner - {1, prod(source)}
        assert len(groups(source, target)) == len(cuts) + 1, (source, target)


def test_reshape_blocks_move_elements_as_reshape_does() -> None:
    for source, target in PAIRS:
        tensor = torch.arange(prod(source)).reshape(source)
        move = IndexMap(0, 0, reshape_blocks(source, target))
        assert torch.equal(pull(move, tensor, source, target, NONE).expand(target), tensor.reshape(target))


def test_a_block_between_two_dimensions_without_index_is_plain() -> None:
    assert Block((0,), (1,)).is_plain
    assert not Block((0,), (1,), torch.arange(2)).is_plain
    assert not Block((0, 1), (0,)).is_plain
    assert not Block((), (0,)).is_plain


def test_a_move_covers_its_result_unless_an_index_has_gaps() -> None:
    assert IndexMap(0, 0, identity_blocks([(0, 1), (1, 0)])).covers
    assert IndexMap(0, 0, same_dims(2, {1: torch.tensor([0, 0, 2])})).covers
    assert not IndexMap(0, 0, same_dims(2, {1: torch.tensor([-1, 0, 1])})).covers


def test_same_dims_puts_indices_on_the_named_dimensions_only() -> None:
    index = torch.tensor([1, 0])
    blocks = same_dims(3, {1: index})
    assert [(b.source, b.target) for b in blocks] == [((d,), (d,)) for d in range(3)]
    assert [b.index is index for b in blocks] == [False, True, False]


def test_pull_writes_the_fill_where_an_index_has_a_gap() -> None:
    move = IndexMap(0, 0, same_dims(1, {0: torch.tensor([-1, 1, -1, 0])}))
    got = pull(move, torch.tensor([5, 6]), (2,), (4,), torch.tensor(9))
    assert got.tolist() == [9, 6, 9, 5]


def test_pull_fills_gaps_of_a_compressed_operand_too() -> None:
    move = IndexMap(0, 0, same_dims(2, {1: torch.tensor([-1, 0, 1])}))
    got = pull(move, torch.tensor([[5]]), (3, 2), (3, 3), torch.tensor(9))
    assert got.tolist() == [[9, 5, 5]]


def test_pull_from_an_operand_without_elements_is_the_fill() -> None:
    move = IndexMap(0, 0, same_dims(2, {1: torch.tensor([-1, -1])}))
    assert pull(move, torch.tensor([[5]]), (3, 0), (3, 2), torch.tensor(9)).tolist() == [[9]]


def test_pull_keeps_dimensions_compressed_that_no_index_touches() -> None:
    move = IndexMap(0, 0, same_dims(3, {1: torch.tensor([2, 0])}))
    got = pull(move, torch.tensor([[[1], [2], [3]]]), (4, 3, 5), (4, 2, 5), NONE)
    assert got.tolist() == [[[3], [1]]]


def test_push_marks_what_is_read_and_nothing_else() -> None:
    move = IndexMap(0, 0, same_dims(1, {0: torch.tensor([2, -1, 0, 0])}))
    live = torch.tensor([False, True, True, False])
    assert push(move, live, (3,), (4,)).tolist() == [True, False, False]


def test_push_of_a_uniformly_live_result_spares_elements_that_no_index_reads() -> None:
    move = IndexMap(0, 0, same_dims(1, {0: torch.tensor([0, 2])}))
    assert push(move, torch.tensor([True]), (4,), (2,)).tolist() == [True, False, True, False]


def test_push_of_a_uniformly_live_result_that_reads_everything_stays_compressed() -> None:
    move = IndexMap(0, 0, same_dims(2, {0: torch.tensor([1, 0])}))
    assert tuple(push(move, torch.tensor([[True]]), (2, 3), (2, 3)).shape) == (1, 1)


def kept(*sets: str) -> list[Tensor]:
    """Keep-sets written as strings of 0 and 1."""
    return [torch.tensor([c == "1" for c in one]) for one in sets]


def test_a_box_is_the_row_major_product_of_its_sets() -> None:
    a, b, c = kept("10", "011", "11")
    expected = (a[:, None, None] & b[None, :, None] & c[None, None, :]).reshape(-1)
    assert torch.equal(box([a, b, c]), expected)
    assert box([]).tolist() == [True]


def test_project_of_a_box_gives_back_its_sets() -> None:
    for sets in product(["10", "11", "01"], ["011", "100"], ["1", "1"]):
        chosen = kept(*sets)
        got = project(box(chosen), [len(s) for s in sets])
        assert all(map(torch.equal, got, chosen))


def test_project_is_the_smallest_box_around_a_set() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        flat = torch.rand(12, generator=generator) < 0.2
        shaped = flat.reshape(2, 3, 2)
        expected = [shaped.movedim(d, 0).flatten(1).any(1) for d in range(3)]
        assert all(map(torch.equal, project(flat, (2, 3, 2)), expected))
    assert project(torch.tensor([True]), ()) == ()


def test_restricted_renumbers_onto_the_kept_elements() -> None:
    source, target = kept("0110", "1101")
    found = restrict_index(torch.tensor([2, 1, 0, -1]), source, target)
    assert found is not None
    assert found.tolist() == [1, 0, -1]


def test_restricted_identity_keeps_matching_sets() -> None:
    source, target = kept("0110", "0110")
    found = restrict_index(None, source, target)
    assert found is not None
    assert found.tolist() == [0, 1]


def test_restricted_is_none_when_something_dropped_would_be_read() -> None:
    source, target = kept("0110", "0111")
    assert restrict_index(None, source, target) is None
    assert restrict_index(torch.tensor([1, 2, 1, 0]), source, target) is None


def test_restricted_is_the_map_of_the_smaller_operator() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        index = torch.randint(-1, 5, (7,), generator=generator)
        source = torch.rand(5, generator=generator) < 0.7
        target = torch.rand(7, generator=generator) < 0.7
        got = restrict_index(index, source, target)
        read = index[target]
        allowed = bool((source[read.clamp(min=0)] | (read < 0)).all())
        assert (got is not None) is allowed
        if got is not None:
            values = torch.arange(10, 15)
            large = torch.where(read >= 0, values[read.clamp(min=0)], -1)
            small = torch.where(got >= 0, values[source][got.clamp(min=0)] if bool(source.any()) else -1, -1)
            assert torch.equal(small, large)
