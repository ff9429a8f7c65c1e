"""The search of the fixture `equivalent` without Hypothesis: masks from seeds, made smaller on failure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from speedup.testing.assertion import assert_equivalent
from speedup.testing.masks import Cut, MaskSpec, Scattered, Slices, Whole
from speedup.testing.owners import MaskedModule, first_dim, owners_of


def search_seeded(model: nn.Module, x: Any, *, examples: int = 20, **options: Any) -> None:
    """Assert that small models of `model` are the masked ones, for masks drawn from so many seeds.

    `x` and `options` are those of `assert_equivalent`. The same masks are drawn each time.

    Raises:
        AssertionError: for the smallest masks found under which a promise is broken, by leaving out cuts
            and indices while it still is.
    """
    for seed in range(examples):
        masks = seeded_masks(model, seed)
        if _failure(model, x, masks, options) is not None:
            assert_equivalent(model, x, _smallest(masks, lambda m: _failure(model, x, m, options)), **options)


def seeded_masks(model: nn.Module, seed: int) -> MaskSpec:
    """Masks of a model that follow from the seed alone: each module is masked as pruning tools do, or not."""
    draw = random.Random(seed)
    pattern = draw.randint(1, 254)
    cuts = [cut for owner in owners_of(model) for cut in draw.choice(_HABITS)(draw, owner, pattern)]
    return MaskSpec(tuple(cuts), style=draw.choice(("by name", "by module", "baked")))


def _failure(model: nn.Module, x: Any, masks: MaskSpec, options: dict[str, Any]) -> AssertionError | None:
    try:
        assert_equivalent(model, x, masks, **options)
    except AssertionError as error:
        return error
    return None


def _smallest(masks: MaskSpec, failure: Callable[[MaskSpec], AssertionError | None]) -> MaskSpec:
    """The last of ever smaller masks that fail, each a step smaller than the one before."""
    while True:
        smaller = next((fewer for fewer in _steps(masks) if failure(fewer) is not None), None)
        if smaller is None:
            return masks
        masks = smaller


def _steps(masks: MaskSpec) -> Iterator[MaskSpec]:
    """`masks` without one of its cuts; then with half, and with one less, of the indices of one."""
    cuts = masks.cuts
    for n in range(len(cuts)):
        yield _with_cuts(masks, (*cuts[:n], *cuts[n + 1 :]))
    for n, cut in enumerate(cuts):
        if isinstance(cut, Slices) and len(cut.indices) > 1:
            for fewer in (cut.indices[: len(cut.indices) // 2], cut.indices[1:]):
                yield _with_cuts(masks, (*cuts[:n], Slices(cut.parameter, cut.dim, fewer), *cuts[n + 1 :]))


def _with_cuts(masks: MaskSpec, cuts: tuple[Cut, ...]) -> MaskSpec:
    return MaskSpec(cuts, masks.style, masks.dtype, masks.compact)


def _nothing(draw: random.Random, owner: MaskedModule, pattern: int) -> list[Cut]:
    return []


def _rows(draw: random.Random, owner: MaskedModule, pattern: int) -> list[Cut]:
    """Random rows, but not all, of the first parameter."""
    name, sizes = owner.parameters[0]
    dim = first_dim(sizes)
    chosen = tuple(sorted(draw.sample(range(sizes[dim]), draw.randint(0, sizes[dim] - 1))))
    return [Slices(name, dim, chosen)] if chosen else []


def _rows_of_all(draw: random.Random, owner: MaskedModule, pattern: int) -> list[Cut]:
    """The same random rows of all parameters that have as many."""
    return [
        Slices(name, first_dim(sizes), cut.indices)
        for cut in _rows(draw, owner, pattern)
        if isinstance(cut, Slices)
        for name, sizes in owner.parameters
        if sizes[first_dim(sizes)] == owner.rows
    ]


def _patterned(draw: random.Random, owner: MaskedModule, pattern: int) -> list[Cut]:
    """Rows that agree along residual streams."""
    chosen = tuple(row for row in range(owner.rows) if pattern >> row % 8 & 1)
    return [
        Slices(name, first_dim(sizes), chosen)
        for name, sizes in owner.parameters
        if chosen and sizes[first_dim(sizes)] == owner.rows
    ]


def _columns(draw: random.Random, owner: MaskedModule, pattern: int) -> list[Cut]:
    name, sizes = owner.parameters[0]
    if len(sizes) < 2 or sizes[1] < 2:
        return []
    return [Slices(name, 1, tuple(sorted(draw.sample(range(sizes[1]), draw.randint(1, sizes[1] - 1)))))]


def _scattered(draw: random.Random, owner: MaskedModule, pattern: int) -> list[Cut]:
    return [Scattered(owner.parameters[0][0], draw.choice((50, 90)), draw.randint(0, 99))]


def _whole(draw: random.Random, owner: MaskedModule, pattern: int) -> list[Cut]:
    return [Whole(owner.parameters[0][0])]


# One pattern for a whole network agrees where layers are added; it is drawn most often.
_HABITS = (
    _nothing,
    _rows,
    _rows,
    _rows_of_all,
    _rows_of_all,
    *(_patterned,) * 3,
    _columns,
    _scattered,
    _whole,
)
