"""The layers of a model whose output channels can be scored, and which channels go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from speedup.analyses import constants, liveness
from speedup.engine.constraints import Dim
from speedup.ir.graph import Graph, Op, Origin, Shape, Value
from speedup.ir.inputs import example_from, further_calls
from speedup.ir.paths import is_within
from speedup.modules.plannable import require_plannable
from speedup.planning.problem import boundary, constraints_of, extents_of, sites_of
from speedup.pruners.units import Units, units_of
from speedup.rules import STANDARD, Rules, moves_of, product_of, rule_of
from speedup.rules.site import Site
from speedup.rules.weights import Product
from speedup.tracing.islands import survey

Gone = Mapping[tuple[str, int], Tensor]
"""Name and dimension of a parameter -> bool vector over that dimension, True where it is to be zero."""


@frozen
class ScoredLayer:
    """A linear layer or convolution, as scores get to see it.

    Attributes:
        path: the module that holds the weight.
        weight: name of the weight, whose dimension `dim` lists the output channels.
        channels: how many there are.
        bias: name of the bias; empty if there is none.
        norm: name of the weight of the BatchNorm that alone reads the output; empty if there is none.
        output: path of the module whose output is what the next layers get to see before an activation:
            the BatchNorm or the layer itself; empty if that is no module's output.
        axis: the dimension of that output, counted from the end, that lists the channels.
    """

    path: str
    weight: str
    dim: int
    channels: int
    bias: str
    norm: str
    output: str
    axis: int


@frozen(eq=False)
class Channels:
    """The layers of a model in order of use, the units of their channels, and what else units mask.

    By the name of the weight, `rows` is a layer's dimension of output channels in it, `columns` that of its
    input's channels. `masked` are the dimensions of parameters in
    which a channel that goes has an entry that must be zero. `graph` is what all of this was found from.
    """

    layers: tuple[ScoredLayer, ...]
    rows: Mapping[str, Dim]
    columns: Mapping[str, Dim]
    masked: tuple[tuple[str, Dim], ...]
    units: Units
    graph: Graph
    rules: Rules

    def gone_with(self, numbers: Tensor) -> Gone:
        """What goes of parameters with the units of these `numbers`, in so far as constraints allow."""
        dropped = self._dropped(numbers)
        kept = self.units.kept_without(dropped)
        return {(name, dim[1]): ~kept[dim] & dropped[self.units.elements(dim)] for name, dim in self.masked}

    def left_without(self, numbers: Tensor) -> tuple[int, int]:
        """Parameters and MACs of what is left without these units, where nothing else can go."""
        kept = self.units.kept_without(self._dropped(numbers))

        def sizes(value: Value) -> Shape:
            return tuple(kept.count((value.index, d)) for d in range(value.ndim))

        graph = self.graph
        parameters = sum(prod(sizes(v)) for v in graph.state if v.origin is Origin.PARAMETER)
        counted = filter(graph.is_counted, graph.ops)
        return parameters, sum(rule_of(op, self.rules).macs(op, sizes) for op in counted)

    def _dropped(self, numbers: Tensor) -> Tensor:
        return torch.isin(self.units.unit_of, numbers) & ~self.units.stays


def channels_of(model: nn.Module, x: Any, rules: Rules = STANDARD, others: Sequence[Any] = ()) -> Channels:
    """The channels of `model`, which is only read, as forwards on the inputs `x` and `others` use them.

    Raises:
        InputError, ModelError, ExportError: as for `plan_speedup`.
    """
    with torch.inference_mode(mode=False), torch.no_grad():
        require_plannable(model)
        traced = survey(model, (example_from(x), *further_calls(others)), explores=False).trace
        graph = traced.graph
        facts = constants.find_constants(graph, traced.tensors, {}, rules)
        lives = liveness.find_liveness(graph, facts, rules)
        graph = constants.settle_numbers(graph, facts)
        sites = sites_of(graph, facts, lives, rules)
        constraints = constraints_of(graph, sites, rules)
        whole = boundary(graph)
        seeds: dict[Dim, Tensor | None] = {
            (v.index, d): None for v in graph.values if v.index in whole for d in range(v.ndim)
        }
        units = units_of(extents_of(graph), seeds, constraints)
    rows: dict[str, Dim] = {}
    columns: dict[str, Dim] = {}
    layers: dict[str, ScoredLayer] = {}
    for site in sites:
        found = _product(site, rules)
        if found is not None:
            product, weight, dim = found
            layers[weight.name] = _layer(site, product, weight, dim)
            rows[weight.name] = weight.index, dim
            columns[weight.name] = product.data.index, product.reads[0][0]
    masked = tuple(_masked(graph, units, rules))
    return Channels(tuple(layers.values()), rows, columns, masked, units, graph, rules)


def _product(site: Site, rules: Rules) -> tuple[Product, Value, int] | None:
    """A product with a parameter that lists its output channels in one dimension; which, and in which."""
    product = product_of(site, rules)
    if product is None or len(product.makes) != 1 or not product.reads:
        return None
    dim = product.makes[0][1]
    held = None if dim is None else _held(site.graph, product.weight, dim, rules)
    return None if held is None else (product, *held)


def _held(graph: Graph, value: Value, dim: int, rules: Rules) -> tuple[Value, int] | None:
    """The parameter that `value` is or is a view of, and its dimension that is dimension `dim` of `value`."""
    number = graph.producer[value.index]
    if number is None:
        return (value, dim) if value.origin is Origin.PARAMETER else None
    op = graph.ops[number]
    for move in moves_of(op, rules) if len(op.operands) == 1 else ():
        for block in move.blocks:
            if move.covers and block.is_plain and block.target == (dim,):
                return _held(graph, op.operands[0], block.source[0], rules)
    return None


def _layer(site: Site, product: Product, weight: Value, dim: int) -> ScoredLayer:
    graph, op, bias = site.graph, site.op, product.bias
    path = weight.name.rpartition(".")[0]
    norm = _norm(graph, op)
    output = path if op.owner.path == path and _leaves(graph, op) else ""
    if norm is not None:
        output = norm.owner.path
    return ScoredLayer(
        path,
        weight.name,
        dim,
        weight.shape[dim],
        bias.name if bias is not None and bias.origin is Origin.PARAMETER else "",
        "" if norm is None else norm.arguments["weight"].name,
        output,
        product.makes[0][0] - op.result.ndim,
    )


def _leaves(graph: Graph, op: Op) -> bool:
    """Whether the module that runs `op` does nothing more with its result."""
    readers = (graph.ops[number].owner.path for number in graph.readers[op.result.index])
    return not any(is_within(path, op.owner.path) for path in readers)


def _norm(graph: Graph, op: Op) -> Op | None:
    """The BatchNorm with a weight that alone reads the result of `op`."""
    readers = graph.readers[op.result.index]
    if len(readers) != 1:
        return None
    reader = graph.ops[readers[0]]
    weight = reader.arguments.get("weight")
    is_norm = reader.name == "batch_norm" and reader.operands[0] is op.result
    return reader if is_norm and isinstance(weight, Value) and weight.origin is Origin.PARAMETER else None


def _masked(graph: Graph, units: Units, rules: Rules) -> Iterator[tuple[str, Dim]]:
    """The dimensions of parameters that are channels of what is computed from them."""
    for value in graph.state:
        if value.origin is not Origin.PARAMETER:
            continue
        made = {
            units.class_of((result.index, d))
            for result in _made_from(graph, value, rules)
            for d in range(result.ndim)
        }
        for d in range(value.ndim):
            if value.shape[d] > 1 and units.class_of((value.index, d)) in made:
                yield value.name, (value.index, d)


def _made_from(graph: Graph, value: Value, rules: Rules) -> Iterator[Value]:
    """What is computed from a tensor or a view of it."""
    for op in (graph.ops[number] for number in graph.readers[value.index]):
        for result in op.results:
            is_view = len(op.operands) == 1 and bool(moves_of(op, rules))
            yield from _made_from(graph, result, rules) if is_view else (result,)
