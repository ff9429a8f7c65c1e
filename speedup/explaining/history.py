"""The history of the keep-sets: since when each index is kept, and what asked for it.

Everything is looked up once for a whole dimension, as the chains of many layers lead through the same calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy.typing as npt
import torch
from attrs import field, frozen
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.analyses.crossings import Maps, crossings, maps_of
from speedup.engine.constraints import Dim
from speedup.engine.supports import NEVER, Support, supports

# Indices or bools: the many small steps of a chain are several times as fast on arrays as on tensors.
Numbers = npt.NDArray[Any]
# Per dimension that something comes from, for each index in question one of its indices; -1 for none.
Places = tuple[tuple[Dim, Numbers], ...]


@frozen(eq=False)
class History:
    """`analysis.kept` read backwards."""

    analysis: Analysis
    _since: Mapping[int, Tensor] = field(alias="since")
    _maps: Maps = field(alias="maps")
    _needed: dict[Dim, Numbers | None] = field(factory=dict, init=False)
    _rearranged: dict[Dim, Places] = field(factory=dict, init=False)
    _demanded: dict[int, Places] = field(factory=dict, init=False)

    @classmethod
    def of(cls, analysis: Analysis) -> History:
        """The history of the keep-sets of `analysis`."""
        kept = analysis.kept
        since: dict[int, Tensor] = {}
        for dim, seed in analysis.seeds.items():
            times = since.setdefault(kept.class_of(dim), torch.full(kept[dim].shape, NEVER))
            times[slice(None) if seed is None else seed] = 0
        for number, derivation in enumerate(kept.derivations):
            times = since.setdefault(kept.class_of(derivation.dim), torch.full(derivation.added.shape, NEVER))
            times[derivation.added] = number + 1
        return cls(analysis, since, maps_of(analysis.constraints))

    def since(self, dim: Dim) -> Numbers:
        """Since when each index is kept: 0 from the start, else the number of the derivation plus 1."""
        return self._times(dim).numpy()

    def _times(self, dim: Dim) -> Tensor:
        found = self._since.get(self.analysis.kept.class_of(dim))
        return torch.full(self.analysis.kept[dim].shape, NEVER) if found is None else found

    def demands_at(self, time: int) -> Places:
        """What asked for the indices that came to be kept at `time`."""
        if time not in self._demanded:
            added = self.analysis.kept.derivations[time - 1].added
            found = []
            for one in self._supports(time):
                places = torch.full(added.shape, -1)
                places[added.nonzero().reshape(-1)[one.numbers]] = one.indices
                found.append((one.dim, places.numpy()))
            self._demanded[time] = tuple(found)
        return self._demanded[time]

    def _supports(self, time: int) -> Iterator[Support]:
        def before(dim: Dim) -> Tensor:
            times = self._times(dim)
            return torch.where(times < time, times, NEVER)

        derivation = self.analysis.kept.derivations[time - 1]
        if derivation.constraint is not None:
            wanted = derivation.added.nonzero().reshape(-1)
            yield from supports(derivation.constraint, derivation.dim, wanted, before)

    def own_needs(self, dim: Dim) -> Numbers | None:
        """Indices needed in `dim` itself, not just because what it is made from has them; None if none."""
        if dim not in self._needed:
            found = self._needed_first(dim)
            self._needed[dim] = found.numpy() if bool(found.any()) else None
        return self._needed[dim]

    def _needed_first(self, dim: Dim) -> Tensor:
        kept, found = self.analysis.kept, self._seed(dim)
        producer = self.analysis.graph.producer[dim[0]]
        if producer is None or not bool(found.any()):
            return found
        known = kept.class_of(dim)
        for value in self.analysis.graph.ops[producer].operands:
            for axis in range(value.ndim):
                if kept.class_of((value.index, axis)) == known:
                    found = found & ~self._seed((value.index, axis))
        return found

    def sources_of(self, dim: Dim) -> Places:
        """Of the indices of `dim`, where the call that makes them takes those that are needed there."""
        if dim not in self._rearranged:
            found = []
            for mapped in self._maps.get((self.analysis.graph.producer[dim[0]], dim), ()):
                for crossing in crossings(mapped, dim) if dim in mapped.targets else ():
                    needed = self._seed(crossing.other)[crossing.indices]
                    places = torch.full(self.analysis.kept[dim].shape, -1)
                    places[crossing.own[needed]] = crossing.indices[needed]
                    found.append((crossing.other, places.numpy()))
            self._rearranged[dim] = tuple(found)
        return self._rearranged[dim]

    def _seed(self, dim: Dim) -> Tensor:
        none = torch.zeros(self.analysis.kept[dim].shape, dtype=torch.bool)
        seed = self.analysis.seeds.get(dim, none)
        return ~none if seed is None else seed
