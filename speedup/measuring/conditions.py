"""Where, in which type and with how many threads something is measured."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from speedup.errors import InputError
from speedup.ir.inputs import Example


@frozen
class Conditions:
    """Under which latencies were measured."""

    device: str
    dtype: str
    threads: int
    rounds: int

    def __str__(self) -> str:
        return (
            f"{self.device}, {self.dtype}, {self.threads} CPU thread(s), "
            f"medians and quartiles of {self.rounds} interleaved rounds"
        )


def require_device(device: torch.device | str | None) -> None:
    """Raise `InputError` where there is no such device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].removesuffix(".")
        raise InputError(
            f"device={str(device)!r} cannot be measured on: {reason}. Pass one that torch has here, as 'cpu'."
        ) from error


def moved_call(example: Example, device: torch.device | str | None, dtype: torch.dtype | None) -> Example:
    """The call with its tensors there, those of real numbers in this type."""
    tensors = (t.to(device=device, dtype=dtype if t.is_floating_point() else None) for t in example.tensors)
    return example.with_tensors(tuple(tensors))


def first_real(example: Example) -> Tensor:
    """The first tensor of the call that holds real numbers, or the first of all."""
    return next((t for t in example.tensors if t.is_floating_point()), example.tensors[0])


def layout_of(example: Example) -> torch.memory_format:
    """How images lie in memory."""
    images = [t for t in example.tensors if t.ndim == 4 and not t.is_contiguous()]
    is_last = any(t.is_contiguous(memory_format=torch.channels_last) for t in images)
    return torch.channels_last if is_last else torch.contiguous_format


def conditions_of(example: Example, threads: int | None, rounds: int) -> Conditions:
    """Those of a measurement with the tensors of `example`."""
    first = first_real(example)
    device = torch.cuda.get_device_name(first.device) if first.is_cuda else str(first.device)
    return Conditions(
        device, str(first.dtype).removeprefix("torch."), threads or torch.get_num_threads(), rounds
    )
