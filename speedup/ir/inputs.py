"""Example inputs and outputs as flat lists of tensors, whatever structure carries them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from attrs import frozen
from torch import Tensor

from speedup.errors import InputError
from speedup.torch_api import TreeSpec, tree_flatten, tree_unflatten

_SEED = 10_000


@frozen
class Sketch:
    """What is known of an input tensor that is not at hand: enough to draw others like it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    mean: float
    spread: float


# Objects that nobody can write to.
_PLAIN = bool | int | float | complex | str | bytes | torch.dtype | torch.device | torch.memory_format | None


@frozen(eq=False)
class Example:
    """One call of a model: its tensors, and how to rebuild the call around other tensors.

    Of `leaves`, a tensor or a sketch marks the place of each tensor.
    """

    tensors: tuple[Tensor, ...]
    _leaves: tuple[Any, ...] = attrs.field(alias="leaves")
    _spec: TreeSpec = attrs.field(alias="spec")

    def call(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the same call with `tensors` in place of the example's."""
        supply = iter(tensors)
        leaves = [next(supply) if isinstance(leaf, Tensor | Sketch) else leaf for leaf in self._leaves]
        args, kwargs = tree_unflatten(leaves, self._spec)
        return tuple(args), dict(kwargs)

    def with_fresh_objects(self) -> Example:
        """The same call with copies of its objects that are neither tensors nor plain, such as caches: what
        is called may write to them.
        """
        if all(isinstance(leaf, Tensor | Sketch | _PLAIN) for leaf in self._leaves):
            return self
        memo: dict[int, Any] = {}
        leaves = [
            leaf if isinstance(leaf, Tensor | Sketch | _PLAIN) else _copy(leaf, memo) for leaf in self._leaves
        ]
        return attrs.evolve(self, leaves=tuple(leaves))

    def with_tensors(self, tensors: Sequence[Tensor]) -> Example:
        """The same call with `tensors` for the example's."""
        return attrs.evolve(self, tensors=tuple(tensors))

    def to(self, device: torch.device) -> Example:
        """The same call with its tensors on `device`; those that have no data are drawn."""
        return attrs.evolve(self, tensors=tuple(_move(t, device) for t in self.tensors))

    @property
    def is_drawn(self) -> bool:
        """Whether some tensors only resemble those of a call that was made."""
        return any(isinstance(leaf, Sketch) for leaf in self._leaves)

    @property
    def template(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments as they were given, with sketches where tensors are not at hand.

        Of a call at another size they have that size.
        """
        supply = iter(self.tensors)
        leaves = [
            _of_size(leaf, next(supply)) if isinstance(leaf, Tensor | Sketch) else leaf
            for leaf in self._leaves
        ]
        args, kwargs = tree_unflatten(leaves, self._spec)
        return tuple(args), dict(kwargs)


def _copy(leaf: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(leaf, memo)
    except Exception:  # objects may refuse in any way
        return leaf


def _of_size(leaf: Tensor | Sketch, tensor: Tensor) -> Tensor | Sketch:
    """What marks the place of a tensor, where it has the tensor's shape, else the same of that shape."""
    if tuple(leaf.shape) == tuple(tensor.shape):
        return leaf
    return tensor if isinstance(leaf, Tensor) else attrs.evolve(leaf, shape=tuple(tensor.shape))


def drawn_example(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Example:
    """The call of these arguments; where they are sketches, tensors are drawn, the same every time."""
    leaves, spec = tree_flatten((tuple(args), dict(kwargs)))
    generator = torch.Generator().manual_seed(_SEED)
    tensors = tuple(
        leaf if isinstance(leaf, Tensor) else draw_tensor(leaf, leaf.shape, generator)
        for leaf in leaves
        if isinstance(leaf, Tensor | Sketch)
    )
    return Example(tensors, tuple(leaves), spec)


def sketch_of(tensor: Tensor) -> Sketch:
    """Shape, type, mean and spread of a tensor; zeros stand for what are no floating-point numbers."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return Sketch(tuple(tensor.shape), tensor.dtype, 0.0, 0.0)
    mean, spread = 0.0, 1.0
    if tensor.numel() > 1 and not tensor.is_complex() and not tensor.is_meta:
        numbers = tensor.detach().double()
        mean, spread = float(numbers.mean()), float(numbers.std())
    return Sketch(tuple(tensor.shape), tensor.dtype, mean, spread or 1.0)


def draw_tensor(sketch: Sketch, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Numbers of the sketch's type, mean and spread, on the CPU."""
    numbers = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
    return (numbers * sketch.spread + sketch.mean).to(sketch.dtype)


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    if not tensor.is_meta or device.type == "meta":
        return tensor.to(device)
    generator = torch.Generator().manual_seed(_SEED)
    return draw_tensor(sketch_of(tensor), tensor.shape, generator).to(device)


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
    leaves, spec = tree_flatten((args, keywords))
    tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
    if not tensors:
        raise InputError(
            "the example input holds no tensor; pass one input of the shape that the model is "
            "used with, e.g. torch.randn(1, 3, 224, 224)"
        )
    return Example(tensors, tuple(leaves), spec)


def further_calls(others: Any) -> tuple[Example, ...]:
    """Read a sequence of calls, each as `example_from` does.

    Raises:
        InputError: it is no sequence of calls; says which one is none.
    """
    if isinstance(others, Tensor | Mapping | str) or not isinstance(others, Sequence):
        raise InputError(
            f"others is {type(others).__name__}; pass a list of calls, each a tensor, a tuple of arguments "
            "or a dict of keyword arguments"
        )
    calls = []
    for number, other in enumerate(others):
        try:
            calls.append(example_from(other))
        except InputError as error:
            raise InputError(f"others[{number}]: {error}") from error
    return tuple(calls)


def tensors_of(output: Any) -> tuple[Tensor, ...]:
    """The tensors of a forward's output in a fixed order, from tuples, dicts, dataclasses and objects."""
    return tuple(leaf for _, leaf in leaves_of(output) if isinstance(leaf, Tensor))


def leaves_of(output: Any) -> Iterator[tuple[str, Any]]:
    """The tensors, numbers and strings of an output, each with its place in it (`[0].logits`)."""
    return _walk(output, "", set())


_LEAVES = (Tensor, str, int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool, type(None))


def _walk(item: Any, place: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(item, _LEAVES):
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

    Integers in a row that are in order (offsets, lengths, segments) stay so: out of order, they may make an
    operator read memory that nobody wrote. `batch` replaces the first extent of every input that has one;
    None keeps all shapes.
    """
    return tuple(_fresh(t, batch, generator) for t in example.tensors)


def _fresh(tensor: Tensor, batch: int | None, generator: torch.Generator) -> Tensor:
    shape = tensor.shape if batch is None or not tensor.ndim else torch.Size((batch, *tensor.shape[1:]))
    if tensor.is_floating_point() or tensor.is_complex():
        return draw_tensor(sketch_of(tensor), shape, generator).to(tensor)
    flat = tensor.reshape(-1).cpu()
    if not flat.numel():
        return tensor.new_zeros(shape)
    chosen = torch.randint(flat.numel(), (shape.numel(),), generator=generator)
    values = _in_order(flat[chosen], flat) if tensor.ndim == 1 else flat[chosen]
    return values.reshape(shape).to(tensor.device)


def _in_order(values: Tensor, like: Tensor) -> Tensor:
    """The values sorted as those of `like` are, up or down, if they are."""
    numbers = like.long()
    for descending in (False, True):
        if torch.equal(numbers, numbers.sort(descending=descending).values):
            return values.long().sort(descending=descending).values.to(values.dtype)
    return values
