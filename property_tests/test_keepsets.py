"""Laws of the fixpoint engine, for systems of constraints that Hypothesis draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import attrs
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from speedup.engine.constraints import (
    Aligned,
    Balanced,
    Broadcast,
    Carrier,
    Closure,
    Constraint,
    Counted,
    Dim,
    Equal,
    Mapped,
    Pinned,
    Reason,
    Spanned,
    Subset,
    Unbroken,
)
from speedup.engine.keepsets import KeepSets, grow_keep_sets, solve_keep_sets

_CAUSE = Reason(None, "drawn")
# Extents with several divisors, and few of them, so that dimensions often can be equal.
_EXTENTS = (1, 2, 4, 6)


@attrs.frozen(eq=False)
class System:
    """Dimensions of no tensor in particular, what of them is needed, and constraints between them."""

    extents: Mapping[Dim, int]
    seeds: Mapping[Dim, Tensor | None]
    constraints: Sequence[Constraint]

    def solved(self) -> KeepSets:
        return solve_keep_sets(self.extents, self.seeds, self.constraints)

    @property
    def by_extent(self) -> list[Dim]:
        return sorted(self.extents, key=self.extents.__getitem__)

    @property
    def closures(self) -> list[Closure]:
        return [c for c in self.constraints if not isinstance(c, Equal)]


def _vectors(extent: int) -> st.SearchStrategy[Tensor]:
    bits = st.lists(st.booleans(), min_size=extent, max_size=extent)
    return bits.map(lambda chosen: torch.tensor(chosen, dtype=torch.bool))


def _divisors(extents: Sequence[int]) -> st.SearchStrategy[int]:
    return st.sampled_from([n for n in range(1, 7) if all(extent % n == 0 for extent in extents)])


@st.composite
def _equal(draw: st.DrawFn, extents: Mapping[Dim, int]) -> Equal:
    first = draw(st.sampled_from(list(extents)))
    alike = [dim for dim, extent in extents.items() if extent == extents[first]]
    return Equal((first, *draw(st.lists(st.sampled_from(alike), max_size=3))), _CAUSE)


@st.composite
def _pinned(draw: st.DrawFn, extents: Mapping[Dim, int]) -> Pinned:
    dim = draw(st.sampled_from(list(extents)))
    return Pinned(dim, _CAUSE, draw(st.none() | _vectors(extents[dim])))


@st.composite
def _mapped(draw: st.DrawFn, extents: Mapping[Dim, int]) -> Mapped:
    some = st.lists(st.sampled_from(list(extents)), min_size=1, max_size=2, unique=True)
    sources, targets = tuple(draw(some)), tuple(draw(some))
    sizes = tuple(extents[d] for d in sources), tuple(extents[d] for d in targets)
    have, want = map(prod, sizes)
    index: Tensor | None = None
    if have != want or draw(st.booleans()):
        index = torch.tensor(draw(st.lists(st.integers(-1, have - 1), min_size=want, max_size=want)))
    return Mapped(sources, targets, index, *sizes, _CAUSE, draw(st.booleans()))


@st.composite
def _whole(draw: st.DrawFn, extents: Mapping[Dim, int]) -> Unbroken:
    dim = draw(st.sampled_from(list(extents)))
    return Unbroken(dim, draw(_divisors([extents[dim]])), _CAUSE)


@st.composite
def _balanced(draw: st.DrawFn, extents: Mapping[Dim, int]) -> Balanced:
    dims = tuple(draw(st.lists(st.sampled_from(list(extents)), min_size=1, max_size=2)))
    return Balanced(dims, draw(_divisors([extents[d] for d in dims])), _CAUSE, draw(st.booleans()))


@st.composite
def _counted(draw: st.DrawFn, extents: Mapping[Dim, int]) -> Counted:
    first = draw(st.sampled_from(list(extents)))
    alike = [dim for dim, extent in extents.items() if extent == extents[first]]
    return Counted((first, draw(st.sampled_from(alike))), _CAUSE)


@st.composite
def _carrier(draw: st.DrawFn, extents: Mapping[Dim, int]) -> Carrier:
    dim, rows = draw(st.sampled_from(list(extents))), draw(st.sampled_from(list(extents)))
    extent = extents[dim]
    groups = draw(_divisors([extent, extents[rows]]))
    # Channel -> family, numbered anew in each group: a family never spans two groups.
    number = draw(st.lists(st.integers(0, 2), min_size=extent, max_size=extent))
    keys = [(channel // (extent // groups), n) for channel, n in enumerate(number)]
    families = tuple(torch.tensor([other == key for other in keys]) for key in dict.fromkeys(keys))
    sizes = draw(st.lists(st.sampled_from([0.01, 1.0, 2.0, 3.0]), min_size=extent, max_size=extent))
    return Carrier(dim, families, torch.tensor(sizes), rows, groups, _CAUSE)


@st.composite
def _spanned(draw: st.DrawFn, extents: Mapping[Dim, int]) -> Spanned:
    dim, rows = draw(st.sampled_from(list(extents))), draw(st.sampled_from(list(extents)))
    extent = extents[dim]
    groups = draw(_divisors([extent, extents[rows]]))
    numbers = st.lists(st.sampled_from([-2.0, -0.01, 0.0, 1.0]), min_size=3, max_size=3)
    profiles = torch.tensor(draw(st.lists(numbers, min_size=extent, max_size=extent)))
    members = (profiles != 0).any(1)
    return Spanned(dim, members, profiles, draw(st.booleans()), rows, groups, _CAUSE)


@st.composite
def _subset(draw: st.DrawFn, extents: Mapping[Dim, int]) -> Subset:
    part = draw(st.sampled_from(list(extents)))
    whole = draw(st.sampled_from([dim for dim, extent in extents.items() if extent == extents[part]]))
    return Subset(part, whole, draw(_vectors(extents[part])), _CAUSE)


@st.composite
def _broadcast(draw: st.DrawFn, extents: Mapping[Dim, int]) -> Broadcast:
    part = draw(st.sampled_from(list(extents)))
    whole = draw(st.sampled_from([dim for dim, extent in extents.items() if extent == extents[part]]))
    return Broadcast(part, whole, _CAUSE)


@st.composite
def _aligned(draw: st.DrawFn, extents: Mapping[Dim, int]) -> Aligned:
    dim, multiple = draw(st.sampled_from(list(extents))), draw(st.integers(1, 4))
    groups = draw(_divisors([extents[dim]]))
    width = extents[dim] // groups

    def wanted(count: int) -> int:
        return min(-(-count // multiple) * multiple, width)

    return Aligned(dim, groups, wanted, draw(st.booleans()), _CAUSE)


_FORCED = (_equal, _pinned, _mapped, _whole, _subset, _broadcast)
_CHOICES = (_balanced, _counted, _carrier, _spanned, _aligned)


@st.composite
def systems(draw: st.DrawFn, choices: bool = True) -> System:
    """Up to six dimensions under up to eight constraints; without `choices`, forced ones only."""
    names = [(value, dim) for value in range(3) for dim in range(2)]
    count = draw(st.integers(1, len(names)))
    extents = {name: draw(st.sampled_from(_EXTENTS)) for name in names[:count]}
    seeds = {
        dim: draw(st.none() | _vectors(extent)) for dim, extent in extents.items() if draw(st.integers(0, 3))
    }
    kinds = (*_FORCED, *_CHOICES) if choices else _FORCED
    one = st.one_of(*(kind(extents) for kind in kinds))
    return System(extents, seeds, draw(st.lists(one, max_size=8)))


def _demands(constraint: Constraint, sets: Mapping[Dim, Tensor]) -> list[tuple[Dim, Tensor]]:
    if isinstance(constraint, Equal):
        together = torch.stack([sets[d] for d in constraint.dims]).any(0)
        return [(dim, together) for dim in constraint.dims]
    return list(constraint.close(sets.__getitem__))


def _round_robin(sets: dict[Dim, Tensor], constraints: Sequence[Constraint]) -> None:
    """Close `sets` under `constraints` by asking all of them until none has anything to add."""
    before = -1
    while before != (before := sum(int(s.sum()) for s in sets.values())):
        for constraint in constraints:
            for dim, demand in _demands(constraint, sets):
                sets[dim] = sets[dim] | demand


def _least(system: System) -> dict[Dim, Tensor]:
    """The least closed sets, the slow way; empty ones are filled up, the smallest first."""
    sets = {dim: torch.zeros(extent, dtype=torch.bool) for dim, extent in system.extents.items()}
    for dim, seed in system.seeds.items():
        sets[dim] = torch.ones_like(sets[dim]) if seed is None else seed.clone()
    _round_robin(sets, system.constraints)
    for dim in system.by_extent:
        if not bool(sets[dim].any()):
            sets[dim] = torch.arange(system.extents[dim]) == 0
            _round_robin(sets, system.constraints)
    return sets


def _ask(sets: dict[Dim, Tensor], choices: Sequence[Closure]) -> bool:
    """Let the first choice that is not satisfied have what it wants; whether there was one."""
    for choice in choices:
        before = dict(sets)
        for dim, demand in _demands(choice, before):
            sets[dim] = sets[dim] | demand
        if any(not torch.equal(sets[dim], before[dim]) for dim in sets):
            return True
    return False


def _staged(system: System) -> dict[Dim, Tensor]:
    """The outcome with choices, the slow way: one choice at a time, and only when all else has settled."""
    forced = [c for c in system.constraints if isinstance(c, Equal) or not c.is_choice]
    choices = [c for c in system.closures if c.is_choice]
    sets = {dim: torch.zeros(extent, dtype=torch.bool) for dim, extent in system.extents.items()}
    for dim, seed in system.seeds.items():
        sets[dim] = torch.ones_like(sets[dim]) if seed is None else seed.clone()
    for lost in (None, *system.by_extent):
        if lost is not None and not bool(sets[lost].any()):
            sets[lost] = torch.arange(system.extents[lost]) == 0
        _round_robin(sets, forced)
        while _ask(sets, choices):
            _round_robin(sets, forced)
    return sets


def _lists(kept: KeepSets | Mapping[Dim, Tensor], system: System) -> dict[Dim, list[bool]]:
    return {dim: kept[dim].tolist() for dim in system.extents}


@given(system=systems())
def test_result_contains_the_seeds_and_no_dimension_is_empty(system: System) -> None:
    kept = system.solved()
    for dim in system.extents:
        seed = system.seeds.get(dim, torch.zeros(system.extents[dim], dtype=torch.bool))
        assert bool(kept[dim].all()) if seed is None else not bool((seed & ~kept[dim]).any())
        assert kept.count(dim) == int(kept[dim].sum()) > 0
        assert kept.is_full(dim) == bool(kept[dim].all())


@given(system=systems())
def test_result_satisfies_every_constraint(system: System) -> None:
    kept = system.solved()
    sets = {dim: kept[dim] for dim in system.extents}
    for constraint in system.constraints:
        for dim, demand in _demands(constraint, sets):
            assert not bool((demand & ~kept[dim]).any()), constraint


@given(system=systems(choices=False))
def test_forced_constraints_give_the_least_fixpoint(system: System) -> None:
    assert _lists(system.solved(), system) == _lists(_least(system), system)


@given(data=st.data())
def test_dimensions_that_are_equal_in_any_order_and_number_of_steps_keep_the_same(
    data: st.DataObject,
) -> None:
    names = [(value, 0) for value in range(5)]
    pairs = data.draw(st.lists(st.permutations(names).map(lambda p: tuple(p[:2])), max_size=5))
    seeds = {dim: data.draw(_vectors(2)) for dim in names}
    system = System(dict.fromkeys(names, 2), seeds, [Equal(pair, _CAUSE) for pair in pairs])
    assert _lists(system.solved(), system) == _lists(_least(system), system)


@given(system=systems())
def test_choices_are_asked_one_by_one_when_all_else_has_settled(system: System) -> None:
    assert _lists(system.solved(), system) == _lists(_staged(system), system)


@given(data=st.data(), system=systems())
def test_growing_under_more_constraints_satisfies_all_and_only_adds(
    data: st.DataObject, system: System
) -> None:
    kept = system.solved()
    more = data.draw(st.lists(_aligned(system.extents), max_size=3))
    found = grow_keep_sets(kept, system.constraints, more)
    sets = {dim: found[dim] for dim in system.extents}
    assert all(not bool((kept[dim] & ~found[dim]).any()) for dim in sets)
    for constraint in (*system.constraints, *more):
        for dim, demand in _demands(constraint, sets):
            assert not bool((demand & ~found[dim]).any()), constraint


@given(data=st.data(), system=systems(choices=False))
def test_order_of_forced_constraints_does_not_matter(data: st.DataObject, system: System) -> None:
    shuffled = attrs.evolve(system, constraints=data.draw(st.permutations(system.constraints)))
    assert _lists(shuffled.solved(), system) == _lists(system.solved(), system)


@given(data=st.data(), system=systems())
def test_order_among_forced_constraints_does_not_matter_beside_choices(
    data: st.DataObject, system: System
) -> None:
    forced = [c for c in system.constraints if isinstance(c, Equal) or not c.is_choice]
    choices = [c for c in system.closures if c.is_choice]
    assume(len(forced) > 1 and choices)
    one = attrs.evolve(system, constraints=[*forced, *choices])
    other = attrs.evolve(system, constraints=[*choices, *data.draw(st.permutations(forced))])
    assert _lists(one.solved(), system) == _lists(other.solved(), system)


@given(data=st.data(), system=systems(choices=False))
def test_larger_seeds_never_keep_less(data: st.DataObject, system: System) -> None:
    """Given that no seed is empty: the index that then stands in for one would no longer be needed."""
    small = {dim: _with_first(system.seeds.get(dim), n) for dim, n in system.extents.items()}
    large = {dim: seed | data.draw(_vectors(len(seed))) for dim, seed in small.items()}
    kept, kept_of_large = (attrs.evolve(system, seeds=seeds).solved() for seeds in (small, large))
    for dim in system.extents:
        assert not bool((kept[dim] & ~kept_of_large[dim]).any()), dim


def _with_first(seed: Tensor | None, extent: int) -> Tensor:
    vector = torch.zeros(extent, dtype=torch.bool) if seed is None else seed.clone()
    vector[0] = True
    return vector


@given(system=systems())
def test_growth_and_seeds_together_are_the_result(system: System) -> None:
    kept = system.solved()
    rebuilt = {kept.class_of(d): torch.zeros(n, dtype=torch.bool) for d, n in system.extents.items()}
    for dim, seed in system.seeds.items():
        known = kept.class_of(dim)
        rebuilt[known] = torch.ones_like(rebuilt[known]) if seed is None else rebuilt[known] | seed
    for derivation in kept.derivations:
        known = kept.class_of(derivation.dim)
        assert bool(derivation.added.any()) and not bool((rebuilt[known] & derivation.added).any())
        rebuilt[known] = rebuilt[known] | derivation.added
    for dim in system.extents:
        assert rebuilt[kept.class_of(dim)].tolist() == kept[dim].tolist()
