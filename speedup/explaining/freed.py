"""What freed the indices that go: a mask, zeros in the weights, a constant, or that nobody reads them.

Two walks over the graph, each memoised per dimension of a value. Constants are followed to where
they come from, against the flow of data; what is dead is followed to the readers that drop it,
along the flow. Where an op rearranges its operand, its `Mapped` constraints say how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from attrs import field, frozen
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.analyses.crossings import Maps, crossings, maps_of
from speedup.engine.constraints import Dim, Mapped
from speedup.engine.lattice import any_along, indicator, vector
from speedup.explaining.axes import read_by
from speedup.ir.graph import Op, Value
from speedup.ir.report import Step
from speedup.rules import product_of
from speedup.rules.weights import Product

# Which indices of a dimension (bool vectors) a cause accounts for.
Causes = Mapping[Step, Tensor]

_CONSTANT, _UNREAD = "is constant", "nothing reads them"


@frozen(eq=False)
class Freed:
    """Follows what goes to what freed it. `masked` names the parameters that have masks."""

    analysis: Analysis
    masked: frozenset[str]
    _maps: Maps = field(alias="maps")
    _constants: dict[Dim, Causes] = field(factory=dict, alias="constants")
    _unread: dict[Dim, Causes] = field(factory=dict, alias="unread")

    @classmethod
    def of(cls, analysis: Analysis, masked: Iterable[str]) -> Freed:
        return cls(analysis, frozenset(masked), maps_of(analysis.constraints))

    def constants(self, dim: Dim) -> Causes:
        """Where the constants along `dim` come from: for indices that are Known altogether."""
        if dim not in self._constants:
            # Whoever asks again on the way, which only a cycle of layouts could, gets no answer.
            self._constants[dim] = {}
            value = self.analysis.graph.values[dim[0]]
            known = ~any_along(~self.analysis.known(value), dim[1], value.shape[dim[1]])
            if bool(known.any()):
                self._constants[dim] = _first_come(known, self._sources_of(value, dim))
        return self._constants[dim]

    def droppers(self, dim: Dim) -> Causes:
        """Who drops the dead indices of `dim`."""
        if dim not in self._unread:
            self._unread[dim] = {}
            value = self.analysis.graph.values[dim[0]]
            dead = ~any_along(self.analysis.sites[0].lives[dim[0]], dim[1], value.shape[dim[1]])
            if bool(dead.any()):
                self._unread[dim] = _first_come(dead, self._droppers_of(value, dim))
        return self._unread[dim]

    def _sources_of(self, value: Value, dim: Dim) -> Iterator[tuple[Step, Tensor]]:
        producer = self.analysis.graph.producer[value.index]
        if producer is None:
            if value.is_state:
                yield self._zeroed(value, None), torch.ones(value.shape[dim[1]], dtype=torch.bool)
            return
        op = self.analysis.graph.ops[producer]
        product = product_of(self.analysis.sites[op.index], self.analysis.rules)
        if product is not None:
            for number, (made, _) in enumerate(product.makes):
                if dim[1] == made:
                    weight = self.analysis.facts[product.weight.index]
                    yield self._zeroed(product.weight, op), product.empty_rows(number, weight)
            whole = torch.ones(value.shape[dim[1]], dtype=torch.bool)
            yield _step(op, "reads nothing but constants"), whole
            return
        for operand, found in self._zeros_beside(op, dim):
            yield self._zeroed(operand, op), found
        for operand in op.operands:
            for axis in range(operand.ndim):
                if not operand.is_state and self._is_same((operand.index, axis), dim):
                    yield from self.constants((operand.index, axis)).items()
        for constraint in self._maps.get((op.index, dim), ()):
            if dim in constraint.targets:
                yield from _through(constraint, dim, self.constants)
        yield _step(op, _CONSTANT), torch.ones(value.shape[dim[1]], dtype=torch.bool)

    def _zeros_beside(self, op: Op, dim: Dim) -> Iterator[tuple[Value, Tensor]]:
        """Parameters of `op` along `dim` that hold zeros, where the data is not constant anyway."""
        data = [v for v in op.operands if not v.is_state and v.ndim]
        for operand in op.operands:
            axes = [a for a in range(operand.ndim) if self._is_same((operand.index, a), dim)]
            if operand.is_state and axes and "bias" not in operand.name and "running" not in operand.name:
                extent = operand.shape[axes[0]]
                zero = ~any_along(self.analysis.facts[operand.index].maybe_nonzero, axes[0], extent)
                for value in data:
                    for axis in range(value.ndim):
                        if self._is_same((value.index, axis), dim):
                            zero = zero & any_along(~self.analysis.known(value), axis, extent)
                yield operand, zero

    def _droppers_of(self, value: Value, dim: Dim) -> Iterator[tuple[Step, Tensor]]:
        graph = self.analysis.graph
        for number in graph.readers[value.index]:
            yield from self.dropped_by(graph.ops[number], dim)
        yield Step(_UNREAD), torch.ones(value.shape[dim[1]], dtype=torch.bool)

    def dropped_by(self, op: Op, dim: Dim) -> Iterator[tuple[Step, Tensor]]:
        """Why `op` does not read indices of `dim`, followed to the mask that did it; it may list others."""
        value = self.analysis.graph.values[dim[0]]
        product = product_of(self.analysis.sites[op.index], self.analysis.rules)
        if product is not None and value is product.data and any(dim[1] == d for d, _ in product.reads):
            yield from self._empty_columns(op, product, dim[1])
            return
        for operand, found in self._zeros_beside(op, dim):
            yield self._zeroed(operand, op), found
        for result in op.results:
            for axis in range(result.ndim):
                if self._is_same((result.index, axis), dim):
                    yield from self.droppers((result.index, axis)).items()
        for constraint in self._maps.get((op.index, dim), ()):
            if dim in constraint.sources:
                yield from _through(constraint, dim, self.droppers)

    def _empty_columns(self, op: Op, product: Product, dim: int) -> Iterator[tuple[Step, Tensor]]:
        ndim = op.result.ndim
        every = indicator(True, ndim)
        yield self._zeroed(product.weight, op), ~read_by(op, product, dim, every, self.analysis)
        for made, _ in product.makes:
            for step, rows in self.droppers((op.result.index, made)).items():
                yield step, read_by(op, product, dim, vector(rows, made, ndim), self.analysis)

    def _zeroed(self, value: Value, op: Op | None) -> Step:
        if value.is_state:
            words = f"{'masked' if value.name in self.masked else 'zeros'} in {value.name}"
        else:
            words = "zeros in a weight that the forward computes"
        return Step(words) if op is None else _step(op, words)

    def _is_same(self, one: Dim, other: Dim) -> bool:
        return self.analysis.kept.class_of(one) == self.analysis.kept.class_of(other)


def _step(op: Op, words: str) -> Step:
    return Step(words, str(op.target), op.owner.path)


def _first_come(asked: Tensor, causes: Iterable[tuple[Step, Tensor]]) -> Causes:
    """Each of the indices `asked` for with the first cause that accounts for it."""
    found: dict[Step, Tensor] = {}
    left = asked
    for step, indices in causes:
        share = left & indices
        if bool(share.any()):
            found[step] = found[step] | share if step in found else share
            left = left & ~share
            if not bool(left.any()):
                break
    return found


def _through(constraint: Mapped, dim: Dim, causes: Callable[[Dim], Causes]) -> Iterator[tuple[Step, Tensor]]:
    """The causes on the other side of a rearrangement, by the indices of `dim` that they meet."""
    sizes = (*constraint.source_sizes, *constraint.target_sizes)
    extent = sizes[constraint.dims.index(dim)]
    for crossing in crossings(constraint, dim):
        for step, indices in causes(crossing.other).items():
            met = torch.zeros(extent, dtype=torch.bool)
            met[crossing.own[indices[crossing.indices]]] = True
            yield step, met
