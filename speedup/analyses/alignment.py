"""Widths at which kernels run at full speed: keep-sets grow to what `align` asks for.

A width is how many channels a product with a weight computes or reads, within a group where
those are grouped. Once the keep-sets have settled without alignment, each class of dimensions
that are such widths gets an `Aligned` choice, so that all that is coupled with them follows.

Computed channels always come out as asked for, or whole. Channels that are only read (a part of
another layer's, or several layers' put together) do so where it takes no more than it should: a
concatenation with three input channels must not drive the rest of it back to its full extent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

import torch
from attrs import evolve, field, frozen

from speedup.engine.constraints import Aligned, Constraint, Reason
from speedup.engine.keepsets import KeepSets, grow_keep_sets
from speedup.errors import InputError
from speedup.ir.graph import Op
from speedup.rules import Rules, product_of, rule_of
from speedup.rules.site import Site
from speedup.rules.weights import KernelDim


@frozen
class Width:
    """How many channels the product of a module with its weight computes ("out") or reads ("in").

    `kept` of `total` have to stay; with `groups` > 1 both count within each of the groups. `kind` is the
    operator, such as "conv2d", "linear" or "lstm"; `path` is "" for the model's own forward. `weight` is the
    name of the weight, or of what it is made from; "" where there are several or none.
    """

    path: str
    kind: str
    side: Literal["out", "in"]
    kept: int
    total: int
    groups: int
    dtype: torch.dtype
    weight: str = field(default="", eq=False)


Choose = Callable[[Width], int]
Align = int | Choose


def chooser(align: Align) -> Choose:
    """`align` as a function of the width.

    Raises:
        InputError: it is neither a positive integer nor callable.
    """
    if callable(align):
        return align
    if isinstance(align, bool) or not isinstance(align, int) or align < 1:
        raise InputError(
            f"align={align!r} is neither a positive integer nor a function of a Width; "
            "align=8 keeps multiples of 8 channels"
        )
    return partial(next_multiple, align)


def next_multiple(multiple: int, width: Width) -> int:
    """The next multiple; groups that are all narrower than that have no width to gain."""
    if width.groups > 1 and width.total < multiple:
        return width.kept
    return -(-width.kept // multiple) * multiple


def align_name(align: Align) -> str:
    """How a report names `align`."""
    if isinstance(align, int):
        return str(align)
    return getattr(align, "__qualname__", type(align).__qualname__)


def kernel_dims(sites: Iterable[Site], rules: Rules) -> Iterable[tuple[Op, KernelDim]]:
    """Every width of the graph, with its op, in the order of the graph."""
    for site in sites:
        product = product_of(site, rules)
        for dim in () if product is None else product.kernel_dims(site):
            yield site.op, dim
        for dim in rule_of(site.op, rules).widths(site):
            yield site.op, dim


def width_of(op: Op, channels: KernelDim, kept: KeepSets) -> Width:
    """The width as `kept` has it: the most channels of any group."""
    runs = kept[channels.dim].reshape(channels.groups, -1)
    return Width(
        path=op.owner.path,
        kind=op.name,
        side=channels.side,
        kept=int(runs.sum(1).max()),
        total=runs.shape[1],
        groups=channels.groups,
        dtype=op.results[0].dtype,
        weight=channels.weight,
    )


def align_keep_sets(
    kept: KeepSets, constraints: Sequence[Constraint], widths: Iterable[tuple[Op, KernelDim]], align: Align
) -> tuple[KeepSets, tuple[Aligned, ...]]:
    """`kept` grown to the widths that `align` asks for, and the constraints that this took.

    `kept` satisfies `constraints`; dimensions that it has whole are left alone.

    Raises:
        InputError: `align` is no alignment, or returns something other than an integer.
    """
    computed, read = _alignments(kept, list(widths), chooser(align))
    found, held = _exactly(kept, constraints, computed)
    for one in read:
        width = _widest(one, found)
        target = one.wanted(width)
        if width == target:
            continue
        # No further than that: what it takes may be more than what is missing.
        until = evolve(one, wanted=partial(_until, target))
        trial, tried = _exactly(found, (*constraints, *held), [until])
        if _widest(one, trial) == target:
            found, held = trial, (*held, *tried)
    return found, held


def _exactly(
    kept: KeepSets, constraints: Sequence[Constraint], alignments: Sequence[Aligned]
) -> tuple[KeepSets, tuple[Aligned, ...]]:
    """`kept` grown under `alignments` as well, and those as they were used.

    Indices are added together. Where more come of that than were asked for, because what else they make
    grow comes back to them, it is done again, with one at a time there.
    """
    used = tuple(alignments)
    while True:
        found = grow_keep_sets(kept, constraints, used)
        overshot = {n for n, one in enumerate(used) if one.at_once and _overshot(one, kept, found)}
        if not overshot:
            return found, used
        used = tuple(evolve(one, at_once=False) if n in overshot else one for n, one in enumerate(used))


def _overshot(one: Aligned, before: KeepSets, after: KeepSets) -> bool:
    return _widest(one, after) > one.wanted(_widest(one, before))


def _until(target: int, count: int) -> int:
    return max(count, target)


def _widest(one: Aligned, kept: KeepSets) -> int:
    return int(kept[one.dim].reshape(one.groups, -1).sum(1).max())


def _alignments(
    kept: KeepSets, widths: Sequence[tuple[Op, KernelDim]], choose: Choose
) -> tuple[list[Aligned], list[Aligned]]:
    """One constraint per class of dimensions and grouping: of those that are computed, and of the others."""
    members: dict[tuple[int, int], list[tuple[Op, KernelDim]]] = {}
    for op, channels in widths:
        if not kept.is_full(channels.dim):
            members.setdefault((kept.class_of(channels.dim), channels.groups), []).append((op, channels))
    computed: list[Aligned] = []
    read: list[Aligned] = []
    for own in members.values():
        op, channels = own[0]
        wish = _Wish(tuple(width_of(*one, kept) for one in own), choose)
        one = Aligned(channels.dim, channels.groups, wish, True, Reason(op.index, "align= asks for more"))
        (computed if any(c.side == "out" for _, c in own) else read).append(one)
    return computed, read


@frozen(eq=False)
class _Wish:
    """From a count to the largest that `choose` has asked for on the way there, for any of `widths`.

    The way starts at the widths' own counts. Whatever `choose` does, this is monotone.
    """

    widths: tuple[Width, ...]
    choose: Choose
    _known: dict[int, int] = field(factory=dict, init=False)

    def __call__(self, count: int) -> int:
        first = self.widths[0]
        start = max(self._known, default=first.kept - 1) + 1
        for kept in range(start, count + 1):
            asked = max(min(_answer(evolve(w, kept=kept), self.choose), w.total) for w in self.widths)
            self._known[kept] = max(kept, asked, self._known.get(kept - 1, 0))
        return self._known[count]


def _answer(width: Width, choose: Choose) -> int:
    found = choose(width)
    if isinstance(found, bool) or not isinstance(found, int):
        raise InputError(
            f"align returned {found!r} for {width}; return how many channels to keep, an integer"
        )
    return found


def wished_width(width: Width, align: Align) -> int:
    """The width that `align` asks for, even if there are not that many channels."""
    return _answer(width, chooser(align))
