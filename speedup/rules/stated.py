"""Arguments that layout operators have to be given once some of what they move is gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from torch import Tensor

from speedup.engine.keepsets import KeepSets
from speedup.engine.layout import restrict_index
from speedup.ir.graph import Op
from speedup.lowerings import Alternative, SplitSizes, TakeIndices
from speedup.rules.moves import moves_at
from speedup.rules.rule import Alternatives, Moves, Needs, Sizes
from speedup.rules.site import Site

_NO_END = 2**62


def stated_result_sizes(name: str) -> Needs:
    """The argument `name` lists the result's sizes; a size that was left open (-1) stays so."""

    def needs(site: Site, sizes: Sizes, kept: KeepSets) -> Mapping[str, Any]:
        op = site.op
        return {name: tuple(n if n == -1 else m for n, m in zip(op[name], sizes(op.result), strict=True))}

    return needs


def unflatten_sizes(site: Site, sizes: Sizes, kept: KeepSets) -> Mapping[str, Any]:
    """`unflatten` lists the sizes of the dimensions that one becomes."""
    op = site.op
    first = op["dim"] % op.operands[0].ndim
    made = sizes(op.result)[first : first + len(op["sizes"])]
    return {"sizes": tuple(n if n == -1 else m for n, m in zip(op["sizes"], made, strict=True))}


def split_sizes(site: Site, sizes: Sizes, kept: KeepSets) -> Mapping[str, Any]:
    """`split_with_sizes` lists the extents of its results."""
    op = site.op
    axis = op["dim"] % op.operands[0].ndim
    return {"split_sizes": tuple(sizes(r)[axis] for r in op.results)}


def split_size(site: Site, sizes: Sizes, kept: KeepSets) -> Mapping[str, Any]:
    """`split` gives the extent of all results but the last, which may be smaller."""
    op = site.op
    axis = op["dim"] % op.operands[0].ndim
    return {"split_size": max(sizes(r)[axis] for r in op.results)}


def _kept(op: Op, kept: KeepSets) -> Tensor:
    data = op.operands[0]
    return kept[(data.index, op["dim"] % data.ndim)]


def _moved(position: int, kept: Tensor) -> int:
    """Where `position`, counted from either end, lies among the kept indices."""
    if position < 0:
        return -int(kept[position:].sum())
    return position if position > _NO_END else int(kept[:position].sum())


def slice_bounds(site: Site, sizes: Sizes, kept: KeepSets) -> Mapping[str, Any]:
    """A slice's bounds, counted in kept indices."""
    op = site.op
    if op["step"] != 1:
        return {}
    own = _kept(op, kept)
    return {n: op[n] if op[n] is None else _moved(op[n], own) for n in ("start", "end")}


def narrow_bounds(site: Site, sizes: Sizes, kept: KeepSets) -> Mapping[str, Any]:
    """`narrow`'s start and length, counted in kept indices."""
    op = site.op
    if not isinstance(op["start"], int):
        return {}
    own, start, length = _kept(op, kept), op["start"], op["length"]
    first = start % own.numel()
    return {"start": _moved(start, own), "length": int(own[first : first + length].sum())}


def select_index(site: Site, sizes: Sizes, kept: KeepSets) -> Mapping[str, Any]:
    """`select`'s index among the kept indices."""
    op = site.op
    return {"index": _moved(op["index"], _kept(op, kept))}


def pad_amounts(site: Site, sizes: Sizes, kept: KeepSets) -> Mapping[str, Any]:
    """Of a border of constants, or of what is cropped, as much as is kept."""
    op = site.op
    if op.get("mode", "constant") != "constant":
        return {}
    amounts: list[int] = []
    for number, amount in enumerate(op["pad"]):
        axis = op.result.ndim - 1 - number // 2
        own, made = (kept[(value.index, axis)] for value in (op.operands[0], op.result))
        if number % 2:
            own, made = own.flip(0), made.flip(0)
        amounts.append(int(made[:amount].sum()) if amount > 0 else -int(own[:-amount].sum()))
    return {"pad": tuple(amounts)}


def as_split(site: Site, sizes: Sizes, kept: KeepSets) -> Iterable[Alternative]:
    """Chunks that are no longer equal are a split with sizes."""
    op = site.op
    axis = op["dim"] % op.operands[0].ndim
    yield Alternative(SplitSizes(tuple(sizes(r)[axis] for r in op.results), op["dim"]))


def as_indices(moves: Moves) -> Alternatives:
    """What is left of an irregular selection along one dimension is a list of indices."""

    def offer(site: Site, sizes: Sizes, kept: KeepSets) -> Iterable[Alternative]:
        op = site.op
        (index_map,) = moves_at(op, moves)
        found = [b for b in index_map.blocks if not b.is_plain]
        if len(found) != 1 or len(found[0].source) != 1 or len(found[0].target) != 1:
            return
        (block,) = found
        source = kept[(op.operands[0].index, block.source[0])]
        target = kept[(op.result.index, block.target[0])]
        read = restrict_index(block.index, source, target)
        if read is None or bool((read < 0).any()):
            return
        yield Alternative(TakeIndices(tuple(read.tolist()), block.source[0]), cost=prod(sizes(op.result)))

    return offer
