"""What a rule says of an operator that reads parameters: which layer it is, and along what it can shrink.

Reports, pruners, alignment and the attributes of torch's own modules all ask this; they know no operator by
name. A product with a weight, whichever operator computes it, needs no more than `product`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

from attrs import frozen
from torch import Tensor, nn

from speedup.engine.constraints import Dim
from speedup.engine.lattice import Fact, any_along
from speedup.ir.graph import Graph, Op, Origin, Shape, Value
from speedup.rules.site import Site

MAKES, READS, UNITS, HEADS = "makes", "reads", "units", "heads"

Attributes = Mapping[str, int | tuple[int, ...]]


@frozen
class KernelDim:
    """A dimension of a product with a weight whose extent its kernel is fast or slow at.

    The product computes these channels ("out") or reads them ("in"), in `groups` equal runs. `weight` is
    the name of the weight, or of what it is made from; empty where there are several or none.
    """

    dim: Dim
    side: Literal["out", "in"]
    groups: int = 1
    weight: str = ""


@frozen(eq=False)
class Product:
    """A product with a weight: which dimensions list the channels that it makes and those that it reads.

    Attributes:
        data: the operand that the weight is multiplied with, summed over the channels that are read.
        weight: the other one.
        bias: what is added to each channel, None if nothing is.
        makes: pairs of a dimension of the result and the dimension of the weight that lists the same
            channels; None where the weight has none of its own, as a transposed convolution in groups.
        reads: such pairs of a dimension of `data` and one of the weight.
        is_depthwise: each channel is made of one of its own.
        empty: for an entry of `makes` and what is known of the weight, a bool vector over its channels, True
            where all weights are zero; None: looked up in the weight's own dimension.
        groups: in how many equal runs channels are made, each of a run of its own; 1 if it is depthwise.
    """

    data: Value
    weight: Value
    bias: Value | None
    makes: tuple[tuple[int, int | None], ...]
    reads: tuple[tuple[int, int | None], ...]
    is_depthwise: bool = False
    empty: Callable[[Fact], Tensor] | None = None
    groups: int = 1

    def kernel_dims(self, site: Site) -> Iterator[KernelDim]:
        """Rows and columns that one dimension lists, those of one group before all together.

        A depthwise kernel has but one width.
        """
        held = held_by(site.graph, self.weight)
        name = "" if held is None else held.name
        for groups in dict.fromkeys((self.groups, 1)):
            if len(self.makes) == 1:
                yield KernelDim((site.op.results[0].index, self.makes[0][0]), "out", groups, name)
            if len(self.reads) == 1 and not self.is_depthwise:
                yield KernelDim((self.data.index, self.reads[0][0]), "in", groups, name)

    def empty_rows(self, number: int, weight: Fact) -> Tensor:
        """Channels of entry `number` of `makes` that are made with zeros alone."""
        if self.empty is not None:
            return self.empty(weight)
        dim = self.makes[number][1]
        assert dim is not None, "channels that the weight does not list need `empty`"
        return ~any_along(weight.maybe_nonzero, dim, self.weight.shape[dim])


@frozen(eq=False)
class LayerAxis:
    """A dimension along which a layer can shrink that is no product with a weight.

    `weights` shrink along it, each in proportion, and `share` is the part of the op's work that does.
    `needed` gives the indices needed for their own sake; None: what is live and no constant along the
    dimension. `idle` gives those that nothing ever enters. A layer's `is_own` axes are told about when they
    could shrink but do not.
    """

    name: str
    dim: Dim
    weights: tuple[Value, ...]
    needed: Callable[[], Tensor] | None = None
    share: float = 1.0
    which: str = ""
    idle: Callable[[], Tensor] | None = None
    is_own: bool = False


def no_product(site: Site) -> Product | None:
    """The op multiplies nothing with a weight."""
    return None


def no_axes(site: Site) -> Iterable[LayerAxis]:
    """There is nothing else that could shrink."""
    return ()


def never_takes_bias(op: Op) -> bool:
    """No module that runs the op would use a bias that it gets."""
    return False


@frozen(eq=False)
class WeightRule:
    """What an operator with parameters is, as a layer; the default is none.

    Attributes:
        product: the product with a weight that it computes; None if these operands make none.
        axes: along what else it can shrink.
        attributes: by the class of the module that runs it, the module's attributes at given sizes.
        settable: by class, arguments that the module reads from attributes and that may be set.
        takes_bias: whether the module that runs it would use a bias if it had one.
    """

    product: Callable[[Site], Product | None] = no_product
    axes: Callable[[Site], Iterable[LayerAxis]] = no_axes
    attributes: Mapping[type[nn.Module], Callable[[Op, Callable[[Value], Shape]], Attributes]] = (
        MappingProxyType({})
    )
    settable: Mapping[type[nn.Module], frozenset[str]] = MappingProxyType({})
    takes_bias: Callable[[Op], bool] = never_takes_bias

    def attributes_of(self, op: Op, sizes: Callable[[Value], Shape]) -> Mapping[str, Any]:
        """Attributes of the module that runs `op`, as they have to be at `sizes`."""
        for kind, attributes in self.attributes.items():
            if issubclass(op.owner.type, kind):
                return attributes(op, sizes)
        return {}

    def settable_of(self, op: Op) -> frozenset[str]:
        """Arguments of `op` that its module reads from an attribute of its own."""
        return frozenset().union(*(n for kind, n in self.settable.items() if issubclass(op.owner.type, kind)))


NO_LAYER = WeightRule()


def normalization_weight(last: bool) -> WeightRule:
    """A normalization with a scale per channel: along the last dimension, or along the second."""

    def axes(site: Site) -> Iterable[LayerAxis]:
        op, result = site.op, site.op.results[0]
        weights = tuple(v for v in op.operands[1:] if v.origin is Origin.PARAMETER)
        if weights:
            yield LayerAxis(MAKES, (result.index, result.ndim - 1 if last else 1), weights)

    return WeightRule(axes=axes)


def is_weight(site: Site, value: Value) -> bool:
    """Whether a tensor is a parameter or buffer, or one that was transposed, scaled or the like."""
    return held_by(site.graph, value) is not None


def held_by(graph: Graph, value: Value) -> Value | None:
    """The parameter or buffer that a tensor is, transposed, scaled or the like; None if it is none."""
    producer = graph.producer[value.index]
    if producer is None:
        return value if value.is_state else None
    operands = graph.ops[producer].operands
    return held_by(graph, operands[0]) if len(operands) == 1 else None
