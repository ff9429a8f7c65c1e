"""Elements of dimensions that can only go together, found from the coupling constraints of a graph.

Dimensions that keep the same indices by constraint are one class already. Layout operators go further: a
channel that is flattened becomes a run of features, and the third channel of a concatenation may be the
first of its second operand. A *unit* holds all elements, of all classes, that such moves tie to one
another. Masking units keeps every dimension consistent, whatever residual branches, concatenations and
shuffles there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod

import torch
from attrs import frozen
from torch import Tensor

from speedup.engine.constraints import (
    Balanced,
    Carrier,
    Constraint,
    Copied,
    Dim,
    Mapped,
    Pinned,
    Spanned,
    Unbroken,
)
from speedup.engine.keepsets import KeepSets, solve_keep_sets


@frozen(eq=False)
class Units:
    """The elements of all classes, numbered through, and the unit that each belongs to.

    Attributes:
        constraints: those that hold whatever the values of weights are.
        unit_of: (elements,) the number of each element's unit.
        stays: (elements,) bool: no mask can make it go, or what goes with it is not told by channels.
        runs: class -> number of equal runs that keep equal counts, as the groups of a convolution do.
    """

    constraints: tuple[Constraint, ...]
    extents: Mapping[Dim, int]
    seeds: Mapping[Dim, Tensor | None]
    unit_of: Tensor
    stays: Tensor
    runs: Mapping[int, int]
    _classes: KeepSets
    _offsets: Mapping[int, int]

    def class_of(self, dim: Dim) -> int:
        """The class of dimensions that `dim` keeps the same indices as."""
        return self._classes.class_of(dim)

    def elements(self, dim: Dim) -> slice:
        """Where the elements of a dimension stand among all."""
        start = self._offsets[self.class_of(dim)]
        return slice(start, start + self.extents[dim])

    def kept_without(self, dropped: Tensor) -> KeepSets:
        """What is kept of each dimension when the elements `dropped`, whole units, are to go.

        More is kept where a constraint asks for it, such as equal counts.
        """
        seeds: dict[Dim, Tensor | None] = {dim: ~dropped[self.elements(dim)] for dim in self.extents}
        return solve_keep_sets(self.extents, {**seeds, **self.seeds}, self.constraints, may_be_empty=True)


def units_of(
    extents: Mapping[Dim, int], seeds: Mapping[Dim, Tensor | None], constraints: Iterable[Constraint]
) -> Units:
    """The units under `constraints`, given that the elements of `seeds` stay (None: all of a dimension).

    Constraints that depend on what weights hold now are left out: masks will change what they hold.
    """
    structural = tuple(c for c in constraints if not _follows_values(c))
    kept = solve_keep_sets(extents, seeds, structural, may_be_empty=True)
    offsets, total = _offsets(extents, kept)
    stays = torch.zeros(total, dtype=torch.bool)
    for dim in extents:
        start = offsets[kept.class_of(dim)]
        stays[start : start + extents[dim]] = kept[dim]
    pairs = [torch.arange(total)[:, None].expand(-1, 2)]
    for constraint in structural:
        tied = _Ties(kept, offsets, extents)
        if tied.is_tangled(constraint):
            stays[tied.elements(constraint)] = True
        else:
            pairs += tied.pairs(constraint)
    unit_of = _components(torch.cat(pairs), total)
    held = torch.zeros(total, dtype=torch.bool).index_put_((unit_of[stays],), torch.tensor(True))
    runs: dict[int, int] = {}
    for constraint in structural:
        if isinstance(constraint, Balanced):
            for dim in constraint.dims:
                runs[kept.class_of(dim)] = max(constraint.groups, runs.get(kept.class_of(dim), 1))
    return Units(structural, extents, seeds, unit_of, held[unit_of], runs, kept, offsets)


def _follows_values(constraint: Constraint) -> bool:
    return isinstance(constraint, Carrier | Spanned) or (
        isinstance(constraint, Pinned) and constraint.indices is not None
    )


def _offsets(extents: Mapping[Dim, int], classes: KeepSets) -> tuple[dict[int, int], int]:
    offsets: dict[int, int] = {}
    total = 0
    for dim, extent in extents.items():
        if classes.class_of(dim) not in offsets:
            offsets[classes.class_of(dim)] = total
            total += extent
    return offsets, total


@frozen(eq=False)
class _Ties:
    """How constraints tie elements. Dimensions that stay whole have no part in it."""

    kept: KeepSets
    offsets: Mapping[int, int]
    extents: Mapping[Dim, int]

    def _free(self, dims: Sequence[Dim]) -> list[int]:
        return [n for n, dim in enumerate(dims) if not self.kept.is_full(dim)]

    def is_tangled(self, constraint: Constraint) -> bool:
        """Whether indices of several free dimensions make one: which goes with which is not told by one."""
        match constraint:
            case Mapped():
                return max(len(self._free(constraint.sources)), len(self._free(constraint.targets))) > 1
            case Copied():
                return True
            case _:
                return False

    def elements(self, constraint: Constraint) -> Tensor:
        return torch.cat([self._numbers(dim) for dim in constraint.dims])

    def _numbers(self, dim: Dim) -> Tensor:
        return torch.arange(self.extents[dim]) + self.offsets[self.kept.class_of(dim)]

    def pairs(self, constraint: Constraint) -> Iterator[Tensor]:
        """(pairs, 2) elements that go together."""
        match constraint:
            case Mapped():
                sources, targets = self._free(constraint.sources), self._free(constraint.targets)
                if sources and targets:
                    yield self._mapped(constraint, sources[0], targets[0])
            case Unbroken(dim, groups):
                run = self._numbers(dim).reshape(groups, -1)
                yield torch.stack([run[:, :1].expand_as(run).reshape(-1), run.reshape(-1)], 1)
            case _:
                pass

    def _mapped(self, move: Mapped, source: int, target: int) -> Tensor:
        size = prod(move.target_sizes)
        read = torch.arange(size) if move.index is None else move.index
        valid = (read >= 0).nonzero().reshape(-1)
        from_ = self._coordinate(read[valid], move.sources, move.source_sizes, source)
        to = self._coordinate(valid, move.targets, move.target_sizes, target)
        pairs: Tensor = torch.unique(torch.stack([from_, to], 1), dim=0)
        return pairs

    def _coordinate(self, flat: Tensor, dims: Sequence[Dim], sizes: Sequence[int], which: int) -> Tensor:
        """The element of dimension `which` at flat indices of a box of `sizes`."""
        inner = prod(sizes[which + 1 :])
        return flat // inner % sizes[which] + self.offsets[self.kept.class_of(dims[which])]


def _components(pairs: Tensor, total: int) -> Tensor:
    """(total,) for each number the least one that `pairs` connect it with."""
    label = torch.arange(total)
    while True:
        least = torch.minimum(label[pairs[:, 0]], label[pairs[:, 1]])
        new = label.clone()
        for side in (0, 1):
            new.scatter_reduce_(0, pairs[:, side], least, "amin")
            # The label's own label too, so that long chains take few rounds.
            new.scatter_reduce_(0, label[pairs[:, side]], least, "amin")
        new = new[new]
        if torch.equal(new, label):
            return label
        label = new
