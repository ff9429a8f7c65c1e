"""The fixpoint engine: the least keep-sets that contain the seeds and satisfy all constraints.

It names no operator. Dimensions that must be equal are merged into classes first; then a
worklist closes the sets. Invariant: a closure that is not in the worklist is satisfied.
Sets only grow and are bounded by their extents, so the iteration ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from types import MappingProxyType

import torch
from attrs import field, frozen
from torch import Tensor

from speedup.engine.constraints import Closure, Constraint, Dim, Equal, Reason
from speedup.errors import FixpointError, RuleError


@frozen(eq=False)
class Derivation:
    """A constraint made the class of `dim` keep `added` (bool vector) as well.

    `constraint` is None where `reason` is that a dimension may not become empty.
    """

    dim: Dim
    added: Tensor
    reason: Reason
    constraint: Closure | None = None


@frozen(eq=False)
class KeepSets:
    """The kept indices of every dimension, and how those beyond the seeds were derived."""

    _classes: Mapping[Dim, int] = field(alias="classes")
    _sets: tuple[Tensor, ...] = field(alias="sets")
    derivations: tuple[Derivation, ...]
    _full: tuple[bool, ...] = field(init=False)
    _counts: tuple[int, ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        counts = tuple(int(s.sum()) for s in self._sets)
        object.__setattr__(self, "_counts", counts)
        object.__setattr__(
            self, "_full", tuple(c == s.numel() for c, s in zip(counts, self._sets, strict=True))
        )

    def __getitem__(self, dim: Dim) -> Tensor:
        """Bool vector over the dimension's extent. Shared: never write to it."""
        return self._sets[self._classes[dim]]

    def count(self, dim: Dim) -> int:
        return self._counts[self._classes[dim]]

    def is_full(self, dim: Dim) -> bool:
        return self._full[self._classes[dim]]

    def class_of(self, dim: Dim) -> int:
        """Dimensions of one class keep the same indices by constraint."""
        return self._classes[dim]


def _merge(extents: Mapping[Dim, int], equals: Iterable[Equal]) -> Mapping[Dim, int]:
    parent: dict[Dim, Dim] = {d: d for d in extents}

    def find(dim: Dim) -> Dim:
        while parent[dim] != dim:
            parent[dim] = parent[parent[dim]]
            dim = parent[dim]
        return dim

    for equal in equals:
        first = equal.dims[0]
        for other in equal.dims[1:]:
            if extents[first] != extents[other]:
                raise RuleError(
                    f"a rule couples dimensions of extents {extents[first]} and {extents[other]} "
                    f"({equal.reason.words}); dimensions can only be equal when their extents are"
                )
            parent[find(other)] = find(first)
    numbers: dict[Dim, int] = {}
    return MappingProxyType({d: numbers.setdefault(find(d), len(numbers)) for d in extents})


class _Solver:
    """The mutable state of one `solve_keep_sets` call."""

    def __init__(
        self, classes: Mapping[Dim, int], sets: list[Tensor], closures: Sequence[Closure], satisfied: int = 0
    ) -> None:
        """The first `satisfied` of `closures` are known to hold for `sets`."""
        self.classes = classes
        self.sets = sets
        self.full = [bool(s.all()) for s in sets]
        self.closures = closures
        self.derivations: list[Derivation] = []
        self.watchers: list[list[int]] = [[] for _ in sets]
        for number, closure in enumerate(closures):
            for known in {classes[d] for d in closure.dims}:
                self.watchers[known].append(number)
        self.forced = deque(n for n, c in enumerate(closures) if n >= satisfied and not c.is_choice)
        self.queued = set(self.forced)
        # A heap: choices are asked in the order of the constraints.
        self.choices = [n for n, c in enumerate(closures) if n >= satisfied and c.is_choice]
        self.open_choices = set(self.choices)
        self.budget = 8 * len(closures) + sum(
            s.numel() * (len(w) + 1) for s, w in zip(sets, self.watchers, strict=True)
        )

    def kept(self, dim: Dim) -> Tensor:
        return self.sets[self.classes[dim]]

    def apply(self, number: int) -> None:
        self.budget -= 1
        closure = self.closures[number]
        if self.budget < 0:
            raise FixpointError(
                f"the keep-sets did not settle ({closure.reason.words}): the rule that emitted this "
                "constraint is not monotone"
            )
        if all(self.full[self.classes[d]] for d in closure.dims):
            return
        for dim, demand in closure.close(self.kept):
            self.grow(dim, demand, closure.reason, closure)

    def grow(self, dim: Dim, demand: Tensor, reason: Reason, closure: Closure | None = None) -> None:
        known = self.classes[dim]
        if demand.shape != self.sets[known].shape:
            raise RuleError(
                f"a constraint ({reason.words}) demands {tuple(demand.shape)} indices of a dimension "
                f"of extent {self.sets[known].numel()}"
            )
        if self.full[known]:
            return
        added = demand & ~self.sets[known]
        if not bool(added.any()):
            return
        self.sets[known] = self.sets[known] | added
        self.full[known] = bool(self.sets[known].all())
        self.derivations.append(Derivation(dim, added, reason, closure))
        for number in self.watchers[known]:
            if self.closures[number].is_choice:
                if number not in self.open_choices:
                    self.open_choices.add(number)
                    heappush(self.choices, number)
            elif number not in self.queued:
                self.queued.add(number)
                self.forced.append(number)

    def settle(self) -> None:
        while True:
            while self.forced:
                number = self.forced.popleft()
                self.queued.discard(number)
                self.apply(number)
            if not self.choices:
                return
            number = heappop(self.choices)
            self.open_choices.discard(number)
            self.apply(number)


_NOT_EMPTY = Reason(None, "a dimension cannot become empty: one index stays")


def solve_keep_sets(
    extents: Mapping[Dim, int],
    seeds: Mapping[Dim, Tensor | None],
    constraints: Sequence[Constraint],
    *,
    may_be_empty: bool = False,
) -> KeepSets:
    """The least keep-sets above `seeds` (None: all indices; missing: none) under `constraints`.

    Unless it `may_be_empty`, a dimension that would be keeps its first index; where several would be,
    the smallest is asked first.

    Raises:
        RuleError: dimensions of different extents are coupled as equal.
        FixpointError: a constraint keeps demanding more than its bound allows.
    """
    classes = _merge(extents, (c for c in constraints if isinstance(c, Equal)))
    representative: dict[int, Dim] = {}
    for dim, known in classes.items():
        representative.setdefault(known, dim)
    sets = [torch.zeros(extents[representative[n]], dtype=torch.bool) for n in range(len(representative))]
    for dim, seed in seeds.items():
        if seed is None:
            sets[classes[dim]].fill_(True)
        else:
            sets[classes[dim]] |= seed
    solver = _Solver(classes, sets, [c for c in constraints if not isinstance(c, Equal)])
    solver.settle()
    # Smallest first: an index of a factor or part settles which of the whole it stands for.
    for known, dim in sorted(representative.items(), key=lambda item: extents[item[1]]):
        if extents[dim] and not may_be_empty and not bool(solver.sets[known].any()):
            first = torch.zeros(extents[dim], dtype=torch.bool)
            first[0] = True
            solver.grow(dim, first, _NOT_EMPTY)
            solver.settle()
    return KeepSets(classes, tuple(solver.sets), tuple(solver.derivations))


def grow_keep_sets(kept: KeepSets, constraints: Sequence[Constraint], more: Sequence[Closure]) -> KeepSets:
    """The least keep-sets above `kept`, which satisfies `constraints`, that satisfy `more` as well.

    Choices in `more` are thus made when all that does without them has settled. The same object is
    returned when nothing grows.

    Raises:
        FixpointError: a constraint keeps demanding more than its bound allows.
    """
    closures = [c for c in constraints if not isinstance(c, Equal)]
    solver = _Solver(kept._classes, list(kept._sets), [*closures, *more], satisfied=len(closures))
    solver.settle()
    if not solver.derivations:
        return kept
    return KeepSets(kept._classes, tuple(solver.sets), kept.derivations + tuple(solver.derivations))
