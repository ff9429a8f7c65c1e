"""Operators run on other tensors than those of the trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from speedup.ir.expressions import with_traced_numbers
from speedup.ir.graph import Op, Value, call_arguments
from speedup.ir.operators import functional_form
from speedup.torch_api import schema_of


def evaluate(op: Op, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Run the op on `tensors` in place of its operands, on the CPU and without side effects.

    Operands that are numbers are passed as such, unless the op is arithmetic of numbers.
    """
    supply = iter(tensors)
    is_arithmetic = any(r.is_number for r in op.results)

    def fill(argument: Any) -> Any:
        if isinstance(argument, Value):
            given = next(supply)
            return given.item() if argument.is_number and not is_arithmetic else given
        if isinstance(argument, tuple):
            return [fill(a) for a in argument]
        return with_traced_numbers(argument)

    target = functional_form(op.target)
    filled = {name: fill(argument) for name, argument in op.arguments.items()}
    if filled.get("device") is not None:
        filled["device"] = torch.device("cpu")
    positional, keywords = call_arguments(op, filled)
    if schema_of(target).is_mutable:
        positional = [p.clone() if isinstance(p, Tensor) else p for p in positional]
    if is_arithmetic:
        positional = [_widest(a) if isinstance(a, int | float) else a for a in positional]
    results = target(*positional, **keywords)
    if not isinstance(results, Tensor) and is_arithmetic:
        return (torch.tensor(results, dtype=op.result.dtype),)
    return tuple(results) if isinstance(results, list | tuple) else (results,)


def _widest(number: float) -> Tensor:
    """A Python number as a tensor that loses nothing of it."""
    return torch.tensor(number, dtype=torch.float64 if isinstance(number, float) else None)
