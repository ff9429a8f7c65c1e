"""The constants' lattice and the arithmetic of compressed tensors, by brute force on small sets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from speedup.engine.lattice import (
    Fact,
    all_over,
    any_along,
    any_both,
    any_over,
    broadcast,
    constant,
    fact,
    fold_to,
    indicator,
    join,
    split_runs,
    spread,
    state_along,
    uniform_along,
    unknown,
    vector,
)

SHAPE = (2, 3, 4)
EXTENTS = [
    tuple(n if keep else 1 for n, keep in zip(SHAPE, kept, strict=True)) for kept in product((0, 1), repeat=3)
]
DIMS = [dims for size in range(4) for dims in combinations(range(3), size)]


def flags(shape: tuple[int, ...], seed: int = 0, share: float = 0.5) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def expanded(one: Fact, shape: tuple[int, ...] = SHAPE) -> list[object]:
    """The element states as Python values: a number, or None for Unknown."""
    known = one.known.expand(shape).reshape(-1).tolist()
    value = one.value.expand(shape).reshape(-1).tolist()
    return [v if k else None for k, v in zip(known, value, strict=True)]


def elements() -> Iterator[Fact]:
    """Every fact about one element of a three-valued type."""
    yield unknown(1, torch.float64)
    for number in (0.0, 1.0, 2.0):
        yield constant(torch.tensor([number], dtype=torch.float64))


def pairs() -> Iterator[Fact]:
    """Every fact about two elements that are Unknown, 0 or 1, compressed where it can be."""
    for states in product((None, 0.0, 1.0), repeat=2):
        known = torch.tensor([s is not None for s in states])
        value = torch.tensor([s or 0.0 for s in states], dtype=torch.float64)
        yield fact(known, value)
        if states[0] == states[1]:
            yield fact(known[:1], value[:1])


FACTS = [*elements(), *pairs()]


def below(a: Fact, b: Fact) -> bool:
    """Whether `b` says no more than `a`, element by element."""
    return all(y is None or x == y for x, y in zip(expanded(a, (2,)), expanded(b, (2,)), strict=True))


def test_join_is_known_only_where_both_agree() -> None:
    for a, b in product(FACTS, repeat=2):
        expected = [
            x if x is not None and x == y else None
            for x, y in zip(expanded(a, (2,)), expanded(b, (2,)), strict=True)
        ]
        assert expanded(join(a, b), (2,)) == expected


def test_join_is_commutative_associative_and_idempotent() -> None:
    for a, b in product(FACTS, repeat=2):
        assert expanded(join(a, b), (2,)) == expanded(join(b, a), (2,))
    for a, b, c in product(FACTS, repeat=3):
        assert expanded(join(join(a, b), c), (2,)) == expanded(join(a, join(b, c)), (2,))
    for a in FACTS:
        assert expanded(join(a, a), (2,)) == expanded(a, (2,))


def test_join_is_the_least_upper_bound() -> None:
    for a, b in product(FACTS, repeat=2):
        joined = join(a, b)
        assert below(a, joined)
        assert below(b, joined)
        assert all(below(joined, c) for c in FACTS if below(a, c) and below(b, c))


def test_nothing_is_known_of_unknown() -> None:
    top = unknown(3, torch.float32)
    assert top.is_unknown
    assert not top.is_all_known()
    assert top.known.shape == top.value.shape == (1, 1, 1)
    assert top.value.dtype == torch.float32
    assert bool(top.maybe_nonzero.all())
    assert not top.known_nonzero.any()


def test_a_fact_clears_the_values_of_unknown_elements() -> None:
    mixed = fact(torch.tensor([True, False]), torch.tensor([3.0, 4.0]))
    assert mixed.value.tolist() == [3.0, 0.0]
    nothing = fact(torch.tensor([[False]]), torch.tensor([[1.0, 2.0]]))
    assert nothing.is_unknown
    assert not nothing.value.any()


def test_a_fact_of_known_elements_only_is_compressed_to_one_flag() -> None:
    whole = fact(torch.ones(2, 3, dtype=torch.bool), torch.arange(6.0).reshape(2, 3))
    assert whole.known.shape == (1, 1)
    assert whole.is_all_known()


@pytest.mark.parametrize("extents", EXTENTS)
def test_maybe_nonzero_and_known_nonzero_agree_with_the_elements(extents: tuple[int, ...]) -> None:
    for seed in range(4):
        value = torch.randint(0, 3, SHAPE, generator=torch.Generator().manual_seed(seed)).double()
        one = fact(flags(extents, seed), value)
        states = expanded(one)
        maybe = one.maybe_nonzero.expand(SHAPE).reshape(-1).tolist()
        surely = one.known_nonzero.expand(SHAPE).reshape(-1).tolist()
        assert maybe == [s is None or s != 0 for s in states]
        assert surely == [s is not None and s != 0 for s in states]


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("extents", EXTENTS)
def test_a_masked_weight_behaves_as_its_product_with_the_mask(extents: tuple[int, ...], dense: bool) -> None:
    raw = torch.arange(24.0, dtype=torch.float64).reshape(SHAPE) + (1 if dense else 0)
    mask = flags(extents, 1)
    held, plain = constant(raw, mask), constant(raw * mask)
    assert held.raw is raw
    assert torch.equal(held.value, plain.value)
    assert torch.equal(held.maybe_nonzero.expand(SHAPE), plain.maybe_nonzero.expand(SHAPE))
    assert torch.equal(held.known_nonzero.expand(SHAPE), plain.known_nonzero.expand(SHAPE))
    assert held.is_all_known()
    rows, columns = torch.tensor([2, 0]), torch.tensor([1])
    picked = held.pick(SHAPE, {1: rows, 2: columns})
    assert torch.equal(picked, plain.value.index_select(1, rows).index_select(2, columns))


@pytest.mark.parametrize("extents", EXTENTS)
def test_picked_constants_of_a_compressed_tensor_are_those_of_the_full_one(extents: tuple[int, ...]) -> None:
    raw = torch.arange(24.0)[: math.prod(extents)].reshape(extents)
    rows = torch.tensor([1, 1, 3])
    assert torch.equal(constant(raw).pick(SHAPE, {2: rows}), raw.expand(SHAPE)[:, :, rows])


def test_a_mask_clears_even_what_a_product_would_make_nan() -> None:
    held = constant(torch.tensor([float("inf"), 2.0]), torch.tensor([False, True]))
    assert held.value.tolist() == [0.0, 2.0]


def test_a_memo_is_computed_once_per_fact() -> None:
    one, calls = constant(torch.ones(2)), []

    def compute() -> Tensor:
        calls.append(1)
        return torch.zeros(1)

    assert one.memo("key", compute) is one.memo("key", compute)
    assert len(calls) == 1
    constant(torch.ones(2)).memo("key", compute)
    assert len(calls) == 2


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("extents", EXTENTS)
def test_spread_expands_the_named_dimensions_only(extents: tuple[int, ...], dims: tuple[int, ...]) -> None:
    tensor = torch.arange(torch.Size(extents).numel()).reshape(extents)
    got = spread(tensor, SHAPE, dims)
    assert tuple(got.shape) == tuple(SHAPE[d] if d in dims else extents[d] for d in range(3))
    assert torch.equal(got.expand(SHAPE), tensor.expand(SHAPE))


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("extents", EXTENTS)
def test_any_and_all_over_compressed_equal_those_over_everything(
    extents: tuple[int, ...], dims: tuple[int, ...]
) -> None:
    for seed, share in product(range(3), (0.2, 0.8)):
        tensor = flags(extents, seed, share)
        some = every = tensor.expand(SHAPE)
        for dim in dims:
            some, every = some.any(dim, keepdim=True), every.all(dim, keepdim=True)
        assert torch.equal(any_over(tensor, dims).expand(some.shape), some)
        assert torch.equal(all_over(tensor, dims).expand(every.shape), every)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("extents", EXTENTS)
def test_along_tells_whether_anything_is_true_at_each_index(extents: tuple[int, ...], dim: int) -> None:
    for seed in range(3):
        tensor = flags(extents, seed, 0.3)
        whole = tensor.expand(SHAPE).movedim(dim, 0).reshape(SHAPE[dim], -1)
        assert torch.equal(any_along(tensor, dim, SHAPE[dim]), whole.any(1))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_a_vector_varies_along_its_dimension_only(dim: int) -> None:
    values = torch.arange(float(SHAPE[dim]))
    placed = vector(values, dim, 3)
    assert tuple(placed.shape) == tuple(SHAPE[d] if d == dim else 1 for d in range(3))
    assert torch.equal(placed.reshape(-1), values)


@pytest.mark.parametrize("shape", [SHAPE, (3, 4), (4,), (), (1, 3, 4), (2, 1, 1), (3, 1), (1, 1)])
@pytest.mark.parametrize("extents", EXTENTS)
def test_fold_to_is_the_adjoint_of_broadcasting(extents: tuple[int, ...], shape: tuple[int, ...]) -> None:
    for seed in range(3):
        tensor = flags(extents, seed, 0.2)
        source = torch.arange(torch.Size(shape).numel()).reshape(shape)
        read = source.expand(SHAPE)[tensor.expand(SHAPE)]
        got = fold_to(tensor, shape)
        assert got.ndim == len(shape)
        assert torch.equal(got.expand(shape), torch.isin(source, read))


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("extents", EXTENTS)
def test_uniform_along_compares_the_content_at_every_index(
    extents: tuple[int, ...], dims: tuple[int, ...]
) -> None:
    for seed, share in product(range(3), (0.0, 0.3, 1.0)):
        tensor = flags(extents, seed, share)
        whole = tensor.expand(SHAPE)
        expected = all(torch.equal(whole, whole.roll(1, dim)) for dim in dims)
        assert uniform_along(tensor, dims) is expected


def test_where_there_is_nothing_all_of_it_is_the_same() -> None:
    none = constant(torch.zeros(3, 0, 2))
    for dim, extent in enumerate((3, 0, 2)):
        known, uniform, value = state_along(none, dim, extent)
        assert known.all() and uniform.all() and len(known) == len(uniform) == len(value) == extent
    assert uniform_along(torch.zeros(3, 0), [1]) and uniform_along(torch.zeros(0, 2), [0, 1])


def test_uniform_along_several_dimensions_sees_a_difference_on_the_diagonal() -> None:
    assert not uniform_along(torch.eye(2), [0, 1])
    assert uniform_along(torch.tensor([[1, 2], [1, 2]]), [0])
    assert not uniform_along(torch.tensor([[1, 2], [1, 2]]), [1])


@pytest.mark.parametrize(("dim", "count"), [(0, 2), (1, 3), (2, 2), (2, 1)])
def test_runs_splits_a_dimension_into_consecutive_parts(dim: int, count: int) -> None:
    tensor = torch.arange(24).reshape(SHAPE)
    split = split_runs(tensor, dim, count)
    assert split.shape[dim] == count
    for number, part in enumerate(tensor.chunk(count, dim)):
        assert torch.equal(split.select(dim, number), part)


@pytest.mark.parametrize("flag", [True, False])
def test_an_indicator_is_one_flag_of_any_rank(flag: bool) -> None:
    assert indicator(flag, 0).shape == ()
    assert tuple(indicator(flag, 3).shape) == (1, 1, 1)
    assert bool(indicator(flag, 3)) is flag


def test_broadcast_gives_the_common_compressed_shape() -> None:
    first, second = broadcast(torch.ones(1, 3, 1), torch.zeros(2, 1, 1))
    assert tuple(first.shape) == tuple(second.shape) == (2, 3, 1)


@pytest.mark.parametrize("extents", [(1, 1), (1, 5), (5, 1), (5, 5)])
def test_two_patterns_meet_along_a_dimension(extents: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(sum(extents))
    for _ in range(20):
        one = torch.rand(1, 4, extents[0], generator=generator) < 0.5
        other = torch.rand(1, 1, extents[1], generator=generator) < 0.5
        assert torch.equal(any_both(one, other, 2), (one & other).any(2, keepdim=True))
