"""Products of constants and a gate: a factor for each channel, which follows the input.

Behind squeeze and excitation no channel is constant, not even one whose filter is masked. But what layers
make of such channels is known up to one factor each. Channels that are sums of multiples of a few others
before the gate need no computing: what they add to the sums of the layers that read them is put together from
those few and the factors, and goes into channels that do as well there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from attrs import evolve, field, frozen
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.analyses.spare_rows import PartialRows, spare_along
from speedup.engine.constraints import Constraint, Dim, Reason, Spanned
from speedup.engine.lattice import any_along
from speedup.engine.spans import multiples_of, take_out
from speedup.ir.edits import CombineColumns, MergeColumns
from speedup.ir.graph import Op, Value
from speedup.rules import rule_of
from speedup.rules.extents import Extents
from speedup.rules.rule import matched
from speedup.rules.weights import Product, held_by

# No channel may get more than this many times another: both are rounded.
_LARGEST = 16.0


@frozen(eq=False)
class Gate(PartialRows):
    """The product `op`: of its operand number `operand`, which is gated, channels along `dim` may go that are
    members of `spanned`.

    `readers` are all ops that read the result, each a product with a weight; `spread` is the op that repeats
    the factors at all positions, where one does.
    """

    op: Op
    operand: int
    dim: int
    spanned: Spanned
    readers: tuple[Op, ...]
    spread: Op | None
    _found: dict[tuple[bytes, ...], Mixing | None] = field(factory=dict, init=False, repr=False)

    @property
    def restated(self) -> Op:
        """The op whose call is stated otherwise."""
        return self.op

    @property
    def rows(self) -> Value:
        """The operand that lists channels at positions."""
        return self.op.operands[self.operand]

    @property
    def factors(self) -> Value:
        """What has a factor for each channel."""
        return self.op.operands[1 - self.operand] if self.spread is None else self.spread.operands[0]

    @property
    def ops(self) -> tuple[Op, ...]:
        """All ops that are stated otherwise."""
        return (self.op,) if self.spread is None else (self.spread, self.op)

    @property
    def part(self) -> Dim:
        """The dimension of the channels that are computed."""
        return self.op.result.index, self.dim

    @property
    def whole(self) -> Dim:
        """The dimension of all factors that count."""
        return self.factors.index, self.dim

    @property
    def spare(self) -> Tensor:
        """Bool vector: channels that may go."""
        return self.spanned.members

    def moved(self, op_of: Callable[[Op], Op]) -> Gate:
        """The same in a graph where `op_of` tells what has become of each op."""
        spread = None if self.spread is None else op_of(self.spread)
        return evolve(self, op=op_of(self.op), readers=tuple(map(op_of, self.readers)), spread=spread)

    def couple(self) -> Iterator[Constraint]:
        """The constraints of `ops`, in the place of those of their rules."""
        reason = Reason(self.op.index, "is gated")
        values, dims = (self.rows, self.op.result), range(self.op.result.ndim)
        factors = self.op.operands[1 - self.operand]
        yield from matched(reason, values, dims)
        yield from matched(reason, (*values, factors), (d for d in dims if d != self.dim))
        if self.spread is not None:
            yield from matched(reason, (factors, self.factors), dims)
        yield self.subset(reason)
        yield self.spanned

    def mixing(self, analysis: Analysis) -> Mixing | None:
        """How the channels that are left out are made up for; None where the columns of weights that stay
        cannot express those that go.
        """
        kept, gone = analysis.kept[self.part], self.gone(analysis)
        free = kept.clone()
        free[[column for reader in self.readers for column in _changed_columns(reader, analysis)]] = False
        rows = [_rows_of(reader, analysis) for reader in self.readers]
        # The same is asked each time that something else is settled.
        key = tuple(bytes(one.numpy().tobytes()) for one in (kept, gone, free, *rows))
        if key not in self._found:
            weights = [_weight_of(r, one, analysis) for r, one in zip(self.readers, rows, strict=True)]
            self._found[key] = _mix(self.spanned, torch.cat(weights, 1), kept, gone, free)
        return self._found[key]

    def gone(self, analysis: Analysis) -> Tensor:
        """Bool vector: channels that count and are not computed."""
        return analysis.kept[self.whole] & ~analysis.kept[self.part]


@frozen(eq=False)
class Mixing:
    """How channels that are not computed are made up for, in numbers of those that are.

    `carriers` are channels of which they are sums of multiples, `into` those that get what they would add.
    For each channel that is left out there is a column: its share for each of `into`, below its factors for
    each of `carriers`.
    """

    carriers: tuple[int, ...]
    into: tuple[int, ...]
    columns: Tensor


def find_gates(analysis: Analysis) -> tuple[Gate, ...]:
    """The products with a gate behind which channels are computed that only a factor tells from constants."""
    extents = Extents(analysis.graph, analysis.rules)
    found = (_gate(op, n, analysis, extents) for op in analysis.graph.ops for n in range(len(op.operands)))
    return tuple(one for one in found if one is not None)


def _gate(op: Op, operand: int, analysis: Analysis, extents: Extents) -> Gate | None:
    if not rule_of(op, extents.rules).is_product or len(op.operands) != 2 or op.is_rigid or not op.calls:
        return None
    rows, factors, result = op.operands[operand], op.operands[1 - operand], op.result
    alike = rows.shape == result.shape and rows.dtype == factors.dtype == result.dtype
    if not alike or rows.is_state or factors.is_state or not rows.dtype.is_floating_point:
        return None
    if rows.ndim < 3 or factors.ndim != rows.ndim:
        return None
    for dim in dict.fromkeys((1, rows.ndim - 1)):
        spread = _spread_of(factors, extents)
        source = factors if spread is None else spread.operands[0]
        if not _is_gate(source, rows, dim, extents) or extents.varies(rows, dim):
            continue
        readers = tuple(analysis.graph.ops[n] for n in analysis.graph.readers[result.index])
        if result in analysis.graph.outputs or not all(_sums(r, result, dim, analysis) for r in readers):
            continue
        constants, counts, profiles = _constants(op, rows, dim, analysis)
        members = constants & counts & analysis.kept[(result.index, dim)]
        if bool(members.any()):
            reason = Reason(op.index, "gated constants need a few channels to carry them")
            own = (result.index, dim)
            spanned = Spanned(own, members, profiles, False, own, 1, reason, constants & ~members)
            return Gate(op, operand, dim, spanned, readers, spread)
    return None


def _spread_of(factors: Value, extents: Extents) -> Op | None:
    """The op that repeats what `factors` are copies of, if they are and nothing else reads them."""
    graph, producer = extents.graph, extents.graph.producer[factors.index]
    if producer is None or len(graph.readers[factors.index]) != 1 or factors in graph.outputs:
        return None
    op = graph.ops[producer]
    repeats = rule_of(op, extents.rules).arrangement == "copies" and op.operands[0].ndim == factors.ndim
    return op if repeats and op.calls and not op.is_rigid else None


def _is_gate(factors: Value, rows: Value, dim: int, extents: Extents) -> bool:
    """Whether `factors` has one for each index of `dim`, the same at all positions of a sample."""
    if factors.shape[dim] != rows.shape[dim] or rows.shape[dim] == 1:
        return False
    others = (d for d in range(1, rows.ndim) if d != dim)
    return all(factors.shape[d] == 1 and not extents.varies(factors, d) for d in others)


def _sums(reader: Op, value: Value, dim: int, analysis: Analysis) -> bool:
    """Whether `reader` multiplies `value` with a weight that is known, and sums over `dim`."""
    product = _product_of(reader, analysis)
    if product is None or product.data is not value:
        return False
    if [d for d, _ in product.reads] != [dim] or len(product.makes) != 1:
        return False
    (_, column), (_, row) = product.reads[0], product.makes[0]
    # A weight in groups does not list the channels that it reads.
    return column is not None and row is not None and analysis.facts[product.weight.index].is_all_known()


def _product_of(reader: Op, analysis: Analysis) -> Product | None:
    return rule_of(reader, analysis.rules).weight.product(analysis.sites[reader.index])


def _constants(op: Op, rows: Value, dim: int, analysis: Analysis) -> tuple[Tensor, Tensor, Tensor]:
    """Bool vectors: the channels that are constants before the gate, and those that count behind it; and
    (channels, classes of positions) the constants.
    """
    site, extent, result = analysis.sites[op.index], rows.shape[dim], op.result
    bordered = site.bordered(rows)
    if bordered is None:
        known, constants = spare_along(site.fact(rows), dim, extent)
        profiles = constants[:, None]
    else:
        known, profiles = ~any_along(~bordered.is_known(), dim, extent), bordered.constants(dim, extent)
    counts = any_along(site.live(result) & ~site.known(result), dim, extent)
    return known & (profiles != 0).any(1), counts, profiles


def _mix(spanned: Spanned, weight: Tensor, kept: Tensor, gone: Tensor, free: Tensor) -> Mixing | None:
    """How channels that are `gone` are made up for; those that are `free` may get what they would add."""
    if bool((gone & ~spanned.members).any()):
        return None
    others, able = gone.nonzero().reshape(-1), free.nonzero().reshape(-1)
    chosen = _spanning(weight[able], weight[others])
    if chosen is None:
        return None
    into = able[chosen]
    shares = multiples_of(weight[into], weight[others])
    basis = spanned.basis(0, kept)
    factors, _ = spanned.factors(others, basis)
    if not bool(kept[basis].all()) or float(shares.abs().max()) > _LARGEST:
        return None
    number = torch.cumsum(kept, 0) - 1
    columns = torch.cat([shares, factors], 1).t()
    return Mixing(tuple(number[basis].tolist()), tuple(number[into].tolist()), columns)


def _changed_columns(reader: Op, analysis: Analysis) -> Iterator[int]:
    """Channels for which the weight of `reader` will hold other numbers: those that carry constants."""
    product = _product_of(reader, analysis)
    weight = None if product is None else held_by(analysis.graph, product.weight)
    if weight is None:
        return
    for number in analysis.graph.readers[weight.index]:
        site = analysis.sites[number]
        for edit in rule_of(site.op, analysis.rules).compensate(site, analysis.kept):
            if isinstance(edit, CombineColumns) and edit.name == weight.name:
                yield from edit.into
            if isinstance(edit, MergeColumns) and edit.name == weight.name:
                yield edit.into


def _rows_of(reader: Op, analysis: Analysis) -> Tensor:
    """Bool vector: which of its channels `reader` computes."""
    product = _product_of(reader, analysis)
    assert product is not None, "a reader of what is gated is a product"
    return analysis.kept[(reader.result.index, product.makes[0][0])]


def _weight_of(reader: Op, rows: Tensor, analysis: Analysis) -> Tensor:
    """(channels that are read, what is computed of each) the weights of `rows`, in float64."""
    product = _product_of(reader, analysis)
    assert product is not None, "a reader of what is gated is a product"
    (_, row), (_, column) = product.makes[0], product.reads[0]
    assert row is not None and column is not None, "the weight of such a product lists both"
    weight = analysis.facts[product.weight.index].value.expand(product.weight.shape).double()
    return weight.index_select(row, rows.nonzero().reshape(-1)).movedim(column, 0).flatten(1)


def _spanning(own: Tensor, wanted: Tensor) -> Tensor | None:
    """Rows of `own` of which all of `wanted` are sums of multiples, in order; None where there are none.

    They are taken one by one, each time the one of which the ones before leave most.
    """
    left, missing = own.clone(), wanted.clone()
    least = 64 * torch.finfo(torch.float64).eps * own.shape[1]
    sizes, chosen = torch.linalg.vector_norm(wanted, dim=1), list[int]()
    while bool((torch.linalg.vector_norm(missing, dim=1) > least * sizes).any()):
        norms = torch.linalg.vector_norm(left, dim=1)
        best = int(norms.argmax()) if len(own) else 0
        if len(chosen) == min(own.shape) or not float(norms[best]) > 0:
            return None
        chosen.append(best)
        direction = left[best] / norms[best]
        take_out(direction, left)
        take_out(direction, missing)
        left[best] = 0
    return torch.tensor(sorted(chosen))
