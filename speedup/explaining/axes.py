"""The axes along which a layer can shrink: what it makes, what it reads, units, heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from attrs import frozen
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.engine.constraints import Dim
from speedup.engine.lattice import along
from speedup.ir.graph import Op, Origin, Value
from speedup.rules.contraction import Contraction, describe, read_columns
from speedup.rules.recurrence import describe as recurrence_of
from speedup.rules.recurrent import needed_units, unit_dim

MAKES, READS, UNITS, HEADS = "makes", "reads", "units", "heads"

_PRODUCTS = ("linear", "conv", "addmm")
_RECURRENT = ("lstm", "gru", "rnn_")
_BLOCKABLE = (*_PRODUCTS, *_RECURRENT)
_NORMS = ("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm")
_ATTENTION = "scaled_dot_product_attention"


@frozen(eq=False)
class Axis:
    """One axis of the work of `op`.

    `dim` has its keep-set; `weights` are the parameters that shrink along it, each in proportion, and
    `share` is the part of the op's work that does. `needed` gives the indices needed for their own sake.
    """

    op: Op
    name: str
    dim: Dim
    weights: tuple[Value, ...]
    needed: Callable[[], Tensor]
    share: float = 1.0
    # Which of several axes of this kind that the op has, such as the units of one layer of a stack.
    which: str = ""

    @property
    def path(self) -> str:
        return self.op.owner.path

    @property
    def label(self) -> str:
        """How reports call it: `makes`, `units of l1_reverse`."""
        return f"{self.name} of {self.which}" if self.which else self.name

    @property
    def is_blockable(self) -> bool:
        """Whether it is a layer's own to make, so that it counts once among what could go."""
        return self.name in (MAKES, UNITS) and self.op.name.startswith(_BLOCKABLE)


def axes_of(op: Op, analysis: Analysis) -> Iterator[Axis]:
    """The axes of the layer that `op` is; none when it is none."""
    if op.name.startswith(_RECURRENT):
        yield from _recurrent(op, analysis)
    elif op.name.startswith(_PRODUCTS):
        yield from _product(op, analysis)
    elif op.name in _NORMS:
        weights = tuple(v for v in op.operands[1:] if v.origin is Origin.PARAMETER)
        if weights:
            last = "layer" in op.name or "rms" in op.name
            yield _made(op, op.results[0].ndim - 1 if last else 1, weights, analysis)
    elif op.name == "embedding":
        yield _made(op, op.result.ndim - 1, op.operands[:1], analysis)
    elif op.name == _ATTENTION and op.result.ndim == 4:
        yield Axis(op, HEADS, (op.result.index, 1), (), partial(_seeded, op.result, 1, analysis), 0.0)


def product_of(op: Op) -> Contraction | None:
    """The product with a weight that `op` computes; None when it is no layer of that kind."""
    return describe(op) if op.name.startswith(_PRODUCTS) else None


def _product(op: Op, analysis: Analysis) -> Iterator[Axis]:
    shape = product_of(op)
    if shape is None:
        return
    bias = () if shape.bias is None else (shape.bias,)
    yield _made(op, shape.result_axis, (shape.weight, *bias), analysis)
    if not shape.is_depthwise:
        needed = partial(_read, op, shape, analysis)
        yield Axis(op, READS, (shape.data.index, shape.axis), (shape.weight,), needed)


def _made(op: Op, dim: int, weights: tuple[Value, ...], analysis: Analysis) -> Axis:
    value = op.results[0]
    return Axis(op, MAKES, (value.index, dim), weights, partial(_seeded, value, dim, analysis))


def _recurrent(op: Op, analysis: Analysis) -> Iterator[Axis]:
    cells = needed_units(analysis.sites[op.index])
    for cell, needed in cells:
        which = cell.weight_hh.name.rpartition("weight_hh_")[2] if len(cells) > 1 else ""
        yield Axis(op, UNITS, unit_dim(cell), cell.weights, partial(_given, needed), 1 / len(cells), which)
    shape = recurrence_of(op)
    if shape is not None:
        dim = (shape.data.index, shape.data.ndim - 1)
        weights = tuple(cell.weight_ih for cell in shape.layers[0])
        columns, units = shape.data.shape[-1], shape.hidden
        share = columns / (columns + units) / len(shape.layers)
        yield Axis(op, READS, dim, weights, partial(_seeded, shape.data, dim[1], analysis), share)


def _given(needed: Tensor) -> Tensor:
    return needed


def _read(op: Op, shape: Contraction, analysis: Analysis) -> Tensor:
    """What the layer itself reads of what is needed, whoever else does."""
    site = analysis.sites[op.index]
    read = read_columns(shape, site.fact(shape.weight), site.live(op.result))
    return read & _seeded(shape.data, shape.axis, analysis)


def _seeded(value: Value, dim: int, analysis: Analysis) -> Tensor:
    """What is live and no constant, whoever else reads or pins it."""
    seed = analysis.seeds.get((value.index, dim), torch.zeros(value.shape[dim], dtype=torch.bool))
    if seed is not None:
        return seed
    # The boundary pins its values whole; constants among them are not needed for their own sake.
    return along(~analysis.facts[value.index].known, dim, value.shape[dim])
