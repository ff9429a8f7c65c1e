"""Convolutions that read constants which differ near the ends of their axes: what these add is a map.

Constant channels need others that carry them. What they add to the result of the layer that reads them is
known all the same: a number for each of its channels and each pair of distances from the ends of an axis.
Where that map is added to the result, all of them may go.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve, frozen
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.analyses.restating import Restating
from speedup.engine.borders import margins_of
from speedup.engine.constraints import Dim, Spanned
from speedup.ir.graph import Op, Value
from speedup.rules import rule_of
from speedup.rules.absorption import compensation_of, spanned_of
from speedup.rules.borders import axes_behind, border_map
from speedup.rules.contraction import describe_contraction


@frozen(eq=False)
class BorderMap(Restating):
    """To the result of the convolution `op` may be added what members of `spanned` add, which then may go.

    `margins` are the distances from the ends, along each axis of space, up to which positions differ.
    """

    op: Op
    spanned: Spanned
    margins: tuple[int, ...]

    @property
    def restated(self) -> Op:
        """The op whose call is stated otherwise."""
        return self.op

    @property
    def rows(self) -> Value:
        """The data, which lists channels at positions."""
        return describe_contraction(self.op).data

    @property
    def part(self) -> Dim:
        """The dimension of the channels."""
        return self.rows.index, describe_contraction(self.op).axis

    def moved(self, op_of: Callable[[Op], Op]) -> BorderMap:
        """The same in a graph where `op_of` tells what has become of each op."""
        return evolve(self, op=op_of(self.op))

    def dropped(self, analysis: Analysis) -> Tensor:
        """Bool vector: the channels that go and count."""
        return self.spanned.members & ~analysis.kept[self.part]

    def is_partial(self, analysis: Analysis) -> bool:
        """Whether there are such channels."""
        return bool(self.dropped(analysis).any())

    def carriers(self, analysis: Analysis) -> int:
        """How many channels that go would have to stay without the map."""
        kept = analysis.kept[self.part]
        groups = range(self.spanned.groups if self.is_partial(analysis) else 0)
        return sum(int((~kept[self.spanned.basis(group, kept)]).sum()) for group in groups)

    def numbers(self, analysis: Analysis) -> Tensor:
        """(channels of the result that stay, pairs of distances from the ends of each axis) the map."""
        shape, site = describe_contraction(self.op), analysis.sites[self.op.index]
        data = site.bordered(shape.data)
        assert data is not None, "there are constants that differ near borders"
        rows = analysis.kept[(self.op.result.index, shape.result_axis)]
        return border_map(self.op, data, site.fact(shape.weight), self.dropped(analysis), rows)


def find_border_maps(analysis: Analysis) -> tuple[BorderMap, ...]:
    """The convolutions for which constants near borders are carried."""
    found = (_border_map(op, analysis) for op in analysis.graph.ops)
    return tuple(one for one in found if one is not None)


def _border_map(op: Op, analysis: Analysis) -> BorderMap | None:
    site = analysis.sites[op.index]
    if not rule_of(op, analysis.rules).takes_borders or not op.calls or op.is_rigid:
        return None
    shape = describe_contraction(op)
    data, compensation = site.bordered(shape.data), compensation_of(site)
    if data is None or compensation is None or site.counterparts(shape.weight) != (op.index,):
        return None
    axes = axes_behind(op, data) if bool(compensation.by_basis.any()) else None
    margins = None if axes is None else margins_of(axes)
    return None if margins is None else BorderMap(op, spanned_of(site, compensation), margins)
