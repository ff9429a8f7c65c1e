"""What made a constraint demand an index: for each, one index that was kept before it and asks for it.

The kinds of constraints that demand something of their own accord (`Pinned`, `Carrier`, `Spanned`, `Aligned`)
have none: an explanation ends there. For the others the closure is read backwards, at the time of the demand:
`since(dim)[i]` says when index i came to be kept, 0 for what is needed anyway and `NEVER`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import assert_never

import torch
from attrs import frozen
from torch import Tensor

from speedup.engine.constraints import (
    Aligned,
    Balanced,
    Broadcast,
    Carrier,
    Closure,
    Copied,
    Counted,
    Dim,
    Mapped,
    Pinned,
    Spanned,
    Subset,
    Unbroken,
)

NEVER = 1 << 31
Since = Callable[[Dim], Tensor]


@frozen(eq=False)
class Support:
    """Index `indices[n]` of `dim` asked for number `numbers[n]` of the indices in question."""

    dim: Dim
    numbers: Tensor
    indices: Tensor


def supports(closure: Closure, dim: Dim, wanted: Tensor, since: Since) -> Iterator[Support]:
    """What asked for the indices `wanted` of `dim`, which `closure` demanded; none for those it pins.

    `since` is NEVER for all that came to be kept with the demand or after it.
    """
    match closure:
        case Pinned() | Carrier() | Spanned() | Aligned():
            return
        case Mapped():
            yield from _of_mapped(closure, dim, wanted, since)
        case Balanced():
            yield from _of_balanced(closure, dim, wanted, since)
        case Counted():
            yield _largest(closure.dims, wanted, since)
        case Copied():
            yield from _of_copied(closure, dim, wanted, since)
        case Unbroken():
            yield from _of_runs((dim,), closure.groups, dim, wanted, since)
        case Subset() | Broadcast():
            other = closure.part if dim == closure.whole else closure.whole
            yield Support(other, torch.arange(len(wanted)), wanted)
        case _:
            assert_never(closure)


def _of_mapped(closure: Mapped, dim: Dim, wanted: Tensor, since: Since) -> Iterator[Support]:
    sources, targets = _latest(closure.sources, since), _latest(closure.targets, since)
    index = torch.arange(sources.numel()) if closure.index is None else closure.index
    reads = index >= 0
    if dim in closure.targets:
        times = torch.full((targets.numel(),), NEVER)
        times[reads] = sources[index[reads]]
        chosen, asks = _earliest(times, closure.target_sizes, closure.targets.index(dim), wanted)
        found, dims, sizes = index[chosen], closure.sources, closure.source_sizes
    else:
        # The time first, then the place, so that the least one tells both.
        keys = targets * targets.numel() + torch.arange(targets.numel())
        least = torch.full((sources.numel(),), NEVER * max(targets.numel(), 1))
        least = least.scatter_reduce(0, index[reads], keys[reads], "amin")
        times = least // max(targets.numel(), 1)
        chosen, asks = _earliest(times, closure.source_sizes, closure.sources.index(dim), wanted)
        found, dims, sizes = least[chosen] % max(targets.numel(), 1), closure.targets, closure.target_sizes
    # What no kept element asked for is the border of a pad, which is there in any case.
    numbers = asks.nonzero().reshape(-1)
    if len(numbers) and dims:
        yield from _split(dims, torch.unravel_index(found[numbers], sizes), numbers, since)


def _latest(dims: tuple[Dim, ...], since: Since) -> Tensor:
    """Over the flattened box of `dims`, since when all coordinates of an element are kept."""
    found = torch.zeros((), dtype=torch.int64)
    for dim in dims:
        found = torch.maximum(found[..., None], since(dim))
    return found.reshape(-1)


def _earliest(times: Tensor, sizes: tuple[int, ...], axis: int, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """For each index of dimension `axis`, the flat place of the smallest of `times`, and if it is a time."""
    places = torch.arange(times.numel()).reshape(sizes).movedim(axis, 0).reshape(sizes[axis], -1)[wanted]
    best = times[places].argmin(1, keepdim=True)
    chosen = places.gather(1, best).reshape(-1)
    return chosen, times[chosen] < NEVER


def _split(
    dims: tuple[Dim, ...], coordinates: tuple[Tensor, ...], numbers: Tensor, since: Since
) -> Iterator[Support]:
    """Of each element of a box, the coordinate that came last; of several the one that varies fastest."""
    times = torch.stack([since(d)[c] for d, c in zip(dims, coordinates, strict=True)])
    # A dimension of extent 1 is never the reason for another one.
    ranks = torch.tensor([(len(since(d)) > 1) * len(dims) + n for n, d in enumerate(dims)])
    last = (times * (2 * len(dims)) + ranks[:, None]).argmax(0)
    for place, (dim, indices) in enumerate(zip(dims, coordinates, strict=True)):
        chosen = last == place
        if bool(chosen.any()):
            yield Support(dim, numbers[chosen], indices[chosen])


def _of_balanced(closure: Balanced, dim: Dim, wanted: Tensor, since: Since) -> Iterator[Support]:
    """A run has to be alive because another dimension's is; or as long as the longest."""
    counts = (since(dim) < NEVER).reshape(closure.groups, -1).sum(1)
    width = since(dim).numel() // closure.groups
    others = tuple(d for d in closure.dims if d != dim)
    lonely = counts[wanted // width] == 0
    numbers = lonely.nonzero().reshape(-1)
    if others and len(numbers):
        for support in _of_runs(others, closure.groups, dim, wanted[numbers], since):
            yield Support(support.dim, numbers[support.numbers], support.indices)
    numbers = (~lonely).nonzero().reshape(-1)
    if len(numbers):
        longest = int(counts.argmax())
        run = since(dim)[longest * width : (longest + 1) * width]
        yield _constantly(dim, longest * width + _newest(run), numbers)


def _of_runs(dims: tuple[Dim, ...], groups: int, dim: Dim, wanted: Tensor, since: Since) -> Iterator[Support]:
    """The first that was kept of the same run in any of `dims`."""
    run = wanted // (since(dim).numel() // groups)
    left = torch.ones_like(wanted, dtype=torch.bool)
    for other in dims:
        times = since(other).reshape(groups, -1)[run]
        here = left & (times < NEVER).any(1)
        if bool(here.any()):
            width = times.shape[1]
            yield Support(other, here.nonzero().reshape(-1), (run * width + times.argmin(1))[here])
            left = left & ~here


def _of_copied(closure: Copied, dim: Dim, wanted: Tensor, since: Since) -> Iterator[Support]:
    groups = since(closure.source).numel()
    if dim == closure.source:
        times = since(closure.target).reshape(groups, -1)[wanted]
        yield Support(closure.target, torch.arange(len(wanted)), wanted * times.shape[1] + times.argmin(1))
        return
    yield _largest(tuple(d for d in closure.dims if d != dim), wanted, since)


def _largest(dims: tuple[Dim, ...], wanted: Tensor, since: Since) -> Support:
    """What came last in the dimension that keeps most."""
    dim = max(dims, key=lambda d: int((since(d) < NEVER).sum()))
    return _constantly(dim, _newest(since(dim)), torch.arange(len(wanted)))


def _newest(times: Tensor) -> int:
    return int(torch.where(times < NEVER, times, -1).argmax())


def _constantly(dim: Dim, index: int, numbers: Tensor) -> Support:
    return Support(dim, numbers, torch.full_like(numbers, index))
