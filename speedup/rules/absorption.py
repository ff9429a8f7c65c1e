"""What a contraction does about constant input channels that are dropped: compensate for them, or keep them.

A dropped channel that is Known(c) for every input still counts. In order of preference its
contribution goes

1. into a bias, where it is the same at every position: an existing bias of its own, the
   running mean of the BatchNorm that alone reads the result, or a new bias;
2. into a *carrier*: one kept constant channel, whose weights take over those of the channels
   that are multiples of it. Exact at every resolution, also under zero padding, where the
   contribution varies near the border;
3. into a *basis*: a few kept constant channels, of which those that differ near the ends of
   an axis are sums of multiples; or, where planning says that it pays, into a *map* that is
   added to the result;
4. nowhere: the channel stays, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from attrs import evolve, frozen
from torch import Tensor

from speedup.engine.constraints import Carrier, Constraint, Dim, Pinned, Spanned, carrier_of
from speedup.engine.keepsets import KeepSets
from speedup.engine.lattice import any_along, to_double
from speedup.ir.edits import (
    AddToParameter,
    CombineColumns,
    ConstantTensor,
    Edit,
    MergeColumns,
    NewBias,
    SliceGroups,
)
from speedup.ir.graph import Op, Origin, Value
from speedup.rules.borders import convolve
from speedup.rules.contraction import (
    CONVOLUTION,
    LINEAR,
    Contraction,
    contraction_couple,
    contraction_known,
    contraction_live,
    contraction_macs,
    contraction_needs,
    contraction_resize,
    describe_contraction,
    read_columns,
    row_sums,
)
from speedup.rules.rule import Rule
from speedup.rules.site import Site
from speedup.torch_api import schema_of


@frozen
class BiasTarget:
    """Where a new constant contribution to every result position can be added."""

    name: str
    sign: float
    path: str | None
    words: str


@frozen(eq=False)
class Compensation:
    """Constant channels of the data that count if dropped: which, how large, and what can take them over.

    `profiles` are the channels' constants over positions or classes of positions, in all calls that share the
    weight one after the other; `value` those at the first position. `by_bias`, `by_carrier`, `by_basis`,
    `by_map` and `uncompensated` are disjoint bool vectors over the data's channels. Of the ops that share the
    weight the one that `is_first` does it.
    """

    profiles: Tensor
    by_bias: Tensor
    by_carrier: Tensor
    by_basis: Tensor
    by_map: Tensor
    uncompensated: Tensor
    families: tuple[Tensor, ...]
    bias_target: BiasTarget | None
    is_first: bool

    @property
    def value(self) -> Tensor:
        return self.profiles[:, 0]

    @property
    def magnitude(self) -> Tensor:
        return to_double(self.profiles).abs().amax(1)


def _batch_norm_after(site: Site, together: tuple[int, ...]) -> Value | None:
    """The running mean of the BatchNorm that alone reads the op's result, if it can be shifted.

    The BatchNorm has to run as often as the op does, which is `together` with others.
    """
    result = site.op.result
    readers = site.graph.readers[result.index]
    if len(readers) != 1 or result in site.graph.outputs:
        return None
    reader = site.graph.ops[readers[0]]
    if schema_of(reader.target).name != "aten::batch_norm" or reader["training"]:
        return None
    mean = reader.arguments.get("running_mean")
    if not isinstance(mean, Value) or mean.origin is not Origin.BUFFER or reader.operands[0] is not result:
        return None
    return mean if len(site.graph.counterparts(mean, reader)) == len(together) else None


def _together(site: Site, shape: Contraction) -> tuple[int, ...]:
    """The ops that have the weight and the bias in common, this one among them: one in each call at most."""
    by_weight, by_bias = site.counterparts(shape.weight), site.counterparts(shape.bias)
    found = by_weight or by_bias
    if by_weight and by_bias and by_weight != by_bias:
        return ()
    # What other calls make of a weight that is computed cannot be told.
    return found or ((site.op.index,) if len(site.graph.starts) == 1 else ())


def _bias_target_of(site: Site, together: tuple[int, ...]) -> BiasTarget | None:
    """The cheapest place that can take a constant, None when there is none."""
    shape = describe_contraction(site.op)
    if shape.bias is not None and site.counterparts(shape.bias):
        return BiasTarget(shape.bias.name, 1.0, None, f"bias of {site.op.owner.path or 'the forward'}")
    mean = _batch_norm_after(site, together)
    if mean is not None:
        return BiasTarget(mean.name, -1.0, None, f"running mean {mean.name}")
    if shape.bias is None and site.may_add_bias and site.counterparts(shape.weight):
        return BiasTarget("", 1.0, site.op.owner.path, f"new bias of {site.op.owner.path}")
    return None


def bias_target_of(site: Site) -> BiasTarget | None:
    """The cheapest place, the same for all ops that share the weight, that can take a constant."""
    together = _together(site, describe_contraction(site.op))
    bias_targets = {_bias_target_of(site.at(op), together) for op in together}
    return bias_targets.pop() if len(bias_targets) == 1 else None


def compensation_of(site: Site) -> Compensation | None:
    """What dropping constant channels would cost at this op; None when nothing."""
    return site.once("compensation", lambda: _compensation(site))


@frozen(eq=False)
class _Read:
    """What one op reads of its data, channel by channel: whether it is known and counts, and its profile."""

    columns: Tensor
    known: Tensor
    profiles: Tensor

    @classmethod
    def of(cls, site: Site) -> _Read:
        shape = describe_contraction(site.op)
        bordered, extent = site.bordered(shape.data), shape.data.shape[shape.axis]
        columns = read_columns(shape, site.fact(shape.weight), site.live(site.op.result))
        known = ~any_along(~site.known(shape.data), shape.axis, extent)
        if bordered is not None:
            return cls(columns, known, bordered.constants(shape.axis, extent))
        return cls(columns, known, _profiles(shape, site.fact(shape.data).value))

    @property
    def counts(self) -> Tensor:
        return self.known & (self.profiles != 0).any(1) & self.columns


def _compensation(site: Site) -> Compensation | None:
    shape = describe_contraction(site.op)
    if shape.is_depthwise or not _is_partly_known(site):
        return None
    together = _together(site, shape)
    sites = [site.at(op) for op in together or (site.op.index,)]
    reads = [_Read.of(one) for one in sites]
    counts, profiles = _join_reads(reads)
    if not bool(counts.any()):
        return None
    usable = bool(together) and site.fact(shape.weight).is_all_known()
    borders = any(describe_contraction(one.op).border for one in sites)
    bias_target = bias_target_of(site) if usable and not borders else None
    uniform = (profiles == profiles[:, :1]).all(1)
    by_bias = counts & uniform if bias_target is not None else torch.zeros_like(counts)
    rest = counts & ~by_bias
    # Factors are real numbers.
    carries = usable and not profiles.is_complex() and bool(site.counterparts(shape.weight))
    none = torch.zeros_like(rest)
    carried, left = (rest, none) if carries else (none, rest)
    by_carrier, by_border = (none, carried) if _has_borders(sites) else (carried, none)
    by_basis, by_map = (none, by_border) if site.is_mapped else (by_border, none)
    families = tuple(_families(shape, profiles, by_carrier)) if bool(by_carrier.any()) else ()
    is_first = next(one.op.index for one in sites if _is_partly_known(one)) == site.op.index
    ways = (by_bias, by_carrier, by_basis, by_map, left)
    return Compensation(profiles, *ways, families, bias_target, is_first)


def _is_partly_known(site: Site) -> bool:
    data = describe_contraction(site.op).data
    return not site.fact(data).is_unknown or site.bordered(data) is not None


def _has_borders(sites: Iterable[Site]) -> bool:
    return any(site.bordered(describe_contraction(site.op).data) is not None for site in sites)


def _join_reads(reads: list[_Read]) -> tuple[Tensor, Tensor]:
    """Of ops that share a weight: which channels count, and their profiles one after the other.

    What one op does not read may be any constant there; it is taken for what another reads.
    """
    counts, profiles = reads[0].counts, reads[0].profiles
    if len(reads) == 1:
        return counts, profiles
    first, seen = profiles[:, :1], reads[0].columns
    for one in reads[1:]:
        first = torch.where(seen[:, None], first, one.profiles[:, :1])
        seen = seen | one.columns
    for one in reads[1:]:
        counts = counts | one.counts
    # What one of them needs is kept anyway.
    for one in reads:
        counts = counts & (one.known | ~one.columns)
    parts: list[Tensor] = []
    for one in reads:
        part = torch.where(one.columns[:, None], one.profiles, first)
        # Calls that read the same constants, as all do that read the same table, say nothing new.
        if not any(torch.equal(part, other) for other in parts):
            parts.append(part)
    return counts, torch.cat(parts, 1)


def _profiles(shape: Contraction, value: Tensor) -> Tensor:
    """(channels, positions): each channel's constants over positions, compressed."""
    wanted = list(value.shape)
    wanted[shape.axis] = shape.data.shape[shape.axis]
    return value.expand(wanted).movedim(shape.axis, 0).unsqueeze(-1).flatten(1)


def _families(shape: Contraction, profiles: Tensor, members: Tensor) -> Iterable[Tensor]:
    """Split `members` into channels of one conv group that are multiples of one another."""
    peak = profiles.abs().argmax(1, keepdim=True)
    normal = profiles / profiles.gather(1, peak)
    width = members.numel() // shape.groups
    group = torch.arange(members.numel()) // width
    tolerance = 16 * torch.finfo(profiles.dtype).eps if profiles.is_floating_point() else 0.0
    mean = normal.mean(1)
    # Means of rows that are alike differ by no more than the rows do, but for how they were summed.
    margin = tolerance + normal.shape[1] * torch.finfo(normal.dtype).eps
    left = members.clone()
    while bool(left.any()):
        first = int(left.nonzero()[0])
        family = left & (group == group[first]) & ((mean - mean[first]).abs() <= margin)
        near = family.nonzero().reshape(-1)
        family[near] = (normal[near] - normal[first]).abs().amax(1) <= tolerance
        family[first] = True
        left &= ~family
        yield family


def absorbing_couple(site: Site) -> Iterable[Constraint]:
    """The contraction's coupling, and what its dropped constants demand."""
    yield from contraction_couple(site)
    compensation = compensation_of(site)
    if compensation is None:
        return
    shape = describe_contraction(site.op)
    dim = (shape.data.index, shape.axis)
    if bool(compensation.uncompensated.any()):
        if site.fact(shape.weight).is_all_known():
            reason = site.because("reads constants that neither a bias nor another channel can take over")
        else:
            reason = site.because(f"the numbers of {shape.weight.name}, to fold constants, are not at hand")
        yield Pinned(dim, reason, compensation.uncompensated)
    if compensation.families:
        reason = site.because("a padded constant needs one channel to carry it")
        rows = (site.op.result.index, shape.result_axis)
        yield Carrier(dim, compensation.families, compensation.magnitude, rows, shape.groups, reason)
    if bool(compensation.by_basis.any()):
        yield spanned_of(site, compensation)


def spanned_of(site: Site, compensation: Compensation) -> Spanned:
    """What the channels that are carried by a basis demand."""
    return site.once("spanned", lambda: _make_spanned(site, compensation))


def _make_spanned(site: Site, compensation: Compensation) -> Spanned:
    shape = describe_contraction(site.op)
    return Spanned(
        (shape.data.index, shape.axis),
        compensation.by_basis,
        compensation.profiles,
        compensation.bias_target is not None,
        (site.op.result.index, shape.result_axis),
        shape.groups,
        site.because("constants that differ near borders need a few channels to carry them"),
    )


def absorbing_compensate(site: Site, kept: KeepSets) -> Iterable[Edit]:
    """Edits that make up for the dropped constants, and the slices of a grouped weight."""
    shape = describe_contraction(site.op)
    columns = kept[(shape.data.index, shape.axis)]
    compensation = None if bool(columns.all()) else compensation_of(site)
    if compensation is not None and compensation.is_first:
        combined = tuple(_into_basis(site, shape, compensation, columns))
        zero = torch.zeros((), dtype=compensation.profiles.dtype)
        constants = torch.where(compensation.by_bias & ~columns, compensation.value, zero)
        constants = sum((rest for _, rest in combined), constants)
        if compensation.bias_target is not None and bool((constants != 0).any()):
            yield from _into_bias(site, shape, compensation.bias_target, constants, kept)
        yield from (edit for edit, _ in combined)
        for family in compensation.families:
            if bool((family & ~columns).any()):
                yield from _into_carrier(shape, compensation, family, columns)
    is_first = site.counterparts(shape.weight)[:1] in ((), (site.op.index,))
    if shape.groups > 1 and not shape.is_depthwise and is_first:
        yield from _slice_groups(shape, kept, site.op)


def absorbing_destinations(site: Site, kept: KeepSets) -> Iterable[tuple[Dim, Tensor, str]]:
    """The dropped channels of the data that `absorbing_compensate` makes up for."""
    shape = describe_contraction(site.op)
    dim = (shape.data.index, shape.axis)
    columns = kept[dim]
    compensation = None if bool(columns.all()) else compensation_of(site)
    if compensation is None:
        return
    if compensation.bias_target is not None:
        yield dim, compensation.by_bias & ~columns, compensation.bias_target.words
    for family in compensation.families:
        into = carrier_of(family, columns, compensation.magnitude)
        if into is not None:
            yield (
                dim,
                family & ~columns,
                f"channel {into} of what {site.op.owner.path or 'the forward'} reads",
            )
    if bool(compensation.by_basis.any()):
        words = f"a few channels of what {site.op.owner.path or 'the forward'} reads"
        yield dim, compensation.by_basis & ~columns, words
    if bool(compensation.by_map.any()):
        words = f"a map of {site.op.owner.path or 'the forward'}"
        yield dim, compensation.by_map & ~columns, words


def _into_bias(
    site: Site, shape: Contraction, bias_target: BiasTarget, constants: Tensor, kept: KeepSets
) -> Iterable[Edit]:
    """`constants` are what each dropped channel is, at every position; 0 of the others."""
    rows = kept[(site.op.result.index, shape.result_axis)]
    delta = row_sums(shape, site.fact(shape.weight), constants, rows) * bias_target.sign
    why = f"{int((constants != 0).sum())} constant channels into {bias_target.words}"
    if bias_target.path is None:
        yield AddToParameter(bias_target.name, ConstantTensor(delta), why)
    else:
        yield NewBias(bias_target.path, ConstantTensor(delta[rows]), why)


def _into_carrier(
    shape: Contraction, compensation: Compensation, family: Tensor, columns: Tensor
) -> Iterable[Edit]:
    profiles = compensation.profiles.double()
    into = carrier_of(family, columns, compensation.magnitude)
    if into is None:
        return
    peak = int(profiles[into].abs().argmax())
    gone = (family & ~columns).nonzero().reshape(-1)
    factors = tuple(float(f) for f in profiles[gone, peak] / profiles[into, peak])
    offset, rows = _place_of(shape, into)
    yield MergeColumns(
        shape.weight.name,
        shape.column_dim,
        into - offset,
        tuple(int(c) - offset for c in gone),
        factors,
        rows,
        f"{len(factors)} constant channels into channel {into}",
    )


def _place_of(shape: Contraction, channel: int) -> tuple[int, tuple[int, int] | None]:
    """Which channel of the data is column 0 of the rows that read `channel`, and which rows; None: all."""
    if shape.groups == 1 or shape.transposed:
        return 0, None
    width, height = shape.data.shape[shape.axis] // shape.groups, shape.rows // shape.groups
    group = channel // width
    return group * width, (group * height, (group + 1) * height)


def _into_basis(
    site: Site, shape: Contraction, compensation: Compensation, columns: Tensor
) -> Iterable[tuple[CombineColumns, Tensor]]:
    """For each group of channels what its basis takes over, and (channels,) what is left of each beside that:
    the same at every position.
    """
    spanned = spanned_of(site, compensation)
    width = columns.numel() // shape.groups
    group_of = torch.arange(columns.numel()) // width
    dropped = compensation.by_basis & ~columns
    for group in sorted(set(group_of[dropped].tolist())):
        gone = (dropped & (group_of == group)).nonzero().reshape(-1)
        basis = spanned.basis(group, columns)
        factors, rest = spanned.factors(gone, basis)
        offset, rows = _place_of(shape, int(gone[0]))
        edit = CombineColumns(
            shape.weight.name,
            shape.column_dim,
            tuple((basis - offset).tolist()),
            tuple((gone - offset).tolist()),
            ConstantTensor(factors),
            rows,
            f"{len(gone)} constants that differ near borders into {len(basis)} channels",
        )
        yield edit, torch.zeros(columns.numel()).double().index_copy(0, gone, rest)


def _slice_groups(shape: Contraction, kept: KeepSets, op: Op) -> Iterable[Edit]:
    columns = kept[(shape.data.index, shape.axis)]
    rows = kept[(op.result.index, shape.result_axis)]
    if bool(columns.all()) and bool(rows.all()):
        return
    outer, inner = (columns, rows) if shape.transposed else (rows, columns)
    runs = inner.reshape(shape.groups, -1)
    height = outer.numel() // shape.groups
    kept_rows = [int(r) for r in outer.nonzero().reshape(-1)]
    per_group = [tuple(int(c) for c in run.nonzero().reshape(-1)) for run in runs]
    yield SliceGroups(shape.weight.name, tuple(kept_rows), tuple(per_group[r // height] for r in kept_rows))


CONVOLVING = Rule(
    couple=absorbing_couple,
    known=contraction_known,
    live=contraction_live,
    at_borders=convolve,
    takes_borders=True,
    needs=lambda site, sizes, kept: contraction_needs(site.op, sizes),
    resize=contraction_resize,
    compensate=absorbing_compensate,
    destinations=absorbing_destinations,
    weight=CONVOLUTION,
    macs=contraction_macs,
    is_local=True,
    reads_sizes=True,
)

RULES: dict[str, Rule] = {
    "linear": evolve(CONVOLVING, weight=LINEAR),
    **{f"conv{n}d": CONVOLVING for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": CONVOLVING for n in (1, 2, 3)},
    "convolution": CONVOLVING,
}
