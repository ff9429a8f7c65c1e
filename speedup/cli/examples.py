"""Example inputs from the command line: shapes and types in short, or a file of tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speedup.cli.options import SYNTAX
from speedup.cli.references import read_state
from speedup.errors import InputError, WeightsError

CALL_SYNTAX = '--call "1x3x97x97" or --call "ids=1x1:int64:1000 past=1x4x5x8"'

_ITEM = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*|scalar)(?::(?P<dtype>\w+)(?::(?P<below>\d+))?)?"
)
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
}
_FILES = (".pt", ".pth", ".safetensors")


def example_of(items: Sequence[str]) -> Any:
    """The example input that `--input`, given once per argument, describes: positional ones, then keywords.

    Floats are standard normal, integers lie below the bound that is given (2 without one), booleans are
    random; the same text always gives the same tensors. A file holds a dict of keyword arguments.

    Raises:
        InputError: an item has another form, names no type, or several items do not go together.
    """
    if len(items) == 1 and items[0].endswith(_FILES):
        return _from_file(Path(items[0]))
    generator = torch.Generator().manual_seed(0)
    args: list[Tensor] = []
    kwargs: dict[str, Tensor] = {}
    for item in items:
        name, tensor = _tensor(item, generator)
        if name is None and kwargs:
            raise InputError(
                f"input {item!r} has no name but comes after one that has; positional ones go first"
            )
        if name in kwargs:
            raise InputError(f"input {item!r}: {name!r} is given twice")
        if name is None:
            args.append(tensor)
        else:
            kwargs[name] = tensor
    if args and kwargs:
        raise InputError(
            "name all inputs (name=shape:dtype) or none: positional and keyword arguments are mixed"
        )
    return kwargs or (args[0] if len(args) == 1 else tuple(args))


def call_of(text: str) -> Any:
    """The further call of the model that a `--call` describes: its inputs, or a file of them.

    The inputs are written as for `--input`, with spaces or semicolons between them.

    Raises:
        InputError: there are none, or one of them is wrong; says in which call.
    """
    text = text.strip()
    items = [text] if text.endswith(_FILES) else text.replace(";", " ").split()
    if not items:
        raise InputError(f"a call has no inputs; write them like those of {CALL_SYNTAX}")
    try:
        return example_of(items)
    except InputError as error:
        raise InputError(f"call {text!r}: {error}") from error


def _tensor(item: str, generator: torch.Generator) -> tuple[str | None, Tensor]:
    match = _ITEM.fullmatch(item)
    if match is None:
        raise InputError(f"input {item!r} cannot be read; write it like {SYNTAX}")
    dtype = _DTYPES.get(match["dtype"] or "float32")
    if dtype is None:
        raise InputError(
            f"input {item!r}: there is no type {match['dtype']!r}; choose one of {', '.join(_DTYPES)}"
        )
    shape = () if match["shape"] == "scalar" else tuple(int(n) for n in match["shape"].split("x"))
    if dtype is torch.bool or not (dtype.is_floating_point or dtype.is_complex):
        below = int(match["below"] or 2)
        if below < 1:
            raise InputError(f"input {item!r}: integers below {below} are none from 0 on")
        return match["name"], torch.randint(below, shape, generator=generator).to(dtype)
    if match["below"] is not None:
        raise InputError(f"input {item!r}: a bound is for integers, not for {match['dtype']}")
    drawn = torch.complex64 if dtype.is_complex else torch.float32
    return match["name"], torch.randn(shape, generator=generator, dtype=drawn).to(dtype)


def _from_file(path: Path) -> dict[str, Tensor]:
    try:
        return dict(read_state(path))
    except WeightsError as error:
        problem = str(error).removeprefix("weights ")
        raise InputError(f"input {problem}: a file of inputs holds a dict of keyword arguments") from error
