"""The axes along which a layer can shrink: what it makes, what it reads, units, heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from attrs import frozen
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.engine.constraints import Dim
from speedup.engine.lattice import any_along
from speedup.ir.graph import Op, Value
from speedup.rules import product_of, rule_of
from speedup.rules.weights import MAKES, READS, LayerAxis, Product


@frozen(eq=False)
class Axis:
    """One axis of the work of `op`.

    `dim` has its keep-set; `weights` are the parameters that shrink along it, each in proportion, and
    `share` is the part of the op's work that does. `needed` gives the indices needed for their own sake,
    `idle` those that nothing ever enters. An axis `is_blockable` that is the layer's own to make, so that it
    counts once among what could go.
    """

    op: Op
    name: str
    dim: Dim
    weights: tuple[Value, ...]
    needed: Callable[[], Tensor]
    is_blockable: bool = False
    share: float = 1.0
    # Which of several axes of this kind that the op has, such as the units of one layer of a stack.
    which: str = ""
    idle: Callable[[], Tensor] | None = None

    @property
    def path(self) -> str:
        return self.op.owner.path

    @property
    def label(self) -> str:
        """How reports call it: `makes`, `units of l1_reverse`."""
        return f"{self.name} of {self.which}" if self.which else self.name


def axes_of(op: Op, analysis: Analysis) -> Iterator[Axis]:
    """The axes of the layer that `op` is; none when it is none."""
    product = product_of(analysis.sites[op.index], analysis.rules)
    if product is not None:
        yield from _of_product(op, product, analysis)
    for axis in rule_of(op, analysis.rules).weight.axes(analysis.sites[op.index]):
        yield _of_layer(op, axis, analysis)


def read_by(op: Op, product: Product, dim: int, live: Tensor, analysis: Analysis) -> Tensor:
    """Which indices of a dimension of a product's data it reads where `live` of its result is read."""
    site = analysis.sites[op.index]
    reads = rule_of(op, analysis.rules).live(op, [site.fact(v) for v in op.operands], [live])
    number = next(n for n, v in enumerate(op.operands) if v is product.data)
    return any_along(reads[number], dim, product.data.shape[dim])


def _of_product(op: Op, product: Product, analysis: Analysis) -> Iterator[Axis]:
    value = op.results[0]
    bias = () if product.bias is None else (product.bias,)
    for dim, _ in product.makes:
        needed = partial(_seeded, value, dim, analysis)
        yield Axis(op, MAKES, (value.index, dim), (product.weight, *bias), needed, is_blockable=True)
    for dim, _ in () if product.is_depthwise else product.reads:
        needed = partial(_read, op, product, dim, analysis)
        yield Axis(op, READS, (product.data.index, dim), (product.weight,), needed)


def _of_layer(op: Op, axis: LayerAxis, analysis: Analysis) -> Axis:
    value = analysis.graph.values[axis.dim[0]]
    needed = axis.needed or partial(_seeded, value, axis.dim[1], analysis)
    return Axis(op, axis.name, axis.dim, axis.weights, needed, axis.is_own, axis.share, axis.which, axis.idle)


def _read(op: Op, product: Product, dim: int, analysis: Analysis) -> Tensor:
    """What the layer itself reads of what is needed, whoever else does."""
    live = analysis.sites[op.index].live(op.result)
    return read_by(op, product, dim, live, analysis) & _seeded(product.data, dim, analysis)


def _seeded(value: Value, dim: int, analysis: Analysis) -> Tensor:
    """What is live and no constant, whoever else reads or pins it."""
    seed = analysis.seeds.get((value.index, dim), torch.zeros(value.shape[dim], dtype=torch.bool))
    if seed is not None:
        return seed
    # The boundary pins its values whole; constants among them are not needed for their own sake.
    return any_along(~analysis.known(value), dim, value.shape[dim])
