"""Layout operators that are rarely met, and those that are another one under a second name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from speedup.engine.constraints import Constraint, Counted
from speedup.engine.lattice import Fact
from speedup.engine.layout import Block, IndexMap, Shape, identity_blocks, reshape_blocks
from speedup.ir.graph import Op
from speedup.rules.layout import layout_rule
from speedup.rules.moves import Arguments, axis_of, expand, flip, split, swap
from speedup.rules.rule import Facts, Moves, Rule, any_of, equal, keep_instead
from speedup.rules.site import Site
from speedup.rules.stated import as_split

Shapes = Sequence[Shape]


def movedim(arguments: Arguments, sources: Shapes, targets: Shapes) -> tuple[IndexMap, ...]:
    ndim = len(sources[0])
    given = (arguments["source"], arguments["destination"])
    leave, arrive = ([axis_of(d, ndim) for d in (g if isinstance(g, tuple) else (g,))] for g in given)
    rest = iter(d for d in range(ndim) if d not in leave)
    order = [leave[arrive.index(t)] if t in arrive else next(rest) for t in range(ndim)]
    return (IndexMap(0, 0, identity_blocks([(s, t) for t, s in enumerate(order)])),)


def swap_last(arguments: Arguments, sources: Shapes, targets: Shapes) -> tuple[IndexMap, ...]:
    return swap({"dim0": -2, "dim1": -1}, sources, targets)


def flip_axis(axis: int) -> Moves:
    return lambda arguments, sources, targets: flip({"dims": (axis,)}, sources, targets)


def rot90(arguments: Arguments, sources: Shapes, targets: Shapes) -> tuple[IndexMap, ...]:
    source, turns = sources[0], arguments["k"] % 4
    first, second = (axis_of(d, len(source)) for d in arguments["dims"])
    if turns % 2 == 0:
        return flip({"dims": (first, second) if turns else ()}, sources, targets)
    blocks = [Block((d,), (d,)) for d in range(len(source)) if d not in (first, second)]
    reverse = {d: torch.arange(source[d]).flip(0) for d in (first, second)}
    return (
        IndexMap(
            0,
            0,
            (
                *blocks,
                Block((second,), (first,), reverse[second] if turns == 1 else None),
                Block((first,), (second,), reverse[first] if turns == 3 else None),
            ),
        ),
    )


def split_axis(axis: int) -> Moves:
    """`hsplit` and the like, whose axis follows from their name; a vector only has one."""
    return lambda arguments, sources, targets: split(
        {"dim": min(axis, len(sources[0]) - 1)}, sources, targets
    )


def lift_and_join(axis: int, rank: int, column: bool = False) -> Moves:
    """`hstack` and the like: concatenation along `axis` of operands lifted to `rank` dimensions.

    Dimensions are added in front and, from the third on, behind; with `column` never in front.
    """

    def moves(arguments: Arguments, sources: Shapes, targets: Shapes) -> tuple[IndexMap, ...]:
        target = targets[0]
        own = min(axis, len(target) - 1)
        found, start = [], 0
        for number, source in enumerate(sources):
            first = 0 if column or len(source) > 1 or rank < 2 else min(len(source), 1)
            lifted = {d + first: d for d in range(len(source))}
            extent = source[lifted[own]] if own in lifted else 1
            index = torch.full((target[own],), -1)
            index[start : start + extent] = torch.arange(extent)
            start += extent
            blocks = [
                Block((lifted[t],) if t in lifted else (), (t,)) for t in range(len(target)) if t != own
            ]
            along = Block((lifted[own],) if own in lifted else (), (own,), index)
            found.append(IndexMap(number, 0, (*blocks, along)))
        return tuple(found)

    return moves


def lift(arguments: Arguments, sources: Shapes, targets: Shapes) -> tuple[IndexMap, ...]:
    return (IndexMap(0, 0, reshape_blocks(sources[0], targets[0])),)


def _diagonal(source: Shape, axes: tuple[int, int], offset: int, extent: int) -> IndexMap:
    """The diagonal of two dimensions becomes the last one."""
    place = torch.arange(extent)
    index = (place + max(-offset, 0)) * source[axes[1]] + place + max(offset, 0)
    rest = [d for d in range(len(source)) if d not in axes]
    return IndexMap(
        0, 0, (*identity_blocks([(d, t) for t, d in enumerate(rest)]), Block(axes, (len(rest),), index))
    )


def diagonal(arguments: Arguments, sources: Shapes, targets: Shapes) -> tuple[IndexMap, ...]:
    ndim = len(sources[0])
    axes = axis_of(arguments["dim1"], ndim), axis_of(arguments["dim2"], ndim)
    return (_diagonal(sources[0], axes, arguments["offset"], targets[0][-1]),)


def _embed(source: Shape, target: Shape, axes: tuple[int, int], offset: int) -> IndexMap:
    """The last dimension becomes the diagonal of two."""
    first, second = axes
    place = torch.arange(source[-1])
    index = torch.full((target[first] * target[second],), -1)
    index[(place + max(-offset, 0)) * target[second] + place + max(offset, 0)] = place
    rest = [t for t in range(len(target)) if t not in axes]
    return IndexMap(0, 0, (*identity_blocks(list(enumerate(rest))), Block((len(source) - 1,), axes, index)))


def diag_embed(arguments: Arguments, sources: Shapes, targets: Shapes) -> tuple[IndexMap, ...]:
    ndim = len(targets[0])
    axes = axis_of(arguments["dim1"], ndim), axis_of(arguments["dim2"], ndim)
    return (_embed(sources[0], targets[0], axes, arguments["offset"]),)


def diag(arguments: Arguments, sources: Shapes, targets: Shapes) -> tuple[IndexMap, ...]:
    offset = arguments["diagonal"]
    if len(sources[0]) == 1:
        return (_embed(sources[0], targets[0], (0, 1), offset),)
    return (_diagonal(sources[0], (0, 1), offset, targets[0][0]),)


def expand_each(arguments: Arguments, sources: Shapes, targets: Shapes) -> tuple[IndexMap, ...]:
    """`broadcast_tensors`: one result per operand."""
    pairs = enumerate(zip(sources, targets, strict=True))
    return tuple(IndexMap(n, n, expand(arguments, [s], [t])[0].blocks) for n, (s, t) in pairs)


def _grid_axis(arguments: Mapping[str, Any], number: int) -> int:
    """The dimension of a mesh grid that operand `number` runs along."""
    return {0: 1, 1: 0}.get(number, number) if arguments.get("indexing") == "xy" else number


def meshgrid(arguments: Arguments, sources: Shapes, targets: Shapes) -> tuple[IndexMap, ...]:
    moves = []
    for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
        axis = _grid_axis(arguments, number)
        blocks = [
            Block(
                tuple(range(len(source))) if t == axis else (),
                (t,),
                None if t == axis else torch.zeros(n).long(),
            )
            for t, n in enumerate(target)
        ]
        moves.append(IndexMap(number, number, tuple(blocks)))
    return tuple(moves)


def _same_grid(site: Site) -> Iterable[Constraint]:
    """All grids have the shape that all operands together give."""
    op = site.op
    reason = site.because("meshgrid repeats each of its operands along the others")
    for number, value in enumerate(op.operands):
        axis = _grid_axis(op.arguments, number)
        if value.ndim:
            yield from equal(reason, (value, 0), *((r, axis) for r in op.results))


def _same_extents(site: Site) -> Iterable[Constraint]:
    """Broadcast tensors keep one shape."""
    reason = site.because("broadcast_tensors gives all of them one shape")
    for dim in range(site.op.results[0].ndim):
        yield from equal(reason, *((r, dim) for r in site.op.results))


def _even(axis: int | None) -> Any:
    """Parts that are of equal extent because there are so many of them must stay so."""

    def couple(site: Site) -> Iterable[Constraint]:
        op, ndim = site.op, site.op.operands[0].ndim
        own = axis_of(op["dim"], ndim) if axis is None else min(axis, ndim - 1)
        if (
            "sections" in op.arguments
            and len({r.shape[own] for r in op.results}) == 1
            and len(op.results) > 1
        ):
            yield Counted(
                tuple((r.index, own) for r in op.results), site.because("parts are of equal extent")
            )

    return couple


def _conjugating() -> Rule:
    """Transposition that conjugates complex numbers."""
    rule = layout_rule(swap_last)

    def known(op: Op, facts: Facts) -> Sequence[Fact]:
        (found,) = rule.known(op, facts)
        return [Fact(found.known, found.value.conj().resolve_conj())]

    return Rule(couple=rule.couple, known=known, live=rule.live, moves=swap_last)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("movedim", "moveaxis"), layout_rule(movedim)),
    "mT": layout_rule(swap_last),
    **dict.fromkeys(("mH", "adjoint"), _conjugating()),
    "fliplr": layout_rule(flip_axis(1), arrangement="turns"),
    "flipud": layout_rule(flip_axis(0), arrangement="turns"),
    "rot90": layout_rule(rot90, arrangement="turns"),
    "tensor_split.sections": layout_rule(split, alternatives=any_of(as_split, keep_instead(_even(None)))),
    "tensor_split.indices": layout_rule(split),
    "unsafe_split_with_sizes": layout_rule(split),
    "hsplit": layout_rule(split_axis(1), extra=_even(1)),
    "vsplit": layout_rule(split_axis(0), extra=_even(0)),
    "dsplit": layout_rule(split_axis(2), extra=_even(2)),
    "hstack": layout_rule(lift_and_join(1, 1)),
    **dict.fromkeys(("vstack", "row_stack"), layout_rule(lift_and_join(0, 2))),
    "dstack": layout_rule(lift_and_join(2, 3)),
    "column_stack": layout_rule(lift_and_join(1, 2, column=True)),
    **dict.fromkeys(("atleast_2d.default", "atleast_3d.default"), layout_rule(lift)),
    "diagonal": layout_rule(diagonal),
    "diag_embed": layout_rule(diag_embed),
    "diag": layout_rule(diag),
    "broadcast_tensors": layout_rule(expand_each, extra=_same_extents),
    "meshgrid": layout_rule(meshgrid, extra=_same_grid),
}
