"""Shards of a checkpoint: which tensor goes into which file, and how a file is written as tensors come."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from attrs import frozen
from torch import Tensor

from speedup.errors import InputError
from speedup.ir.graph import Shape
from speedup.stored.reading import INDEX, SINGLE, TYPES

_NAMES: Final = MappingProxyType({dtype: name for name, dtype in TYPES.items()})
_UNITS: Final = MappingProxyType(
    {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", re.IGNORECASE)


@frozen(eq=False)
class NewTensor:
    """A tensor to be written: `blocks` gives its rows, some at a time."""

    name: str
    shape: Shape
    dtype: torch.dtype
    blocks: Callable[[], Iterator[Tensor]]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def size_in_bytes(size: int | str) -> int:
    """5000000000 for "5GB", 1024 for "1KiB".

    Raises:
        InputError: it is no size, or none of a file.
    """
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    found = size if isinstance(size, int) else 0
    if match is not None:
        found = int(float(match[1]) * _UNITS[(match[2] or "").upper()])
    if isinstance(size, bool) or found < 1:
        raise InputError(f"max_shard_size={size!r} is no size of files; write bytes, or a text such as '5GB'")
    return found


def shards_of(tensors: Iterable[NewTensor], most: int) -> Mapping[str, Sequence[NewTensor]]:
    """Tensors in their order by the file that they go into, none of more than `most` bytes or one tensor.

    The names are those that transformers looks for.
    """
    parts: list[list[NewTensor]] = [[]]
    for tensor in tensors:
        if parts[-1] and sum(t.size for t in parts[-1]) + tensor.size > most:
            parts.append([])
        parts[-1].append(tensor)
    if len(parts) == 1:
        return {SINGLE: parts[0]}
    return {f"model-{n:05}-of-{len(parts):05}.safetensors": part for n, part in enumerate(parts, 1)}


def index_of(shards: Mapping[str, Sequence[NewTensor]]) -> tuple[str, str] | None:
    """The name and text of the file that says where each tensor is; None where there is one file alone."""
    if len(shards) == 1:
        return None
    places = {tensor.name: shard for shard, tensors in shards.items() for tensor in tensors}
    total = sum(tensor.size for tensors in shards.values() for tensor in tensors)
    body = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    return INDEX, json.dumps(body, indent=2) + "\n"


def write_shard(path: Path, tensors: Sequence[NewTensor], wrote: Callable[[int], None]) -> None:
    """Write a safetensors file; `wrote` is told of bytes as they are written.

    The format is a header in JSON, its length before it, and the tensors one after the other:
    https://github.com/huggingface/safetensors#format. Wide types come first, so that each tensor lies at a
    multiple of its elements' size.
    """
    ordered = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for tensor in ordered:
        offsets = [place, place + tensor.size]
        header[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
        place += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered:
            for block in tensor.blocks():
                wrote(file.write(_memory_of(block)))


def _memory_of(tensor: Tensor) -> memoryview:
    """The elements of a tensor in order, as the machine holds them; not copied where they lie so."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
