"""Products with a weight: linear, convolutions, transposed convolutions, matmul with a matrix.

All of them are one thing here: `result[.., r, ..] = bias[r] + sum_c weight[r, c] * data[.., c, ..]`
in groups of rows r and columns c, where a convolution's weight[r, c] is a kernel. Everything
is decided on the *pattern* of the weight: which (row, column) pairs may be non-zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from speedup.engine.constraints import Balanced, Constraint, Pinned
from speedup.engine.keepsets import KeepSets
from speedup.engine.lattice import (
    Fact,
    any_along,
    any_both,
    any_over,
    fact,
    indicator,
    pieces,
    state_along,
    to_double,
    vector,
)
from speedup.ir.expressions import Derived
from speedup.ir.graph import Op, Shape, Value
from speedup.rules.rule import Facts, Lives, Sizes, equal, nothing_known, pinned, reason_for
from speedup.rules.site import Site
from speedup.rules.weights import Attributes, Product, WeightRule
from speedup.torch_api import ConvNd


@frozen(eq=False)
class Contraction:
    """How an op's operands take part in the product.

    `axis` is the channel dimension of data, `result_axis` that of the result; `row_dim` and
    `column_dim` are those of the weight. With `groups` > 1 the weight's `inner_dim` counts
    within a group. `border`: a constant input gives a result that varies over positions.
    """

    data: Value
    weight: Value
    bias: Value | None
    axis: int
    result_axis: int
    row_dim: int
    column_dim: int
    groups: int = 1
    border: bool = False
    transposed: bool = False

    @property
    def rows(self) -> int:
        """Number of result channels."""
        extent = self.weight.shape[self.row_dim]
        return extent * self.groups if self.transposed else extent

    @property
    def is_depthwise(self) -> bool:
        """One row and one column per group."""
        return self.groups > 1 and self.groups == self.rows == self.data.shape[self.axis]


def _has_border(op: Op, weight: Value) -> bool:
    if op.follows_sizes("padding"):
        return True
    padding = op.get("padding")
    if padding == "same":
        return any(n > 1 for n in weight.shape[2:])
    return isinstance(padding, tuple) and any(padding)


def describe_contraction(op: Op) -> Contraction:
    """The product that `op`, one of the operators of this family, computes."""
    return op.once("contraction", lambda: _describe_contraction(op))


def _describe_contraction(op: Op) -> Contraction:
    operands = op.operands
    name = op.name
    if name == "linear":
        data, weight = operands[0], operands[1]
        bias = operands[2] if len(operands) > 2 else None
        return Contraction(data, weight, bias, data.ndim - 1, op.result.ndim - 1, 0, 1)
    if name == "addmm":
        bias, data, weight = operands
        return Contraction(data, weight, bias if bias.ndim == 1 else None, 1, 1, 1, 0)
    if name in ("mm", "matmul"):
        data, weight = operands
        return Contraction(data, weight, None, data.ndim - 1, op.result.ndim - 1, 1, 0)
    data, weight = operands[0], operands[1]
    bias = operands[2] if len(operands) > 2 else None
    transposed = name.startswith("conv_transpose") or bool(op.get("transposed"))
    axis = data.ndim - weight.ndim + 1
    rows, columns = (1, 0) if transposed else (0, 1)
    border = transposed or _has_border(op, weight)
    return Contraction(data, weight, bias, axis, axis, rows, columns, op["groups"], border, transposed)


def pattern(shape: Contraction, weight: Fact) -> Tensor:
    """Bool (groups, rows per group, columns per group), compressed: kernels that may be non-zero."""
    return weight.memo(
        f"pattern {shape.groups} {shape.row_dim}", lambda: _by_group(shape, weight.maybe_nonzero, "any")
    )


def row_sums(shape: Contraction, weight: Fact, value: Tensor, rows: Tensor) -> Tensor:
    """What data that is `value` (extent of the channels) at every position adds to each row, in double
    precision.

    `rows` are those that are asked about; what it says of the others means nothing.
    """
    if shape.groups > 1:
        kernels = _by_group(shape, to_double(weight.value.expand(shape.weight.shape)), "sum")
        return torch.bmm(kernels, to_double(value).reshape(shape.groups, -1, 1)).reshape(-1)
    columns = value.nonzero().reshape(-1)
    wanted = rows.nonzero().reshape(-1)
    data = to_double(value[columns])
    total = torch.zeros(shape.rows, dtype=to_double(weight.raw[:0]).dtype)
    width = len(columns) * prod(shape.weight.shape[2:])
    # They get twice as wide.
    for piece in pieces(len(wanted), 2 * len(wanted) * width):
        picks = {shape.row_dim: wanted[piece], shape.column_dim: columns}
        kernels = _by_group(shape, to_double(weight.pick(shape.weight.shape, picks)), "sum")
        total[wanted[piece]] = kernels[0] @ data
    return total


def _by_group(shape: Contraction, tensor: Tensor, how: str) -> Tensor:
    """Reduce the kernel dimensions of a weight's (compressed) tensor and split its groups."""
    reduced = tensor
    if tensor.ndim > 2:
        flat = tensor.flatten(2)
        reduced = any_over(flat, [-1]).squeeze(-1) if how == "any" else flat.sum(-1)
    if shape.groups == 1:
        return reduced.t()[None] if shape.row_dim == 1 else reduced[None]
    split = reduced[None] if reduced.shape[0] == 1 else reduced.reshape(shape.groups, -1, reduced.shape[1])
    return split.transpose(1, 2) if shape.transposed else split


def _other(ndim: int, axis: int) -> list[int]:
    return [d for d in range(ndim) if d != axis]


def channel_state(shape: Contraction, data: Fact) -> tuple[Tensor, Tensor, Tensor]:
    """Per channel of data: known at every position; uniform over positions; the value if so."""
    return state_along(data, shape.axis, shape.data.shape[shape.axis])


def contraction_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """A row is known when every column it really reads is a uniform constant."""
    shape = describe_contraction(op)
    data, weight = facts[op.operands.index(shape.data)], facts[op.operands.index(shape.weight)]
    reads = pattern(shape, weight)
    if data.is_unknown:
        reached = rows_where(shape, reads)
        if bool(reached.all()):
            return nothing_known(op, facts)
        total = torch.zeros(shape.rows, dtype=torch.float64)
    else:
        known, uniform, value = channel_state(shape, data)
        settled = known & uniform & ((value == 0) | (not shape.border))
        blocked = ~settled.reshape(shape.groups, 1, -1)
        reached = _rows_that_meet(shape, reads, blocked)
        usable = torch.where(settled, value, torch.zeros((), dtype=value.dtype))
        if not weight.is_all_known():
            # Known reads go through known weights only.
            counts = (usable != 0).reshape(shape.groups, 1, -1)
            reached = reached | _rows_that_meet(shape, _by_group(shape, ~weight.known, "any"), counts)
        asked = ~reached & rows_where(shape, reads)
        total = torch.zeros(shape.rows).double()
        if bool(usable.any()) and bool(asked.any()):
            total = row_sums(shape, weight, usable, asked)
    bias = None if shape.bias is None else facts[op.operands.index(shape.bias)]
    if bias is not None:
        total = total + to_double(bias.value.expand(shape.rows))
        reached = reached | ~bias.known.expand(shape.rows)
    ndim, axis = op.result.ndim, shape.result_axis
    return (fact(vector(~reached, axis, ndim), vector(total.to(op.result.dtype), axis, ndim)),)


def rows_where(shape: Contraction, kernels: Tensor) -> Tensor:
    """Bool vector over the rows: those of which any of `kernels` (groups, rows, columns) is True."""
    return _rows_that_meet(shape, kernels, indicator(True, 3))


def _rows_that_meet(shape: Contraction, kernels: Tensor, columns: Tensor) -> Tensor:
    """Those of which any of `kernels` is True at one of `columns` (groups, 1, columns)."""
    found = any_both(kernels, columns, 2).squeeze(2)
    return found.expand(shape.groups, shape.rows // shape.groups).reshape(-1)


def read_columns(shape: Contraction, weight: Fact, live_result: Tensor) -> Tensor:
    """Bool per data channel: whether a live result channel reads it."""
    rows = any_along(live_result, shape.result_axis, shape.rows).reshape(shape.groups, -1, 1)
    reads = pattern(shape, weight)
    if bool(rows.all()):
        key = f"columns {shape.groups} {shape.row_dim}"
        columns = weight.memo(key, lambda: any_over(reads, [1]).squeeze(1))
    else:
        columns = any_both(reads, rows, 1).squeeze(1)
    return columns.expand(shape.groups, shape.data.shape[shape.axis] // shape.groups).reshape(-1)


def contraction_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    shape = describe_contraction(op)
    columns = read_columns(shape, facts[op.operands.index(shape.weight)], live[0])
    rows = any_along(live[0], shape.result_axis, shape.rows)
    reads = []
    for value in op.operands:
        if value is shape.data:
            reads.append(vector(columns, shape.axis, value.ndim))
        elif value is shape.weight:
            alive = indicator(bool(rows.any()), value.ndim)
            reads.append(alive if shape.transposed else vector(rows, shape.row_dim, value.ndim))
        else:
            reads.append(vector(rows, value.ndim - 1, value.ndim) if value.ndim else indicator(True, 0))
    return tuple(reads)


def contraction_couple(site: Site) -> Iterable[Constraint]:
    """Rows with result channels and bias, columns with data channels, groups balanced."""
    shape, result = describe_contraction(site.op), site.op.result
    reason = site.because(reason_for(site.op, "ties its weight to its input and output channels"))
    bias = [] if shape.bias is None else [(shape.bias, 0)]
    for own in _other(shape.data.ndim, shape.axis):
        if shape.data.shape[own] == result.shape[own] and own < shape.axis:
            yield from equal(reason, (shape.data, own), (result, own))
    space = site.because(reason_for(site.op, "works on windows of space"))
    for value in (shape.data, result):
        yield from pinned(value, range(shape.axis + 1, value.ndim), space)
    yield from pinned(shape.weight, range(2, shape.weight.ndim), space)
    rows, columns = (result, shape.result_axis), (shape.data, shape.axis)
    if shape.groups == 1:
        yield from equal(reason, rows, (shape.weight, shape.row_dim), *bias)
        yield from equal(reason, columns, (shape.weight, shape.column_dim))
    elif shape.is_depthwise:
        yield from equal(reason, rows, columns, (shape.weight, 0), *bias)
    else:
        yield from _couple_groups(site, shape)


def _couple_groups(site: Site, shape: Contraction) -> Iterable[Constraint]:
    result, weight = site.op.result, shape.weight
    rows, columns = (result, shape.result_axis), (shape.data, shape.axis)
    reason = site.because("groups of a convolution must have equal counts of channels")
    bias = [] if shape.bias is None else [(shape.bias, 0)]
    yield from equal(reason, rows, *bias)
    together = site.counterparts(weight)
    if not together:
        shared = site.because("a grouped weight that something else reads too stays whole")
        yield from pinned(weight, range(weight.ndim), shared)
        yield Pinned((columns[0].index, columns[1]), shared)
        yield Pinned((rows[0].index, rows[1]), shared)
        return
    outer = columns if shape.transposed else rows
    yield from equal(reason, outer, (weight, 0))
    yield from pinned(weight, [1], reason)
    changeable = isinstance(site.op.arguments["groups"], Derived)
    dims = ((columns[0].index, columns[1]), (rows[0].index, rows[1]))
    if site.op.index != together[0]:
        # Each group of the weight has one set of columns, whichever call it is.
        first = describe_contraction(site.graph.ops[together[0]])
        result_of_first = site.graph.ops[together[0]].result
        yield from equal(reason, columns, (first.data, first.axis))
        yield from equal(reason, rows, (result_of_first, first.result_axis))
    yield Balanced(dims, shape.groups, reason, fixed=not changeable)


def contraction_resize(site: Site, kept: KeepSets) -> Mapping[int, Shape]:
    """A grouped weight's inner dimension counts what one surviving group keeps."""
    shape = describe_contraction(site.op)
    if shape.groups == 1 or shape.is_depthwise:
        return {}
    columns = kept[(shape.data.index, shape.axis)]
    rows = kept[(site.op.result.index, shape.result_axis)]
    outer, inner = (columns, rows) if shape.transposed else (rows, columns)
    width = int(inner.reshape(shape.groups, -1).sum(1).max())
    return {shape.weight.index: (int(outer.sum()), width, *shape.weight.shape[2:])}


def contraction_needs(op: Op, sizes: Sizes) -> Mapping[str, Any]:
    """`groups` follows from the new extents of the weight and of the channels it counts."""
    if "groups" not in op.arguments:
        return {}
    shape = describe_contraction(op)
    inner = sizes(shape.weight)[1]
    outer = sizes(op.result)[shape.result_axis] if shape.transposed else sizes(shape.data)[shape.axis]
    return {"groups": outer // inner}


def contraction_macs(op: Op, sizes: Sizes) -> int:
    """Multiply-accumulates: per element of the larger side, one kernel over the inner extent."""
    shape = describe_contraction(op)
    weight = sizes(shape.weight)
    if shape.transposed:
        return prod(sizes(shape.data)) * prod(weight[1:])
    inner = weight[shape.column_dim] * prod(weight[2:])
    return prod(sizes(op.result)) * inner


def contraction_product(site: Site) -> Product | None:
    """The product of an operator of this family, for reports and pruners."""
    shape = describe_contraction(site.op)
    if shape.data.ndim == 0 or shape.weight.ndim < 2:
        return None
    row_dim: int | None = shape.row_dim
    if shape.groups > 1:
        # A depthwise weight lists its channels first, transposed or not.
        row_dim = 0 if shape.is_depthwise or not shape.transposed else None
    return Product(
        shape.data,
        shape.weight,
        shape.bias,
        ((shape.result_axis, row_dim),),
        ((shape.axis, None if shape.groups > 1 else shape.column_dim),),
        shape.is_depthwise,
        lambda weight: ~rows_where(shape, pattern(shape, weight)),
        1 if shape.is_depthwise else shape.groups,
    )


def _linear_attributes(op: Op, sizes: Sizes) -> Attributes:
    rows, columns = sizes(op.operands[1])
    return {"in_features": columns, "out_features": rows}


def _conv_attributes(op: Op, sizes: Sizes) -> Attributes:
    shape = describe_contraction(op)
    return {
        "in_channels": sizes(shape.data)[shape.axis],
        "out_channels": sizes(op.result)[shape.result_axis],
        **contraction_needs(op, sizes),
    }


_FORWARDS_BIAS = frozenset(
    kind.forward
    for kind in (
        nn.Linear,
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
        *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    )
)


def _takes_bias(op: Op) -> bool:
    return getattr(op.owner.type, "forward", None) in _FORWARDS_BIAS


LINEAR = WeightRule(
    contraction_product, attributes=MappingProxyType({nn.Linear: _linear_attributes}), takes_bias=_takes_bias
)
CONVOLUTION = WeightRule(
    contraction_product, attributes=MappingProxyType({ConvNd: _conv_attributes}), takes_bias=_takes_bias
)
