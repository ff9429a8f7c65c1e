"""Dimensions of one extent that a view takes apart by numbers that follow the inputs' sizes.

`x.unflatten(-1, (-1, n % 2 + 1))`: which elements stand side by side is another matter in each call, so
that what is known of single elements says nothing behind the view, and all of them are read there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from attrs import field, frozen

from speedup.engine.layout import Block
from speedup.ir.graph import Op, Value
from speedup.rules import rule_of
from speedup.rules.extents import STATED_SIZES, Extents, holds_varying
from speedup.rules.moves import axis_of, moves_at, reshape


def taken_apart(op: Op, extents: Extents) -> frozenset[int]:
    """Those of the dimensions of the operand of `op`; none where it is no view."""
    if _follows_none(op) or rule_of(op, extents.rules).moves is not reshape:
        return frozenset()
    return extents.graph.once(
        f"taken apart by {op.index}", lambda: frozenset(_View(op, extents).taken_apart())
    )


def _follows_none(op: Op) -> bool:
    return len(op.operands) == 1 and not op.follows_sizes(*STATED_SIZES)


@frozen(eq=False)
class _View:
    op: Op
    extents: Extents
    # Of extents other than 1, and what they become, in order.
    blocks: Sequence[Block] = field(init=False)

    @blocks.default
    def _wide(self) -> Sequence[Block]:
        (index_map,) = moves_at(self.op, reshape)
        return [block for block in index_map.blocks if block.source and block.target]

    @property
    def _source(self) -> Value:
        return self.op.operands[0]

    def taken_apart(self) -> Iterator[int]:
        for dim in self._stated():
            near = self._made_of(dim)
            if not any(self.extents.varies(self._source, d) for d in near):
                yield from (d for d in near if self._source.shape[d] != 1)

    def _stated(self) -> Iterable[int]:
        """The dimensions of the result whose extents the call states by numbers that vary."""
        op = self.op
        if len(op.operands) > 1:
            like = op.operands[1]
            return [d for d in range(like.ndim) if self.extents.is_taken(like, d)]
        sizes = next(op.arguments[name] for name in STATED_SIZES if name in op.arguments)
        first = axis_of(op["dim"], self._source.ndim) if "dim" in op.arguments else 0
        return [first + n for n, size in enumerate(sizes) if holds_varying(self.extents, size)]

    def _made_of(self, dim: int) -> Sequence[int]:
        """The dimensions of the operand that dimension `dim` of the result is made of, now or at other sizes.

        An extent of 1 is made of nothing now: later of what is next to it, or of extents of 1 between these,
        which may be counted with others too, as a batch is. What becomes a dimension by itself is not.
        """
        if "dim" in self.op.arguments:
            return [axis_of(self.op["dim"], self._source.ndim)]
        before = [block for block in self.blocks if max(block.target) < dim][-1:]
        behind = [block for block in self.blocks if min(block.target) > dim][:1]
        if any(dim in block.target for block in self.blocks):
            start = max(before[0].source) + 1 if before else 0
            end = min(behind[0].source) if behind else self._source.ndim
        else:
            start = min(before[0].source) if before else 0
            end = max(behind[0].source) + 1 if behind else self._source.ndim
        near = {d: self._becomes(d) for d in range(start, end)}
        return [d for d in near if near[d] == dim] or [d for d in near if near[d] is None]

    def _becomes(self, dim: int) -> int | None:
        """The dimension of the result that is one of the operand, of varying extent, by itself."""
        if not self.extents.varies(self._source, dim):
            return None
        result = self.op.result
        return next((d for d in range(result.ndim) if self._is_same(dim, d)), None)

    def _is_same(self, dim: int, made: int) -> bool:
        source, result = self._source, self.op.result
        is_one = source.shape[dim] == result.shape[made]
        return is_one and self.extents.are_equal((source.index, dim), (result.index, made))
