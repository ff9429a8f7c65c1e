"""What a rule is: pure functions that say how one operator treats knowledge, liveness and coupling.

A rule never changes the graph, a tensor or another rule. Everything it is not sure of it
leaves at the sound default: nothing known, everything read, every dimension pinned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, Protocol, TypeVar

from attrs import frozen
from torch import Tensor

from speedup.engine.borders import Bordered
from speedup.engine.bounds import OPEN, Bounds
from speedup.engine.constraints import Constraint, Dim, Equal, Pinned, Reason
from speedup.engine.keepsets import KeepSets
from speedup.engine.lattice import Fact, indicator, spread, unknown
from speedup.engine.layout import IndexMap
from speedup.ir.edits import Edit
from speedup.ir.graph import Op, Shape, Value
from speedup.lowerings import Alternative
from speedup.rules.site import Site
from speedup.rules.weights import NO_LAYER, KernelDim, WeightRule
from speedup.torch_api import schema_of

T = TypeVar("T")
Arrangement = Literal["plain", "turns", "pads", "joins", "copies"]
Facts = Sequence[Fact]
Lives = Sequence[Tensor]
Sizes = Callable[[Value], Shape]
Needs = Callable[["Site", Sizes, KeepSets], Mapping[str, Any]]
Alternatives = Callable[["Site", Sizes, KeepSets], Iterable[Alternative]]
Destinations = Callable[["Site", KeepSets], Iterable[tuple[Dim, Tensor, str]]]
BoundsOf = Callable[[Op, Facts], Sequence[Bounds]]
AtBorders = Callable[[Op, Sequence[Bordered | Fact]], Bordered | None]
Moves = Callable[[Mapping[str, Any], Sequence[Shape], Sequence[Shape]], tuple[IndexMap, ...]]


class Known(Protocol):
    """Transfer function: facts of the results from facts of the operands."""

    def __call__(self, op: Op, facts: Facts) -> Sequence[Fact]: ...


class Live(Protocol):
    """Transfer function: which operand elements the live result elements read."""

    def __call__(self, op: Op, facts: Facts, live: Lives) -> Sequence[Tensor]: ...


def nothing_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Every result is Unknown."""
    return tuple(unknown(r.ndim, r.dtype) for r in op.results)


def no_bounds(op: Op, facts: Facts) -> Sequence[Bounds]:
    """The results may be any numbers."""
    return (OPEN,) * len(op.results)


def everything_read(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """All operands are live as soon as any result element is."""
    flag = any(bool(one.any()) for one in live)
    return tuple(indicator(flag, v.ndim) for v in op.operands)


def all_pinned(site: Site) -> Iterable[Constraint]:
    """No dimension that the op touches may shrink."""
    reason = site.because(f"{site.op.target} has no rule that lets its dimensions shrink")
    for value in (*site.op.operands, *site.op.results):
        yield from pinned(value, range(value.ndim), reason)


def no_needs(site: Site, sizes: Sizes, kept: KeepSets) -> Mapping[str, Any]:
    """The op keeps its arguments whatever the sizes are."""
    return {}


def holds_always(site: Site, sizes: Sizes, kept: KeepSets) -> bool:
    """With the arguments it needs, the op does the same on the smaller operands."""
    return True


def no_alternatives(site: Site, sizes: Sizes, kept: KeepSets) -> Iterable[Alternative]:
    """No other call could stand for this one."""
    return ()


def any_of(*offers: Alternatives) -> Alternatives:
    """All that `offers` offer."""
    return lambda site, sizes, kept: chain.from_iterable(offer(site, sizes, kept) for offer in offers)


def keep_instead(constrain: Callable[[Site], Iterable[Constraint]]) -> Alternatives:
    """The call as it stands, under these constraints."""
    return lambda site, sizes, kept: (Alternative(constraints=tuple(constrain(site))),)


def no_resizing(site: Site, kept: KeepSets) -> Mapping[int, Shape]:
    """Every value's new shape is what its keep-sets say."""
    return {}


def no_compensation(site: Site, kept: KeepSets) -> Iterable[Edit]:
    """Nothing that was dropped counts."""
    return ()


def no_destinations(site: Site, kept: KeepSets) -> Iterable[tuple[Dim, Tensor, str]]:
    """No dropped constant goes anywhere."""
    return ()


def no_widths(site: Site) -> Iterable[KernelDim]:
    """No kernel of the op depends on other extents than those of its product."""
    return ()


def no_macs(op: Op, sizes: Sizes) -> int:
    """The op multiplies nothing worth counting."""
    return 0


@frozen(eq=False)
class Rule:
    """How one operator behaves. Omitted functions default to what is always sound.

    Attributes:
        couple: constraints between the keep-sets of the op's operands and results.
        known: facts of the results, one per result, in the results' compressed rank.
        live: bool tensors, one per operand, in the operand's compressed rank.
        bounds: between what numbers the elements of each result lie, from the bounds of the operands alone.
        at_borders: what is known of the result where it differs near the ends of an axis, from what is known
            of the operands. None where it cannot be told: the operands then count as Unknown.
        takes_borders: whether `couple` and `compensate` see to operands that differ near the ends of an axis.
        moves: for layout operators, the index maps at given arguments and shapes.
        needs: arguments that the op must have at new sizes, where they differ from now.
        holds: whether some arguments let the op still do what it has to.
        alternatives: other calls that do what this one has to, which the source is rewritten to hold, and
            constraints under which the call can stay as it is stated.
        aliases: further names under which Python calls the operator.
        arrangement: of layout operators, whether they turn, pad, join or copy along their dimensions.
        resize: shapes of values, by index, that keep-sets alone do not tell (weights in groups).
        compensate: edits that make up for dropped constants.
        destinations: where dropped constants go, for explanations: a dimension that the op reads, a bool
            vector over it with those that do, and the place in words.
        weight: what the op is as a layer, for reports, pruners and torch's own modules.
        widths: what `align` is asked about besides the channels of the product in `weight`.
        macs: multiply-accumulates at given sizes.
        is_sum: the result is the sum of the operands, unless an argument scales one of them.
        is_product: the result is the product of the operands, element by element.
        broadcasts: the operands are broadcast with one another, so that one that is the same all along a
            dimension may have an extent of 1 there.
        takes_shape: all that the result has of its first operand is the shape.
        is_local: an element of a result follows from operand elements at its own place, or `known` asks that
            they are uniform; else what is known along extents that follow the inputs has to be uniform.
        reads_sizes: what `known` says holds whatever the numbers are that the forward derives from sizes.
        is_monotone: the op is monotone, on either side of 0, in each number among its arguments. What `known`
            says at the ends of where a number derived from sizes lies, if that is the same, is known, and
            `bounds` hold that do at these ends; of other rules such a number makes all Unknown.
        reads_numbers: operands without dimensions may stand for number arguments; else an op that gets
            a number which differs from input to input keeps everything it touches.
    """

    couple: Callable[[Site], Iterable[Constraint]] = all_pinned
    known: Known = nothing_known
    live: Live = everything_read
    bounds: BoundsOf = no_bounds
    at_borders: AtBorders | None = None
    takes_borders: bool = False
    moves: Moves | None = None
    needs: Needs = no_needs
    holds: Callable[[Site, Sizes, KeepSets], bool] = holds_always
    alternatives: Alternatives = no_alternatives
    aliases: tuple[str, ...] = ()
    arrangement: Arrangement = "plain"
    resize: Callable[[Site, KeepSets], Mapping[int, Shape]] = no_resizing
    compensate: Callable[[Site, KeepSets], Iterable[Edit]] = no_compensation
    destinations: Destinations = no_destinations
    weight: WeightRule = NO_LAYER
    widths: Callable[[Site], Iterable[KernelDim]] = no_widths
    macs: Callable[[Op, Sizes], int] = no_macs
    is_sum: bool = False
    is_product: bool = False
    broadcasts: bool = False
    takes_shape: bool = False
    is_local: bool = False
    reads_sizes: bool = False
    is_monotone: bool = False
    reads_numbers: bool = False


UNKNOWN_OPERATOR = Rule()


def pinned_by_number(site: Site) -> Iterable[Constraint]:
    """No dimension may shrink of an op that gets a number nobody knows."""
    reason = site.because(reason_for(site.op, "gets a number that the forward reads from a tensor"))
    for value in (*site.op.operands, *site.op.results):
        yield from pinned(value, range(value.ndim), reason)


OPEN_NUMBER = Rule(couple=pinned_by_number)


def pinned(
    value: Value, dims: Iterable[int], reason: Reason, indices: Tensor | None = None
) -> Iterable[Pinned]:
    """Pin `dims` of `value`; extents of 1 need none."""
    return (Pinned((value.index, d), reason, indices) for d in dims if value.shape[d] != 1)


def equal(reason: Reason, *dims: tuple[Value, int]) -> Iterable[Equal]:
    """One equality between dims of the same extent; extents of 1 need none."""
    first, axis = dims[0]
    if len(dims) > 1 and first.shape[axis] != 1:
        yield Equal(tuple((v.index, d % v.ndim) for v, d in dims), reason)


def matched(reason: Reason, values: Sequence[Value], dims: Iterable[int]) -> Iterable[Equal]:
    """One equality per dim of `dims` between `values` of one rank; those broadcast along it have no part."""
    for dim in dims:
        extent = max(v.shape[dim] for v in values)
        yield from equal(reason, *((v, dim) for v in values if v.shape[dim] == extent))


def full_values(op: Op, facts: Facts) -> list[Tensor]:
    """The operands' values at full shape (views)."""
    return [spread(f.value, v.shape, range(v.ndim)) for f, v in zip(facts, op.operands, strict=True)]


def named_fact(op: Op, facts: Facts, name: str) -> Fact | None:
    """What is known of the operand that the operator calls `name`; None when it was not given."""
    position = op.position(name)
    return None if position is None else facts[position]


def reason_for(op: Op, what: str) -> str:
    """A uniform wording for reasons: the operator's short name, then what it does."""
    return f"{schema_of(op.target).name.split('::')[-1].rstrip('_')} {what}"
