"""Coupling constraints between the keep-sets of tensor dimensions: a closed set of kinds.

A *keep-set* holds the indices of one dimension of one value that stay. Rules emit
constraints as data; the engine in `keepsets` finds the least keep-sets that satisfy them
and knows nothing but `dims`, `is_choice` and `close`. `Equal` is solved by merging.

A constraint is a monotone closure: `close` looks at the current sets of `dims` and yields
the elements that must be in them. Where several closures would do (which channels to add
so that groups have equal counts), `is_choice` makes the engine ask only once everything
forced has settled, in the order of the constraints, so that the outcome is determined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from attrs import field, frozen
from torch import Tensor

from speedup.engine.layout import box, project
from speedup.engine.spans import multiples_of, take_out

Dim = tuple[int, int]
Kept = Callable[[Dim], Tensor]
Demand = Iterator[tuple[Dim, Tensor]]


@frozen(eq=False)
class Reason:
    """Who says so: the op's index (None for the model's boundary) and the reason in words."""

    op: int | None
    words: str


@frozen(eq=False)
class Equal:
    """All `dims` keep the same indices."""

    dims: tuple[Dim, ...]
    reason: Reason


@frozen(eq=False)
class Pinned:
    """The dimension keeps at least `indices`; all of them when None."""

    dim: Dim
    reason: Reason
    indices: Tensor | None = None
    is_choice: bool = field(default=False, init=False)

    @property
    def dims(self) -> tuple[Dim, ...]:
        return (self.dim,)

    def close(self, kept: Kept) -> Demand:
        current = kept(self.dim)
        yield self.dim, torch.ones_like(current) if self.indices is None else self.indices


@frozen(eq=False)
class Mapped:
    """A layout op's block: result box and operand box are images of each other under `index`.

    Flat target index t reads flat source index `index[t]`; None is the identity. Where it is
    -1 the element comes from elsewhere; those in `fixed` exist in any case (a pad's border).
    """

    sources: tuple[Dim, ...]
    targets: tuple[Dim, ...]
    index: Tensor | None
    source_sizes: tuple[int, ...]
    target_sizes: tuple[int, ...]
    reason: Reason
    fixed: bool = False
    is_choice: bool = field(default=False, init=False)

    @property
    def dims(self) -> tuple[Dim, ...]:
        return self.sources + self.targets

    def close(self, kept: Kept) -> Demand:
        source = box([kept(d) for d in self.sources])
        target = box([kept(d) for d in self.targets])
        if self.index is None:
            read, adjoint = source, target
        else:
            valid = self.index >= 0
            read = source[self.index.clamp(min=0)] & valid if len(source) else valid
            if self.fixed:
                read = read | ~valid
            adjoint = torch.zeros_like(source)
            adjoint[self.index[target & valid]] = True
        yield from zip(self.targets, project(read, self.target_sizes), strict=True)
        yield from zip(self.sources, project(adjoint, self.source_sizes), strict=True)


@frozen(eq=False)
class Balanced:
    """Each dim is split into `groups` equal runs. A run that is alive in one dim is alive in
    all, and the runs that are alive have equal counts within each dim. With `fixed`, all are alive.
    """

    dims: tuple[Dim, ...]
    groups: int
    reason: Reason
    fixed: bool = False
    is_choice: bool = field(default=True, init=False)

    def close(self, kept: Kept) -> Demand:
        runs = [kept(d).reshape(self.groups, -1) for d in self.dims]
        alive = torch.stack([r.any(1) for r in runs]).any(0)
        if self.fixed:
            alive = torch.ones_like(alive)
        for dim, run in zip(self.dims, runs, strict=True):
            counts = run.sum(1)
            want = max(int(counts.max()), 1)
            missing = torch.where(alive, want - counts, torch.zeros_like(counts))
            yield dim, (run | _first_missing(run, missing)).reshape(-1)


def _first_missing(run: Tensor, missing: Tensor) -> Tensor:
    """In each row, the first `missing[row]` positions that are not yet in `run`."""
    absent = ~run
    return absent & (torch.cumsum(absent.to(torch.int64), 1) <= missing[:, None])


@frozen(eq=False)
class Counted:
    """All dims keep equally many indices, not necessarily the same ones."""

    dims: tuple[Dim, ...]
    reason: Reason
    is_choice: bool = field(default=True, init=False)

    def close(self, kept: Kept) -> Demand:
        sets = [kept(d) for d in self.dims]
        want = max(int(s.sum()) for s in sets)
        for dim, current in zip(self.dims, sets, strict=True):
            row = current[None]
            missing = (want - row.sum(1)).clamp(min=0)
            yield dim, (row | _first_missing(row, missing))[0]


@frozen(eq=False)
class Copied:
    """`target` lists, for each index of `source` in turn, equal copies of it: a run per index.

    The runs of kept indices have equal counts, as many as `copies` keeps; which copies those are
    does not matter.
    """

    source: Dim
    copies: Dim
    target: Dim
    reason: Reason
    is_choice: bool = field(default=True, init=False)

    @property
    def dims(self) -> tuple[Dim, ...]:
        return self.source, self.copies, self.target

    def close(self, kept: Kept) -> Demand:
        own, copies = kept(self.source), kept(self.copies)[None]
        runs = kept(self.target).reshape(own.numel(), -1)
        alive, counts = own | runs.any(1), runs.sum(1)
        want = max(int(counts.max()), int(copies.sum()), 1)
        missing = torch.where(alive, want - counts, torch.zeros_like(counts))
        yield self.source, alive
        yield self.target, (runs | _first_missing(runs, missing)).reshape(-1)
        yield self.copies, (copies | _first_missing(copies, want - copies.sum(1)))[0]


@frozen(eq=False)
class Unbroken:
    """The dim is split into `groups` equal runs, each of which stays whole or goes whole."""

    dim: Dim
    groups: int
    reason: Reason
    is_choice: bool = field(default=False, init=False)

    @property
    def dims(self) -> tuple[Dim, ...]:
        return (self.dim,)

    def close(self, kept: Kept) -> Demand:
        run = kept(self.dim).reshape(self.groups, -1)
        yield self.dim, run.any(1, keepdim=True).expand_as(run).reshape(-1)


@frozen(eq=False)
class Carrier:
    """Dropped constant channels of a family need one kept member to carry their contribution.

    `families` are bool vectors over `dim`: channels that are multiples of one another;
    `magnitude` is each channel's size. A carrier much smaller than what it carries would cost
    precision, so it must have at least `RATIO` of the largest magnitude in its family.
    `rows` is the dimension of the results: a family in group g counts only while some result
    of that group is kept.
    """

    dim: Dim
    families: tuple[Tensor, ...]
    magnitude: Tensor
    rows: Dim
    groups: int
    reason: Reason
    is_choice: bool = field(default=True, init=False)
    RATIO = 0.1

    @property
    def dims(self) -> tuple[Dim, ...]:
        return (self.dim, self.rows)

    def close(self, kept: Kept) -> Demand:
        current, rows = kept(self.dim), kept(self.rows)
        alive = rows.reshape(self.groups, -1).any(1)
        width = current.numel() // self.groups
        for family in self.families:
            group = int(family.nonzero()[0]) // width
            if not bool(alive[group]) or not bool((family & ~current).any()):
                continue
            if carrier_of(family, current, self.magnitude) is None:
                best = torch.where(family, self.magnitude, torch.full_like(self.magnitude, -1.0)).argmax()
                demand = torch.zeros_like(current)
                demand[best] = True
                yield self.dim, demand


def carrier_of(family: Tensor, kept: Tensor, magnitude: Tensor) -> int | None:
    """The kept member of `family` with the largest magnitude, if it is large enough."""
    sizes = torch.where(family & kept, magnitude, torch.full_like(magnitude, -1.0))
    best = int(sizes.argmax())
    largest = torch.where(family, magnitude, torch.zeros_like(magnitude)).max()
    return best if bool(sizes[best] >= Carrier.RATIO * largest) and bool(sizes[best] > 0) else None


@frozen(eq=False)
class Spanned:
    """Dropped constant channels need kept ones of which they are sums of multiples.

    `members` are those channels of `dim` that count, and `profiles` (channels, classes) what each is in every
    class of positions. With `has_bias` multiples of 1 need no channel. `rows` is the dimension of the
    results, as in `Carrier`: what a group reads counts only while some result of that group is kept. Of
    `helpers` (bool vector), constant channels which themselves need none, those may serve that are kept.
    """

    dim: Dim
    members: Tensor
    profiles: Tensor
    has_bias: bool
    rows: Dim
    groups: int
    reason: Reason
    helpers: Tensor | None = None
    is_choice: bool = field(default=True, init=False)
    _found: dict[int, list[tuple[Tensor, Tensor]]] = field(factory=dict, init=False, repr=False)

    @property
    def dims(self) -> tuple[Dim, ...]:
        return (self.dim, self.rows)

    @property
    def candidates(self) -> Tensor:
        """Bool vector: the channels that may serve."""
        return self.members if self.helpers is None else self.members | self.helpers

    def close(self, kept: Kept) -> Demand:
        current, rows = kept(self.dim), kept(self.rows)
        alive = rows.reshape(self.groups, -1).any(1)
        for group in alive.nonzero().reshape(-1).tolist():
            chosen = self.basis(group, current)
            if bool((~current[chosen]).any()):
                demand = torch.zeros_like(current)
                demand[chosen] = True
                yield self.dim, demand

    def basis(self, group: int, kept: Tensor) -> Tensor:
        """The channels of a group whose multiples make up all that `kept` drops; those not kept have to be.

        Channels are taken one by one, each for what the ones before it leave of it. One that is kept anyway
        is preferred unless that is less than `Carrier.RATIO` of the most that is left of any that is
        dropped: multiples then stay small.
        """
        for before, basis in self._found.get(group, ()):
            # What spans all that was dropped spans what still is.
            if bool(kept[basis].all()) and not bool((before & ~kept).any()):
                return basis
        found = self._basis(group, kept)
        self._found.setdefault(group, []).append((kept, found))
        return found

    def _basis(self, group: int, kept: Tensor) -> Tensor:
        width = kept.numel() // self.groups
        own = self.candidates[group * width : (group + 1) * width].nonzero().reshape(-1) + group * width
        left = self.profiles[own].double()
        norms = torch.linalg.vector_norm(left, dim=1)
        least = 64 * torch.finfo(torch.float64).eps
        if self.has_bias:
            left = left - left.mean(1, keepdim=True)
        usable, dropped = kept[own].double(), (self.members & ~kept)[own].double()
        chosen: list[int] = []
        for _ in range(min(len(own), left.shape[1] - self.has_bias)):
            sizes = torch.linalg.vector_norm(left, dim=1)
            missing = sizes * dropped
            if not bool((missing > least * norms).any()):
                break
            most, best = (float(one) for one in missing.max(0))
            most_usable, best_usable = (float(one) for one in (sizes * usable).max(0))
            best = int(best_usable if most_usable >= Carrier.RATIO * most else best)
            chosen.append(best)
            usable[best] = dropped[best] = 0.0
            take_out(left[best] / sizes[best], left)
        return own[sorted(chosen)]

    def factors(self, columns: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
        """(columns, basis) how many times each of `basis` each column is, and (columns,) how much more than
        that, the same in every class.
        """
        known, wanted = self.profiles[basis].double(), self.profiles[columns].double()
        if self.has_bias:
            known = torch.cat([known, torch.ones(1, known.shape[1]).double()])
        found = multiples_of(known, wanted)
        rest = found[:, -1] if self.has_bias else torch.zeros(len(columns)).double()
        return found[:, : len(basis)], rest


@frozen(eq=False)
class Subset:
    """`whole` keeps all that `part` does, and `part` what `whole` keeps but for `spare` indices.

    `spare` (bool vector) are indices of `part` whose place in `whole` is filled without them.
    """

    part: Dim
    whole: Dim
    spare: Tensor
    reason: Reason
    is_choice: bool = field(default=False, init=False)

    @property
    def dims(self) -> tuple[Dim, ...]:
        return self.part, self.whole

    def close(self, kept: Kept) -> Demand:
        yield self.whole, kept(self.part)
        yield self.part, kept(self.whole) & ~self.spare


@frozen(eq=False)
class Broadcast:
    """`part` keeps one index, which stands for all that `whole` keeps, or the same ones as `whole`."""

    part: Dim
    whole: Dim
    reason: Reason
    is_choice: bool = field(default=False, init=False)

    @property
    def dims(self) -> tuple[Dim, ...]:
        return self.part, self.whole

    def close(self, kept: Kept) -> Demand:
        own = kept(self.part)
        if int(own.sum()) > 1:
            yield self.whole, own
            yield self.part, kept(self.whole)


@frozen(eq=False)
class Aligned:
    """Each of the dim's `groups` equal runs that is alive keeps as many indices as `wanted` says.

    `wanted` maps a run's count to one that is no smaller; it has to be monotone. The first missing indices
    are added: all together where `at_once`, else one per run before all that is forced settles again, for
    dims to which their own growth comes back by way of other constraints.
    """

    dim: Dim
    groups: int
    wanted: Callable[[int], int]
    at_once: bool
    reason: Reason
    is_choice: bool = field(default=True, init=False)

    @property
    def dims(self) -> tuple[Dim, ...]:
        return (self.dim,)

    def close(self, kept: Kept) -> Demand:
        run = kept(self.dim).reshape(self.groups, -1)
        counts = run.sum(1)
        want = self.wanted(int(counts.max()))
        missing = torch.where(counts > 0, want - counts, torch.zeros_like(counts))
        if not self.at_once:
            missing = missing.clamp(max=1)
        yield self.dim, (run | _first_missing(run, missing)).reshape(-1)


Closure = (
    Pinned
    | Mapped
    | Balanced
    | Counted
    | Copied
    | Unbroken
    | Carrier
    | Spanned
    | Subset
    | Broadcast
    | Aligned
)
Constraint = Equal | Closure
