"""A checkpoint on disk: its tensors, of which rows are read as they are needed, and its other files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from attrs import frozen
from safetensors import safe_open
from torch import Tensor

from speedup.errors import CheckpointError
from speedup.ir.graph import Shape
from speedup.stored.packed import require_unpacked
from speedup.writing import StrPath

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"

# What safetensors calls the types of tensors.
TYPES: Final[Mapping[str, torch.dtype]] = MappingProxyType(
    {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "C64": torch.complex64,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
    }
)
# Files of weights in other formats, which would be those of the large model.
_WEIGHTS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".gguf",
    ".onnx",
    ".index.json",
)


@frozen
class StoredTensor:
    """A tensor in a file, from byte `start` on. `read` and `bytes` raise `CheckpointError`."""

    file: Path
    start: int
    shape: Shape
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, start: int, stop: int) -> Tensor:
        """Rows from `start` up to `stop`; the whole of a tensor that has no dimension."""
        if not self.shape:
            return self.bytes(0, self.size).view(self.dtype).reshape(())
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        flat = self.bytes(start * row, stop * row)
        return flat.view(self.dtype).reshape(stop - start, *self.shape[1:])

    def bytes(self, start: int, stop: int) -> Tensor:
        """Bytes from `start` up to `stop`, which no other tensor shares."""
        held = torch.empty(stop - start, dtype=torch.uint8)
        try:
            with self.file.open("rb", buffering=0) as file:
                file.seek(self.start + start)
                view, found = held.numpy().data, 0
                while found < len(view):
                    count = file.readinto(view[found:])
                    if not count:
                        raise CheckpointError(f"{str(self.file)!r} has become shorter while it was read")
                    found += count
        except OSError as error:
            raise CheckpointError(f"{str(self.file)!r} cannot be read: {error.strerror}") from error
        return held


@frozen
class StoredCheckpoint:
    """The tensors of a folder, in the order of its files, and what else lies there, weights apart.

    `path` is the folder, or the one file that was named.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    others: tuple[Path, ...]


def read_checkpoint(source: StrPath) -> StoredCheckpoint:
    """What a folder in the form of Hugging Face holds, or a safetensors file; no tensor is read yet.

    A folder holds `model.safetensors`, or shards and `model.safetensors.index.json`.

    Raises:
        CheckpointError: there is no such folder, file or shard; one is truncated or damaged; the index says
            something else than the shards; or the weights are packed.
    """
    path = Path(source)
    if path.is_file():
        tensors = _tensors_of(path)
        require_unpacked(path.parent, tensors)
        return StoredCheckpoint(path, MappingProxyType(tensors), ())
    if not path.is_dir():
        raise CheckpointError(
            f"there is no folder {str(path)!r}, nor such a file. Name a folder that holds {SINGLE} or "
            f"{INDEX}, or a safetensors file."
        )
    index = path / INDEX
    tensors = {}
    if index.is_file():
        for shard, names in _by_shard(index).items():
            found = _tensors_of(path / shard)
            _require_listed(index, shard, names, set(found))
            tensors.update(found)
    elif (path / SINGLE).is_file():
        tensors = _tensors_of(path / SINGLE)
    else:
        raise CheckpointError(
            f"{str(path)!r} holds neither {SINGLE} nor {INDEX}. Save the weights as safetensors, as "
            "model.save_pretrained does."
        )
    require_unpacked(path, tensors)
    others = (file for file in sorted(path.iterdir()) if file.is_file() and not _is_left_out(file.name))
    return StoredCheckpoint(path, MappingProxyType(tensors), tuple(others))


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name.endswith(_WEIGHTS)


def _by_shard(index: Path) -> dict[str, set[str]]:
    """The names that an index lists, by the file that is to hold them."""
    try:
        weights = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        places = {str(name): str(shard) for name, shard in weights.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{str(index)!r} is damaged ({type(error).__name__}: {error}): it has no weight_map. Fetch it "
            "again."
        ) from error
    found: dict[str, set[str]] = {}
    for name, shard in places.items():
        if Path(shard).name != shard:
            raise CheckpointError(f"{str(index)!r} says that {name!r} is in {shard!r}, outside the folder")
        found.setdefault(shard, set()).add(name)
    return found


def _require_listed(index: Path, shard: str, listed: set[str], held: set[str]) -> None:
    for names, words in ((listed - held, "does not hold"), (held - listed, "holds besides")):
        if names:
            raise CheckpointError(
                f"{str(index)!r} lists other tensors than there are: {shard!r} {words} {min(names)!r}. Fetch "
                "both again."
            )


def _tensors_of(file: Path) -> dict[str, StoredTensor]:
    if not file.is_file():
        raise CheckpointError(f"there is no file {str(file)!r}, a part of the checkpoint. Fetch it again.")
    try:
        # The library's own checks: that the header is whole, and that the file is as long as it says.
        with safe_open(file, framework="pt"):
            pass
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header: dict[str, Any] = json.loads(opened.read(length))
    except Exception as error:
        raise CheckpointError(
            f"{str(file)!r} is truncated, damaged or no safetensors file ({type(error).__name__}: {error}). "
            "Fetch it again."
        ) from error
    header.pop("__metadata__", None)
    unknown = next((name for name, said in header.items() if said["dtype"] not in TYPES), None)
    if unknown is not None:
        raise CheckpointError(
            f"tensor {unknown!r} in {str(file)!r} is of type {header[unknown]['dtype']}, which is packed or "
            "not known here. Make the checkpoint smaller as it was before it was quantised."
        )
    return {
        name: StoredTensor(
            file, 8 + length + said["data_offsets"][0], tuple(said["shape"]), TYPES[said["dtype"]]
        )
        for name, said in header.items()
    }
