"""Why an index is kept: the chain of constraints from the need or the pin at its root.

The keep-sets grow one constraint at a time, and the engine notes which. So each kept index was
there from the start, or a constraint demanded it because of indices that were there before
(`supports`); following these back ends at a need or at a pin. Dimensions that must be equal have
one set between them: there the way leads through the equalities to the dimension that has the need.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from attrs import evolve, field, frozen
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.engine.constraints import Dim, Equal, Pinned, Reason
from speedup.engine.supports import NEVER
from speedup.explaining.axes import read_by
from speedup.explaining.history import History, Numbers
from speedup.ir.graph import Op, Origin
from speedup.ir.report import Step
from speedup.rules import product_of
from speedup.rules.weights import Product

# Of a longer chain the middle is left out: the root and what stands next to the layer tell most.
_FIRST, _LAST = 4, 2
# How many rearrangements a need is followed through to the layer that it is for.
_HOPS = 16


@frozen(eq=False)
class Hold:
    """Why the indices where `indices` (bool vector) is True are kept, the root first."""

    indices: Tensor
    steps: tuple[Step, ...]


@frozen(eq=False)
class _Part:
    """Of the indices asked about, those at `numbers` stay because `dim` keeps `indices`.

    `later` leads from there to them.
    """

    dim: Dim
    numbers: Numbers
    indices: Numbers
    later: tuple[Step, ...] = ()

    def restrict(self, chosen: Numbers) -> _Part:
        return _Part(self.dim, self.numbers[chosen], self.indices[chosen], self.later)


# By dimension, the one next to it on the way to where the search started, and what makes them equal.
_Came = Mapping[Dim, tuple[Dim, Equal]]
# A step without its indices.
_Kind = tuple[str, str, str, bool]
_Ending = tuple[Numbers, tuple[Step, ...]]


@frozen(eq=False)
class Holds:
    """The history of the keep-sets, read backwards. `outside` says who reads the outputs of the graph.

    `equals` are the equalities that a dimension is part of, `pins` what an op pins of a class, `readers` the
    layers that read channels of a class.
    """

    analysis: Analysis
    outside: str
    _history: History = field(alias="history")
    _equals: Mapping[Dim, tuple[Equal, ...]] = field(alias="equals")
    _pins: Mapping[tuple[int, int], Pinned] = field(alias="pins")
    _readers: Mapping[int, Sequence[tuple[Op, Product, int]]] = field(alias="readers")

    @classmethod
    def of(cls, analysis: Analysis, outside: str) -> Holds:
        """Read the history of `analysis.kept`."""
        kept = analysis.kept
        equals: dict[Dim, list[Equal]] = {}
        pins: dict[tuple[int, int], Pinned] = {}
        for constraint in analysis.constraints:
            if isinstance(constraint, Equal):
                for dim in constraint.dims:
                    equals.setdefault(dim, []).append(constraint)
            elif isinstance(constraint, Pinned) and constraint.reason.op is not None:
                pins.setdefault((constraint.reason.op, kept.class_of(constraint.dim)), constraint)
        found = {dim: tuple(own) for dim, own in equals.items()}
        readers: dict[int, list[tuple[Op, Product, int]]] = {}
        for op in analysis.graph.ops:
            product = product_of(analysis.sites[op.index], analysis.rules)
            if product is None:
                continue
            for axis, _ in product.reads:
                own = kept.class_of((product.data.index, axis))
                readers.setdefault(own, []).append((op, product, axis))
        return cls(analysis, outside, History.of(analysis), found, pins, readers)

    def of_indices(self, dim: Dim, asked: Tensor) -> tuple[Hold, ...]:
        """Why the kept indices where the bool vector `asked` is True stay, one hold for each reason."""
        wanted = asked.numpy().nonzero()[0]
        grouped: dict[tuple[_Kind, ...], tuple[Tensor, list[tuple[Step, ...]]]] = {}
        for numbers, steps in self._endings(_Part(dim, np.arange(len(wanted)), wanted)):
            key = tuple(map(_kind, steps))
            indices, alike = grouped.setdefault(key, (torch.zeros_like(asked), []))
            indices[torch.from_numpy(wanted[numbers])] = True
            alike.append(steps)
        return tuple(Hold(indices, _unite(alike)) for indices, alike in grouped.values())

    def _endings(self, part: _Part) -> Iterator[_Ending]:
        pending = [part]
        while pending:
            open_part = pending.pop()
            times = self._history.since(open_part.dim)[open_part.indices]
            if (times == 0).any():
                yield from self._needs(open_part.restrict(times == 0))
            for time in sorted(set(times.tolist()) - {0, NEVER}):
                for ending in self._grown(open_part.restrict(times == time), time):
                    if isinstance(ending, _Part):
                        pending.append(ending)
                    else:
                        yield ending

    def _grown(self, part: _Part, time: int) -> Iterator[_Part | _Ending]:
        """What demanded the indices that were added at `time`, at their root or one constraint before."""
        derivation = self.analysis.kept.derivations[time - 1]
        step = self._step(derivation.reason, part.indices)
        steps = (step, *self._between(derivation.dim, part), *part.later)
        left = np.ones(len(part.numbers), dtype=np.bool_)
        for dim, places in self._history.demands_at(time):
            asked = places[part.indices]
            here = asked >= 0
            if here.any():
                left &= ~here
                yield _Part(dim, part.numbers[here], asked[here], steps)
        if left.any():
            yield part.numbers[left], (evolve(step, indices=_list_indices(part.indices[left])), *steps[1:])

    def _between(self, root: Dim, part: _Part) -> tuple[Step, ...]:
        """What joins `root` with the dimension in question, if the data does not just flow from one to
        the other.
        """
        if root == part.dim:
            return ()
        for dim, came in self._ways(part.dim):
            if dim == root:
                return self._joint(dim, came, part.indices)
        return ()

    def _needs(self, part: _Part, hops: int = _HOPS) -> Iterator[_Ending]:
        left = np.ones(len(part.numbers), dtype=np.bool_)
        for dim, came in self._ways(part.dim):
            found = self._history.own_needs(dim)
            # Most members of a class need nothing that others do not need before them.
            share = None if found is None else left & found[part.indices]
            if share is not None and share.any():
                joint = self._joint(dim, came, part.indices[share])
                origin = _Part(dim, part.numbers[share], part.indices[share], (*joint, *part.later))
                reader = None
                if not origin.later and dim[0] <= part.dim[0] and self._need(dim, origin.indices).is_need:
                    # They just flow here; what counts is who else reads them.
                    reader = self._reader(part.dim, origin.indices)
                if reader is None:
                    yield from self._from_origin(origin, hops)
                else:
                    yield origin.numbers, (reader,)
                left = left & ~share
                if not left.any():
                    return

    def _from_origin(self, part: _Part, hops: int) -> Iterator[_Ending]:
        """The need at an origin; where a call just rearranges its operand, the need of that."""
        left = np.ones(len(part.numbers), dtype=np.bool_)
        for other, sources in self._history.sources_of(part.dim) if hops else ():
            met = left & (sources[part.indices] >= 0)
            if met.any():
                places = sources[part.indices[met]]
                yield from self._needs(_Part(other, part.numbers[met], places, part.later), hops - 1)
                left = left & ~met
        if left.any():
            rest = part.restrict(left)
            yield rest.numbers, (self._need(rest.dim, rest.indices), *part.later)

    def _ways(self, start: Dim) -> Iterator[tuple[Dim, _Came]]:
        """Every dimension equal to `start`, the nearest first, and how all so far were reached."""
        came: dict[Dim, tuple[Dim, Equal]] = {}
        pending = deque([start])
        while pending:
            dim = pending.popleft()
            yield dim, came
            for equal in self._equals.get(dim, ()):
                for other in equal.dims:
                    if other != start and other not in came:
                        came[other] = dim, equal
                        pending.append(other)

    def _need(self, dim: Dim, indices: Numbers) -> Step:
        graph = self.analysis.graph
        value, listed = graph.values[dim[0]], _list_indices(indices)
        producer = graph.producer[value.index]
        if value in graph.outputs:
            return Step(self.outside, indices=listed)
        if value.origin is Origin.INPUT:
            return Step("they belong to an input of the model", indices=listed)
        if producer is None:
            return Step("a tensor that the forward holds stays whole", indices=listed)
        op = graph.ops[producer]
        pin = self._pins.get((op.index, self.analysis.kept.class_of(dim)))
        if pin is not None and (pin.indices is None or pin.indices.numpy()[indices].all()):
            return self._step(pin.reason, indices)
        return Step("needs them", str(op.target), op.owner.path, listed, is_need=True)

    def _reader(self, dim: Dim, indices: Numbers) -> Step | None:
        """A layer that reads the indices, where they just flow to whoever does."""
        for op, product, axis in self._readers.get(self.analysis.kept.class_of(dim), ()):
            read = read_by(op, product, axis, self.analysis.sites[op.index].live(op.result), self.analysis)
            if read.numpy()[indices].any():
                return Step("reads them", str(op.target), op.owner.path, _list_indices(indices), is_need=True)
        return None

    def _joint(self, root: Dim, came: _Came, indices: Numbers) -> tuple[Step, ...]:
        """The call on the way where two operands meet or where two calls share a parameter, nearest the
        root; none where the data just flows from one to the other.
        """
        graph, far = self.analysis.graph, root
        while far in came:
            near, equal = came[far]
            op = equal.reason.op
            ends = [graph.values[near[0]], graph.values[far[0]]]
            if op is not None and not any(e in graph.ops[op].results or e.is_state for e in ends):
                return (self._step(equal.reason, indices),)
            if ends[0].is_state and near in came and came[near][1].reason.op not in (None, op):
                return (self._step(Reason(op, f"shares {ends[0].name} with another call"), indices),)
            far = near
        return ()

    def _step(self, reason: Reason, indices: Numbers) -> Step:
        if reason.op is None:
            return Step(reason.words, indices=_list_indices(indices))
        op = self.analysis.graph.ops[reason.op]
        return Step(reason.words, str(op.target), op.owner.path, _list_indices(indices))


def _kind(step: Step) -> _Kind:
    return step.words, step.operator, step.path, step.is_need


def _list_indices(indices: Numbers) -> tuple[int, ...]:
    return tuple(indices.tolist())


def _unite(alike: list[tuple[Step, ...]]) -> tuple[Step, ...]:
    """One chain out of several that differ in their indices only."""
    united = [
        evolve(steps[0], indices=tuple(sorted({i for step in steps for i in step.indices})))
        for steps in zip(*alike, strict=True)
    ]
    chain = [s for n, s in enumerate(united) if n == 0 or _kind(s) != _kind(united[n - 1])]
    return tuple(chain if len(chain) <= _FIRST + _LAST else chain[:_FIRST] + chain[-_LAST:])
