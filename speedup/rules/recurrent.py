"""Recurrent layers and cells: LSTM, GRU, Elman networks, stacked and in both directions.

Their classes have one `hidden_size`: the units kept may differ between layers and directions,
but not how many there are. Columns that are constant move into `bias_ih`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from math import prod
from types import MappingProxyType

import torch
from torch import Tensor, nn

from speedup.engine.constraints import Constraint, Counted, Dim, Equal, Mapped, Pinned, Reason
from speedup.engine.keepsets import KeepSets
from speedup.engine.lattice import Fact, any_over, fact, indicator, uniform_along, vector
from speedup.ir.edits import AddToParameter, ConstantTensor, Edit
from speedup.ir.graph import Op, Value
from speedup.rules.recurrence import Cell, Recurrence, describe_recurrence, first_weights, gate_count
from speedup.rules.rule import (
    Facts,
    Lives,
    Rule,
    Sizes,
    equal,
    everything_read,
    nothing_known,
    pinned,
    reason_for,
)
from speedup.rules.site import Site
from speedup.rules.units import CellLayer, Columns, Demand, analyse_layers, by_row, demands
from speedup.rules.weights import READS, UNITS, Attributes, KernelDim, LayerAxis, WeightRule


def recurrent_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Units that stay at 0, and those of a plain recurrence that read nothing but constants."""
    shape = describe_recurrence(op)
    if shape is None:
        return nothing_known(op, facts)
    layers = analyse_layers(shape, op, facts)
    every = [unit for layer in layers for unit in layer.units]
    if not any(bool(unit.constant.any()) for unit in every):
        return nothing_known(op, facts)
    constant, value = torch.stack([u.constant for u in every]), torch.stack([u.value for u in every])
    zero = torch.stack([u.zero for u in every])
    results = []
    if shape.output is not None:
        last = slice(-shape.directions, None)
        results.append(_fact(shape.output, constant[last].reshape(1, 1, -1), value[last].reshape(1, 1, -1)))
    for state, known in zip(shape.final, (constant, zero), strict=False):
        rows = (known, torch.where(known, value, 0.0))
        results.append(_fact(state, *(r[:, None] if state.ndim == 3 else r for r in rows)))
    return tuple(results)


def _fact(result: Value, known: Tensor, value: Tensor) -> Fact:
    return fact(known, value.to(result.dtype))


def recurrent_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """Units that live results read over any number of steps, with all their rows."""
    shape = describe_recurrence(op)
    if shape is None:
        return everything_read(op, facts, live)
    layers = analyse_layers(shape, op, facts)
    found = _demands(shape, layers, live)
    units = torch.stack([one for demand in found for one in demand.units])
    reads = {shape.data.index: vector(found[0].columns, shape.data.ndim - 1, shape.data.ndim)}
    for position, value in enumerate(op.operands):
        if value in shape.initial:
            # Where only the number of entries counts, any of them may stand for those that are read.
            own = any_over(units, [1]) if _is_interchangeable(facts[position]) else units
            reads[value.index] = own[:, None] if value.ndim == 3 else own
    for number, direction, cell in shape.placed():
        rows = found[number].units[direction].repeat(shape.gates)
        for weight in cell.weights:
            own = vector(rows, 0, weight.ndim)
            reads[weight.index] = own | reads.get(weight.index, indicator(False, weight.ndim))
    return tuple(reads[v.index] for v in op.operands)


def _is_interchangeable(state: Fact) -> bool:
    """Whether all units of a state start from the same constant."""
    return state.is_all_known() and uniform_along(state.value, [state.ndim - 1])


def _demands(shape: Recurrence, layers: tuple[CellLayer, ...], live: Lives) -> tuple[Demand, ...]:
    if shape.output is None:
        return demands(shape, layers, None, tuple(live))
    return demands(shape, layers, live[0], tuple(live[1:]))


def _shape(site: Site) -> Recurrence | None:
    return site.once("recurrence", lambda: describe_recurrence(site.op))


def _layers(site: Site, shape: Recurrence) -> tuple[CellLayer, ...]:
    facts = [site.fact(v) for v in site.op.operands]
    return site.once("layers", lambda: analyse_layers(shape, site.op, facts))


def _demanded(site: Site, shape: Recurrence) -> tuple[Demand, ...]:
    lives = [site.live(r) for r in site.op.results]
    return site.once("demands", lambda: _demands(shape, _layers(site, shape), lives))


def recurrent_couple(site: Site) -> Iterable[Constraint]:
    """Gates with units, columns with what they read, states with the units they belong to."""
    shape = _shape(site)
    if shape is None:
        reason = site.because(reason_for(site.op, "with proj_size or active dropout stays whole"))
        for value in (*site.op.operands, *site.op.results):
            yield from pinned(value, range(value.ndim), reason)
        return
    yield from _positions(site, shape)
    reason = site.because(reason_for(site.op, "ties its gates and states to its units"))
    for cell in shape.cells:
        yield from _gates(shape, cell, reason)
    yield from _columns(shape, reason)
    yield from _states(site, shape, reason)
    yield from _needs(site, shape)


def _positions(site: Site, shape: Recurrence) -> Iterable[Constraint]:
    batch, step = 0, None
    if shape.output is not None:
        batch, step = (0, 1) if site.op["batch_first"] else (1, 0)
    states = [(v, v.ndim - 2) for v in (*shape.initial, *shape.final)]
    beside = [] if shape.output is None else [(shape.output, batch)]
    reason = site.because(reason_for(site.op, "works on each sequence of the batch"))
    yield from equal(reason, (shape.data, batch), *beside, *states)
    if shape.output is not None and step is not None:
        reason = site.because(reason_for(site.op, "runs along the whole sequence"))
        yield from pinned(shape.data, [step], reason)
        yield from pinned(shape.output, [step], reason)
        reason = site.because(reason_for(site.op, "has one state per layer and direction"))
        for value in (*shape.initial, *shape.final):
            yield from pinned(value, [0], reason)


def unit_dim(cell: Cell) -> tuple[int, int]:
    """The dimension whose keep-set is the cell's units."""
    return (cell.weight_hh.index, 1)


def _gates(shape: Recurrence, cell: Cell, reason: Reason) -> Iterable[Constraint]:
    yield from equal(reason, *((w, 0) for w in cell.weights))
    rows = shape.gates * shape.hidden
    index = torch.arange(rows) % shape.hidden
    yield Mapped((unit_dim(cell),), ((cell.weight_hh.index, 0),), index, (shape.hidden,), (rows,), reason)


def _columns(shape: Recurrence, reason: Reason) -> Iterable[Constraint]:
    """Every layer's columns are the data's channels or the units of the layer before, side by side."""
    before: tuple[Cell, ...] = ()
    for cells in shape.layers:
        first = (cells[0].weight_ih, 1)
        yield from equal(reason, first, *((c.weight_ih, 1) for c in cells[1:]))
        if before:
            yield from _side_by_side(shape, before, first, reason)
        else:
            yield from equal(reason, (shape.data, shape.data.ndim - 1), first)
        before = cells
    if shape.output is not None:
        yield from _side_by_side(shape, before, (shape.output, shape.output.ndim - 1), reason)


def _side_by_side(
    shape: Recurrence, cells: tuple[Cell, ...], target: tuple[Value, int], reason: Reason
) -> Iterable[Constraint]:
    value, dim = target
    width = len(cells) * shape.hidden
    for number, cell in enumerate(cells):
        index = torch.full((width,), -1)
        start = number * shape.hidden
        index[start : start + shape.hidden] = torch.arange(shape.hidden)
        yield Mapped((unit_dim(cell),), ((value.index, dim),), index, (shape.hidden,), (width,), reason)


def _states(site: Site, shape: Recurrence, reason: Reason) -> Iterable[Constraint]:
    """A state has one set of units for all its rows; where any set would do, its size has to fit."""
    units = [unit_dim(cell) for cell in shape.cells]
    sized = list(units)
    for value in shape.initial:
        dim = (value.index, value.ndim - 1)
        if _is_interchangeable(site.fact(value)):
            sized.append(dim)
        else:
            yield Equal((dim, *units), reason)
    for value in shape.final:
        dim = (value.index, value.ndim - 1)
        read = by_row(site.live(value), shape).any(1).tolist()
        sized.append(dim)
        if any(read):
            yield Equal((dim, *(u for u, is_read in zip(units, read, strict=True) if is_read)), reason)
    if len(sized) > 1:
        one_size = site.because(reason_for(site.op, "has one hidden_size for all layers and directions"))
        yield Counted(tuple(dict.fromkeys(sized)), one_size)


def needed_units(site: Site) -> tuple[tuple[Cell, Tensor], ...]:
    """Per cell, the units that live results depend on and that no constant can stand for."""
    shape = _shape(site)
    if shape is None:
        return ()
    layers, found = _layers(site, shape), _demanded(site, shape)
    needed = []
    for number, direction, cell in shape.placed():
        units, live = layers[number].units[direction], found[number].units[direction]
        # The step before the first still has the initial state, so that no bias can stand for it.
        recurrent = (layers[number].reads_units[direction] & live[:, None]).any(0)
        needed.append((cell, live & ~units.zero & (~units.constant | recurrent)))
    return tuple(needed)


def _needs(site: Site, shape: Recurrence) -> Iterable[Constraint]:
    reason = site.because(reason_for(site.op, "reads these units"))
    for cell, needed in needed_units(site):
        yield Pinned(unit_dim(cell), reason, needed)
    layers = _layers(site, shape)
    reason = site.because("reads constants that no bias_ih can take over")
    for number, direction, cell in shape.placed():
        columns = layers[number].columns
        counts = columns.counts & _read(site, shape, number, direction)
        uncompensated = counts & ~columns.settled if _can_compensate(site, cell) else counts
        if bool(uncompensated.any()):
            yield Pinned((cell.weight_ih.index, 1), reason, uncompensated)


def _read(site: Site, shape: Recurrence, number: int, direction: int) -> Tensor:
    """The columns that the live units of one cell read."""
    live = _demanded(site, shape)[number].units[direction]
    return (_layers(site, shape)[number].reads_columns[direction] & live[:, None]).any(0)


def _can_compensate(site: Site, cell: Cell) -> bool:
    return site.is_own(cell.bias_ih) and site.fact(cell.weight_ih).is_all_known()


def recurrent_compensate(site: Site, kept: KeepSets) -> Iterable[Edit]:
    """What dropped constant columns add to each gate goes into `bias_ih`."""
    shape = _shape(site)
    if shape is None or all(kept.is_full((c.weight_ih.index, 1)) for c in shape.cells):
        return
    layers = _layers(site, shape)
    for number, _, cell in shape.placed():
        if cell.bias_ih is not None and _can_compensate(site, cell):
            yield from _into_bias(site, cell, cell.bias_ih, layers[number].columns, kept)


def recurrent_destinations(site: Site, kept: KeepSets) -> Iterable[tuple[Dim, Tensor, str]]:
    """The dropped channels of the data that `recurrent_compensate` makes up for."""
    shape = _shape(site)
    if shape is not None:
        dim = (shape.data.index, shape.data.ndim - 1)
        columns = _layers(site, shape)[0].columns
        dropped = columns.settled & columns.counts & ~kept[dim]
        for cell in shape.layers[0]:
            if cell.bias_ih is not None and _can_compensate(site, cell):
                yield dim, dropped, cell.bias_ih.name


def constant_units(site: Site) -> tuple[tuple[Cell, Tensor], ...]:
    """Per cell, the units that are the same at every step for every input."""
    shape = _shape(site)
    if shape is None:
        return ()
    layers = _layers(site, shape)
    return tuple((cell, layers[n].units[d].constant) for n, d, cell in shape.placed())


def _into_bias(site: Site, cell: Cell, bias: Value, columns: Columns, kept: KeepSets) -> Iterable[Edit]:
    dropped = columns.settled & columns.counts & ~kept[(cell.weight_ih.index, 1)]
    if bool(dropped.any()):
        weight = site.fact(cell.weight_ih).value.expand(cell.weight_ih.shape)
        delta = weight[:, dropped].double() @ columns.value[dropped]
        yield AddToParameter(
            bias.name, ConstantTensor(delta), f"{int(dropped.sum())} constant columns into {bias.name}"
        )


def recurrent_widths(site: Site) -> Iterable[KernelDim]:
    """The units of every cell, and the columns that the first layer reads."""
    shape = _shape(site)
    if shape is not None:
        yield from (KernelDim(unit_dim(cell), "out") for cell in shape.cells)
        yield KernelDim((shape.data.index, shape.data.ndim - 1), "in")


def recurrent_macs(op: Op, sizes: Sizes) -> int:
    """Per step and sequence, every gate's products with the layer's input and its state."""
    states = 3 if op.name.startswith("lstm") else 2
    matrices = [v for v in op.operands[states:] if v.ndim == 2]
    return prod(sizes(op.operands[0])[:-1]) * sum(prod(sizes(m)) for m in matrices)


def _axes(site: Site) -> Iterable[LayerAxis]:
    """The units of each cell, and the columns that the first layer reads."""
    cells = needed_units(site)
    for number, (cell, needed) in enumerate(cells):
        which = cell.weight_hh.name.rpartition("weight_hh_")[2] if len(cells) > 1 else ""
        yield LayerAxis(
            UNITS,
            unit_dim(cell),
            cell.weights,
            partial(_itself, needed),
            1 / len(cells),
            which,
            partial(_idle, site, number),
            is_own=True,
        )
    shape = _shape(site)
    if shape is not None:
        columns, units = shape.data.shape[-1], shape.hidden
        yield LayerAxis(
            READS,
            (shape.data.index, shape.data.ndim - 1),
            tuple(cell.weight_ih for cell in shape.layers[0]),
            share=columns / (columns + units) / len(shape.layers),
        )


def _itself(needed: Tensor) -> Tensor:
    return needed


def _idle(site: Site, number: int) -> Tensor:
    return constant_units(site)[number][1]


def _attributes(op: Op, sizes: Sizes) -> Attributes:
    weight_ih, weight_hh = first_weights(op)
    return {"input_size": sizes(weight_ih)[1], "hidden_size": sizes(weight_hh)[0] // gate_count(op)}


RECURRENT = Rule(
    couple=recurrent_couple,
    known=recurrent_known,
    live=recurrent_live,
    compensate=recurrent_compensate,
    destinations=recurrent_destinations,
    weight=WeightRule(
        axes=_axes,
        attributes=MappingProxyType({nn.RNNBase: _attributes, nn.RNNCellBase: _attributes}),
    ),
    widths=recurrent_widths,
    macs=recurrent_macs,
)

_KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")

RULES: dict[str, Rule] = {
    **{f"{kind}.input": RECURRENT for kind in _KINDS},
    **{f"{kind}_cell": RECURRENT for kind in _KINDS},
}
