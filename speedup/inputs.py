"""Example inputs and outputs as flat lists of tensors, whatever structure carries them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from attrs import frozen
from torch import Tensor
from torch.utils import _pytree as pytree

from speedup.errors import InputError


@frozen(eq=False)
class Example:
    """One call of a model: its tensors, and how to rebuild the call around other tensors."""

    tensors: tuple[Tensor, ...]
    _leaves: tuple[Any, ...] = attrs.field(alias="leaves")
    _spec: pytree.TreeSpec = attrs.field(alias="spec")

    def call(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the same call with `tensors` in place of the example's."""
        supply = iter(tensors)
        leaves = [next(supply) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return tuple(args), dict(kwargs)

    def replaced(self, tensors: Sequence[Tensor]) -> Example:
        """The same call with `tensors` for the example's."""
        return attrs.evolve(self, tensors=tuple(tensors))


def example_from(x: Any, kwargs: Mapping[str, Any] | None = None) -> Example:
    """Read `x` as a call: a tensor, a tuple or list of arguments, or a dict of keyword arguments.

    Raises:
        InputError: there is no tensor to trace with, or `x` is none of these.
    """
    keywords = dict(kwargs or {})
    if isinstance(x, Tensor):
        args: tuple[Any, ...] = (x,)
    elif isinstance(x, Mapping):
        args, keywords = (), {**x, **keywords}
    elif isinstance(x, tuple | list):
        args = tuple(x)
    elif x is None and keywords:
        args = ()
    else:
        raise InputError(
            f"the example input is {type(x).__name__}; pass what the forward takes: a tensor, "
            "a tuple of positional arguments, or a dict of keyword arguments"
        )
    leaves, spec = pytree.tree_flatten((args, keywords))
    tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
    if not tensors:
        raise InputError(
            "the example input holds no tensor; pass one input of the shape that the model is "
            "used with, e.g. torch.randn(1, 3, 224, 224)"
        )
    return Example(tensors, tuple(leaves), spec)


def tensors_of(output: Any) -> tuple[Tensor, ...]:
    """The tensors of a forward's output in a fixed order, from tuples, dicts, dataclasses and objects."""
    return tuple(leaf for _, leaf in leaves_of(output) if isinstance(leaf, Tensor))


def leaves_of(output: Any) -> Iterator[tuple[str, Any]]:
    """The tensors, numbers and strings of an output, each with its place in it (`[0].logits`)."""
    return _walk(output, "", set())


def _walk(item: Any, place: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(item, Tensor | str | int | float | bool | None):
        yield place, item
        return
    if isinstance(item, type) or id(item) in seen:
        return
    seen.add(id(item))
    if isinstance(item, Mapping):
        for key, value in item.items():
            yield from _walk(value, f"{place}[{key!r}]", seen)
    elif isinstance(item, list | tuple | set | frozenset):
        for number, value in enumerate(item):
            yield from _walk(value, f"{place}[{number}]", seen)
    else:
        for name, value in _fields(item):
            yield from _walk(value, f"{place}.{name}", seen)


def _fields(item: Any) -> Iterator[tuple[str, Any]]:
    for kind in type(item).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if hasattr(item, name):
                yield name, getattr(item, name)
    yield from getattr(item, "__dict__", {}).items()


def batch_size(example: Example) -> int | None:
    """The extent that all inputs share along their first dimension; None when there is none.

    Images (channels, height, width) in a list are samples of their own: their first dimension is no batch.
    """
    args, kwargs = example.call(example.tensors)
    if any(_holds_images(argument) for argument in (*args, *kwargs.values())):
        return None
    firsts = {t.shape[0] for t in example.tensors if t.ndim}
    return firsts.pop() if len(firsts) == 1 else None


def _holds_images(argument: Any) -> bool:
    return isinstance(argument, list) and any(isinstance(t, Tensor) and t.ndim == 3 for t in argument)


def fresh_inputs(example: Example, batch: int | None, generator: torch.Generator) -> tuple[Tensor, ...]:
    """New tensors like the example's: floats of its mean and spread, other values drawn from its own.

    `batch` replaces the first extent of every input that has one; None keeps all shapes.
    """
    return tuple(_fresh(t, batch, generator) for t in example.tensors)


def _fresh(tensor: Tensor, batch: int | None, generator: torch.Generator) -> Tensor:
    shape = tensor.shape if batch is None or not tensor.ndim else torch.Size((batch, *tensor.shape[1:]))
    if tensor.is_floating_point() or tensor.is_complex():
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        mean, spread = 0.0, 1.0
        if tensor.numel() > 1 and not tensor.is_complex():
            mean, spread = float(tensor.double().mean()), float(tensor.double().std())
        return (drawn * (spread or 1.0) + mean).to(tensor)
    flat = tensor.reshape(-1).cpu()
    chosen = torch.randint(flat.numel(), (shape.numel(),), generator=generator)
    return flat[chosen].reshape(shape).to(tensor.device)
