"""Calls of single products with a weight at other widths than their own, to be timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.ir.expressions import with_traced_numbers
from speedup.ir.graph import Op, Shape, Value, call_arguments
from speedup.ir.operators import functional_form
from speedup.rules import product_of, rule_of
from speedup.rules.weights import KernelDim
from speedup.torch_api import Overload


@frozen
class Blank:
    """A tensor or number of a call, but for what it holds."""

    shape: Shape
    dtype: torch.dtype
    is_number: bool


@frozen
class LayerCall:
    """A call of an operator, but for what its tensors hold."""

    target: Overload
    positional: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]

    def runnable(self, fill: Callable[[Blank], Any]) -> Callable[[], object]:
        """The call, with what `fill` gives for each blank."""
        keywords = {name: _filled(argument, fill) for name, argument in self.keywords}
        return partial(self.target, *_filled(self.positional, fill), **keywords)


def measurable(analysis: Analysis) -> Iterator[tuple[Op, KernelDim]]:
    """The products of the example's call whose channels shrink, without groups or depthwise.

    Of a weight that the forward uses several times, the first.
    """
    seen: set[tuple[str, str]] = set()
    for site in filter(lambda site: analysis.graph.is_counted(site.op), analysis.sites):
        product = product_of(site, analysis.rules)
        for dim in () if product is None or product.groups > 1 else product.kernel_dims(site):
            key = (site.op.owner.path, dim.weight)
            if dim.side == "out" and key not in seen:
                seen.add(key)
                if not analysis.kept.is_full(dim.dim):
                    yield site.op, dim


def call_at(width: int, op: Op, dim: KernelDim, analysis: Analysis) -> LayerCall:
    """The call of `op` as the small model makes it, but that `width` channels are kept along `dim`.

    What else keeps the same indices, by constraint, has as many.
    """
    own = analysis.kept.class_of(dim.dim)

    def sizes(value: Value) -> Shape:
        dims = enumerate(analysis.sizes(value))
        return tuple(width if analysis.kept.class_of((value.index, d)) == own else n for d, n in dims)

    needs = rule_of(op, analysis.rules).needs(analysis.sites[op.index], sizes, analysis.kept)
    given = {**analysis.arguments(op), **needs}
    return _call(op, given, sizes)


def call_before(op: Op) -> LayerCall:
    """The call of `op` as the model makes it."""
    return _call(op, op.arguments, lambda value: value.shape)


def call_after(op: Op, analysis: Analysis) -> LayerCall:
    """The call of `op` as the small model makes it; where that states it otherwise, as the model does."""
    if op.index in analysis.restated:
        return call_before(op)
    return _call(op, analysis.arguments(op), analysis.sizes)


def _call(op: Op, given: Mapping[str, Any], sizes: Callable[[Value], Shape]) -> LayerCall:
    arguments = {name: _blank(argument, sizes) for name, argument in given.items()}
    positional, keywords = call_arguments(op, arguments)
    return LayerCall(functional_form(op.target), tuple(positional), tuple(keywords.items()))


def _blank(argument: Any, sizes: Callable[[Value], Shape]) -> Any:
    if isinstance(argument, Value):
        return Blank(sizes(argument), argument.dtype, argument.is_number)
    if isinstance(argument, tuple | list):
        return tuple(_blank(a, sizes) for a in argument)
    return with_traced_numbers(argument)


def _filled(argument: Any, fill: Callable[[Blank], Any]) -> Any:
    if isinstance(argument, Blank):
        return fill(argument)
    return [_filled(a, fill) for a in argument] if isinstance(argument, tuple) else argument


def random_like(
    blank: Blank, device: torch.device, dtype: torch.dtype | None, layout: torch.memory_format
) -> Any:
    """A tensor of random numbers, zeros of whole ones; `layout` is that of four dimensions."""
    is_real = blank.dtype.is_floating_point
    if blank.is_number:
        return 1.0 if is_real else 1
    make: Callable[..., Tensor] = torch.randn if is_real or blank.dtype.is_complex else torch.zeros
    found = make(blank.shape).to(device, dtype if dtype is not None and is_real else blank.dtype)
    return found.contiguous(memory_format=layout) if found.ndim == 4 else found
