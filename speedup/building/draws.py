"""What two models are compared on: inputs like an example's, and which of them a model takes.

Of a floating-point input any numbers will do, but integers and booleans may index, count, delimit or select,
and then few do: lengths of a packed sequence, offsets of bags, shapes of levels, a mask with something left
in every row. Nothing in a call says which they are. So inputs are drawn from the most varied to the least:

1. floats with the mean and spread of the example's, integers and booleans redrawn from its own values;
2. the same floats, integers and booleans as in the example;
3. the example's own tensors.

The first that the reference takes is the one to compare on: that it runs is what shows that its integers are
free. A draw that it refuses says nothing of the other model. Without floats, or without others, 2 is the
same as 1 or 3 and is left out. At another batch size, "as in the example" means its rows, cycled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeVar

import torch
from attrs import frozen
from torch import Tensor

from speedup.ir.inputs import Example, fresh_inputs

Values = Literal["redrawn", "as in the example"]
Result = TypeVar("Result")


@frozen(eq=False)
class Draw:
    """Tensors for a call, and where their values are from; None where there are none of the kind.

    `floats` is for floating-point and complex tensors, `integers` for integers and booleans.
    """

    tensors: tuple[Tensor, ...]
    floats: Values | None
    integers: Values | None

    @property
    def is_varied(self) -> bool:
        """Whether any values are other than the example's."""
        return "redrawn" in (self.floats, self.integers)


def draws(example: Example, size: int | None, generator: torch.Generator) -> Iterator[Draw]:
    """Inputs like the example's, from the most varied to the least; equal generators give equal ones.

    `size` is the first extent of every tensor that has one; None keeps all shapes.
    """
    are_floats = [_is_float(tensor) for tensor in example.tensors]
    floats, integers = any(are_floats), not all(are_floats)
    fresh = fresh_inputs(example, size, generator)
    given = tuple(_rows(tensor, size) for tensor in example.tensors)
    yield Draw(fresh, _from("redrawn", floats), _from("redrawn", integers))
    if floats and integers:
        mixed = zip(are_floats, fresh, given, strict=True)
        yield Draw(tuple(a if free else b for free, a, b in mixed), "redrawn", "as in the example")
    yield Draw(given, _from("as in the example", floats), _from("as in the example", integers))


def first_taken(drawn: Iterable[Draw], run: Callable[[Sequence[Tensor]], Result]) -> tuple[Draw, Result]:
    """The first draw on whose tensors `run` raises nothing, and what it returns there.

    Raises:
        Exception: `run` refuses all; this is what it raises on the last.
    """
    refusal: Exception | None = None
    for draw in drawn:
        try:
            return draw, run(draw.tensors)
        except Exception as error:
            refusal = error
    raise refusal or ValueError("nothing was drawn")


def _from(values: Values, are_any: bool) -> Values | None:
    return values if are_any else None


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _rows(tensor: Tensor, size: int | None) -> Tensor:
    """The tensor's rows, cut off or from the first one again, until there are `size`."""
    if size is None or not tensor.ndim or tensor.shape[0] == size:
        return tensor
    if not tensor.shape[0]:
        return tensor.new_zeros((size, *tensor.shape[1:]))
    return tensor.index_select(0, torch.arange(size, device=tensor.device) % tensor.shape[0])
