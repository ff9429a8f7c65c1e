"""The units of a recurrence: which of them are constant, and which of them live results read.

Per unit j and step t, with x_t what the layer reads and h_0, c_0 the initial states::

    lstm  g = tanh(W_g x_t + b + R_g h_(t-1) + d)         c_t = f c_(t-1) + i g,  h_t = o tanh(c_t)
    gru   n = tanh(W_n x_t + b + r (R_n h_(t-1) + d))     h_t = (1 - z) n + z h_(t-1)
    rnn   h_t = act(W x_t + b + R h_(t-1) + d)

so that a unit whose *content* gate (g, n, or the only one) is 0 and that starts at 0 stays at 0,
whatever its other gates do.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import frozen
from torch import Tensor

from speedup.engine.lattice import Fact, any_along
from speedup.ir.graph import Op, Value
from speedup.rules.recurrence import Cell, Recurrence
from speedup.rules.rule import Facts


@frozen(eq=False)
class Columns:
    """What a layer reads, per column: `known` everywhere, `settled` on one constant, its `value`.

    A column that is known but not settled varies over positions. `counts`: it is somewhere not 0.
    """

    known: Tensor
    settled: Tensor
    value: Tensor
    counts: Tensor


@frozen(eq=False)
class CellUnits:
    """The outcome of one cell's units: `zero` at every step, or `constant` with `value` after the first."""

    zero: Tensor
    constant: Tensor
    value: Tensor


@frozen(eq=False)
class CellLayer:
    """One layer's columns and, per direction, its units and what they read.

    `reads_columns[d]` (hidden, columns) and `reads_units[d]` (hidden, hidden): whether unit j of
    direction d may depend on them. A zero unit stays one through its content gate alone.
    """

    columns: Columns
    units: tuple[CellUnits, ...]
    reads_columns: tuple[Tensor, ...]
    reads_units: tuple[Tensor, ...]


def analyse_layers(shape: Recurrence, op: Op, facts: Facts) -> tuple[CellLayer, ...]:
    """The layers from first to last, given the facts of `op`'s operands."""
    found = {v.index: f for v, f in zip(op.operands, facts, strict=True)}
    start = _starts_at_zero(shape, found)
    columns = _channels(shape.data, found[shape.data.index])
    layers, row = [], 0
    for cells in shape.layers:
        units = []
        for cell in cells:
            units.append(_units(shape, cell, columns, start[row], found))
            row += 1
        pairs = list(zip(cells, units, strict=True))
        ih = tuple(_reads(shape, found[c.weight_ih.index], c.weight_ih, u) for c, u in pairs)
        hh = tuple(_reads(shape, found[c.weight_hh.index], c.weight_hh, u) for c, u in pairs)
        layers.append(CellLayer(columns, tuple(units), ih, hh))
        constant, value = (torch.cat([getattr(u, n) for u in units]) for n in ("constant", "value"))
        columns = Columns(constant, constant, value, constant & (value != 0))
    return tuple(layers)


def by_row(state: Tensor, shape: Recurrence) -> Tensor:
    """A state's compressed bool as (cells, hidden): whether anything of the batch is True."""
    rows = state if state.ndim == 3 else state[None]
    return rows.any(1).expand(len(shape.cells), shape.hidden)


def _starts_at_zero(shape: Recurrence, facts: Mapping[int, Fact]) -> Tensor:
    """(cells, hidden): whether all initial states of a unit are Known(0)."""
    zero = torch.ones(len(shape.cells), shape.hidden, dtype=torch.bool)
    for value in shape.initial:
        zero = zero & ~by_row(facts[value.index].maybe_nonzero, shape)
    return zero


def _channels(data: Value, found: Fact) -> Columns:
    extent, axis = data.shape[-1], data.ndim - 1
    known = ~any_along(~found.known, axis, extent)
    first = found.value
    for dim in range(axis):
        first = first.narrow(dim, 0, 1)
    varies = any_along(found.value != first, axis, extent)
    settled = known & ~varies
    value = torch.where(settled, first.reshape(-1).expand(extent), torch.zeros((), dtype=first.dtype))
    return Columns(known, settled, value.double(), known & any_along(found.value != 0, axis, extent))


def _content(shape: Recurrence, tensor: Tensor) -> Tensor:
    """The content gate's part of something per row, or of a weight."""
    return tensor.narrow(0, shape.content * shape.hidden, shape.hidden)


def _bias(shape: Recurrence, bias: Value | None, facts: Mapping[int, Fact]) -> tuple[Tensor, Tensor]:
    """Whether the content's bias is known, per unit, and its value; a missing one is 0."""
    if bias is None:
        return torch.ones(shape.hidden, dtype=torch.bool), torch.zeros(shape.hidden).double()
    found = facts[bias.index]
    known, value = (t.expand(bias.shape) for t in (found.known, found.value))
    return _content(shape, known), _content(shape, value).double()


def _from_columns(
    shape: Recurrence, cell: Cell, columns: Columns, facts: Mapping[int, Fact]
) -> tuple[Tensor, Tensor]:
    """Per unit, whether W x_t + b of its content is the same for every input and step, and its value."""
    weight = facts[cell.weight_ih.index]
    known, total = _bias(shape, cell.bias_ih, facts)
    nonzero = _content(shape, weight.maybe_nonzero.expand(cell.weight_ih.shape))
    known = known & ~(nonzero & ~columns.settled).any(1)
    counts = columns.settled & columns.counts
    if bool(counts.any()):
        unknown = ~_content(shape, weight.known.expand(cell.weight_ih.shape))
        known = known & ~(unknown & counts).any(1)
        total = total + _content(shape, weight.value.expand(cell.weight_ih.shape)).double() @ columns.value
    return known, total


def _units(
    shape: Recurrence, cell: Cell, columns: Columns, start: Tensor, facts: Mapping[int, Fact]
) -> CellUnits:
    fixed, value = _from_columns(shape, cell, columns, facts)
    own, offset = _bias(shape, cell.bias_hh, facts)
    fixed = fixed & own
    if shape.kind == "gru":
        # The reset gate stands between the two biases.
        silent = fixed & (value == 0) & (offset == 0)
    elif shape.kind == "rnn_relu":
        silent = fixed & (value + offset <= 0)
    else:
        silent = fixed & (value + offset == 0)
    recurrent = facts[cell.weight_hh.index].maybe_nonzero.expand(cell.weight_hh.shape)
    reads = _content(shape, recurrent)
    zero = _closed(silent & start, reads)
    if not shape.kind.startswith("rnn"):
        return CellUnits(zero, zero, torch.zeros(shape.hidden).double())
    total = value + offset
    output = total.tanh() if shape.kind == "rnn_tanh" else total.relu()
    constant = zero | (fixed & ~(reads & ~zero).any(1))
    return CellUnits(zero, constant, torch.where(constant & ~zero, output, 0.0))


def _closed(candidates: Tensor, reads: Tensor) -> Tensor:
    """The largest part of `candidates` that reads nothing outside itself.

    Units in it are 0 at step t when they are at step t - 1, which they are at the start.
    """
    while bool(candidates.any()):
        smaller = candidates & ~(reads & ~candidates).any(1)
        if bool((smaller == candidates).all()):
            break
        candidates = smaller
    return candidates


def _reads(shape: Recurrence, found: Fact, weight: Value, units: CellUnits) -> Tensor:
    nonzero = found.maybe_nonzero.expand(weight.shape).reshape(shape.gates, shape.hidden, -1)
    return torch.where(units.zero[:, None], nonzero[shape.content], nonzero.any(0))


@frozen(eq=False)
class Demand:
    """What live results read of one layer: its columns and, per direction, its units."""

    columns: Tensor
    units: tuple[Tensor, ...]


def demands(
    shape: Recurrence, layers: tuple[CellLayer, ...], output: Tensor | None, final: tuple[Tensor, ...]
) -> tuple[Demand, ...]:
    """The demands on the layers from first to last, given the liveness of the results."""
    rows = torch.zeros(len(shape.cells), shape.hidden, dtype=torch.bool)
    for one in final:
        rows = rows | by_row(one, shape)
    width = shape.directions * shape.hidden
    above = torch.zeros(width, dtype=torch.bool)
    if output is not None:
        above = any_along(output, output.ndim - 1, width)
    found: list[Demand] = []
    for number in reversed(range(len(layers))):
        own = rows.reshape(-1, shape.directions, shape.hidden)[number]
        demand = _demand(layers[number], own | above.reshape(shape.directions, -1))
        found.append(demand)
        above = demand.columns
    return tuple(reversed(found))


def _demand(layer: CellLayer, wanted: Tensor) -> Demand:
    units = tuple(_reached(w, r) for w, r in zip(wanted, layer.reads_units, strict=True))
    columns = torch.zeros_like(layer.columns.known)
    for live, reads in zip(units, layer.reads_columns, strict=True):
        columns = columns | (reads & live[:, None]).any(0)
    return Demand(columns, units)


def _reached(units: Tensor, reads: Tensor) -> Tensor:
    """`units` and all that they read over any number of steps."""
    while True:
        larger = units | (reads & units[:, None]).any(0)
        if bool((larger == units).all()):
            return units
        units = larger
