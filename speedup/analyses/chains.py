"""Runs of layout operators that together do no more than put the indices of one dimension in another order.

A channel shuffle is written as a view, a transpose and a view. One by one they need what is kept to be a box
in between: the same channels of every group. As one permutation any channel may go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from attrs import evolve, frozen
from torch import Tensor

from speedup.analyses.restating import Restating
from speedup.engine.constraints import Constraint, Mapped, Reason
from speedup.engine.lattice import vector
from speedup.engine.layout import Shape, pull
from speedup.ir.graph import Graph, Op, Value
from speedup.rules import Rules, moves_of
from speedup.rules.copies import is_copy
from speedup.rules.rule import matched

_LONGEST = 8


@frozen(eq=False)
class Chain(Restating):
    """`ops`, each of which alone reads the one before, put the indices of dimension `dim` in another order.

    Index t of the last one's result is index `order[t]` of the first one's operand.
    """

    ops: tuple[Op, ...]
    dim: int
    order: Tensor

    @property
    def restated(self) -> Op:
        """The op whose call is stated otherwise; those of the others are left out."""
        return self.ops[-1]

    def moved(self, op_of: Callable[[Op], Op]) -> Chain:
        """The same in a graph where `op_of` tells what has become of each op."""
        return evolve(self, ops=tuple(map(op_of, self.ops)))

    @property
    def source(self) -> Value:
        return self.ops[0].operands[0]

    @property
    def result(self) -> Value:
        return self.ops[-1].result

    @property
    def inner(self) -> tuple[Value, ...]:
        """What only the ops of the chain see."""
        return tuple(op.result for op in self.ops[:-1])

    def couple(self) -> Iterator[Constraint]:
        """The constraints of the permutation, in the place of those of the ops."""
        reason = Reason(self.ops[-1].index, "puts channels in another order")
        ends, extent = (self.source, self.result), len(self.order)
        yield from matched(reason, ends, (d for d in range(self.source.ndim) if d != self.dim))
        dims = [((value.index, self.dim),) for value in ends]
        yield Mapped(dims[0], dims[1], self.order, (extent,), (extent,), reason)


def find_chains(graph: Graph, rules: Rules) -> tuple[Chain, ...]:
    """The chains of a graph, in its order; no op is in two of them."""
    found: list[Chain] = []
    used: set[int] = set()
    for op in graph.ops:
        if op.index not in used and (chain := _chain_from(op, graph, rules)) is not None:
            found.append(chain)
            used.update(one.index for one in chain.ops)
    return tuple(found)


def _chain_from(first: Op, graph: Graph, rules: Rules) -> Chain | None:
    """The shortest chain that begins with `first` and changes an order."""
    if len(first.operands) != 1 or first.operands[0].is_state:
        return None
    source = first.operands[0]
    for dim, extent in enumerate(source.shape):
        ops = [first]
        seen = _Seen.at(source, dim).behind(first, rules) if extent > 1 else None
        while seen is not None and len(ops) <= _LONGEST:
            if len(ops) > 1 and seen.is_back(source, dim):
                order = seen.order.reshape(-1)
                return None if bool((order == torch.arange(extent)).all()) else Chain(tuple(ops), dim, order)
            after = _only_reader(ops[-1].result, graph)
            if after is None:
                break
            ops.append(after)
            seen = seen.behind(after, rules)
    return None


def _only_reader(value: Value, graph: Graph) -> Op | None:
    readers = graph.readers[value.index]
    if len(readers) != 1 or value in graph.outputs:
        return None
    op = graph.ops[readers[0]]
    return op if op.operands == (value,) else None


@frozen(eq=False)
class _Seen:
    """Where the indices of one dimension, `order`, have got to: it varies along the dimensions `dims` alone.

    `others` are the other dimensions of the source, in the order in which they stand now.
    """

    dims: frozenset[int]
    others: tuple[int, ...]
    order: Tensor

    @classmethod
    def at(cls, value: Value, dim: int) -> _Seen:
        others = tuple(-1 if d == dim else d for d in range(value.ndim))
        return cls(frozenset({dim}), others, vector(torch.arange(value.shape[dim]), dim, value.ndim))

    def behind(self, op: Op, rules: Rules) -> _Seen | None:
        """The same behind `op`; None where that does something else, or mixes in other dimensions."""
        if is_copy(op):
            return self
        found = moves_of(op, rules)
        if len(found) != 1 or len(op.results) != 1 or len(op.operands) != 1:
            return None
        source, target = op.operands[0].shape, op.result.shape
        dims: set[int] = set()
        others = [-1] * len(target)
        for block in found[0].blocks:
            if self.dims.intersection(block.source):
                if not self.dims.issuperset(d for d in block.source if source[d] != 1):
                    return None
                dims.update(block.target)
            elif block.is_plain:
                others[block.target[0]] = self.others[block.source[0]]
            elif any(source[d] != 1 for d in block.source) or any(target[d] != 1 for d in block.target):
                return None
        # A reshape does not say which of the dimensions of extent 1 becomes which.
        named = {block.source[0] for block in found[0].blocks if block.is_plain}
        before = _units(source, self.dims, named)
        after = _units(target, dims, {t for t, other in enumerate(others) if other >= 0})
        if {gap: len(units) for gap, units in before.items()} != {
            gap: len(units) for gap, units in after.items()
        }:
            return None
        for gap, units in before.items():
            for own, unit in zip(units, after[gap], strict=True):
                others[unit] = self.others[own]
        order = pull(found[0], self.order, source, target, torch.tensor(-1))
        return _Seen(frozenset(dims), tuple(others), order)

    def is_back(self, source: Value, dim: int) -> bool:
        """Whether all dimensions stand where they did."""
        others = tuple(-1 if d == dim else d for d in range(source.ndim))
        return self.dims == {dim} and self.others == others and self.order.numel() == source.shape[dim]


def _units(
    shape: Shape, dims: Collection[int], named: Collection[int]
) -> Mapping[tuple[int, bool], list[int]]:
    """The dimensions of extent 1 that are not `named`, by how many others stand in front, and whether `dims`.

    Those of a batch of one, or of a map of one position, stand at other sizes where they stand now.
    """
    found: dict[tuple[int, bool], list[int]] = {}
    for dim, extent in enumerate(shape):
        if extent == 1 and dim not in dims and dim not in named:
            wide = sum(n != 1 and d not in dims for d, n in enumerate(shape[:dim]))
            found.setdefault((wide, any(d < dim for d in dims)), []).append(dim)
    return found
