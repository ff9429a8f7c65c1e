"""`compact_checkpoint`: a plan applied to a checkpoint on disk, which becomes a smaller one beside it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import torch
from attrs import frozen
from torch import Tensor

from speedup.checkpoints.shards import NewTensor, index_of, shards_of, size_in_bytes, write_shard
from speedup.cutting.blocks import changed_blocks
from speedup.cutting.planned import PlannedTensors
from speedup.errors import InputError
from speedup.ir.edits import NewBias
from speedup.plan import Plan
from speedup.stored.changes import stored_changes
from speedup.stored.reading import StoredCheckpoint, StoredTensor, read_checkpoint
from speedup.writing import StrPath, new_folder

PLAN_FILE: Final = "speedup_plan.json"
"""The plan's file in a folder that `compact_checkpoint` wrote; `Plan.from_json` reads it."""

_BLOCK = 1 << 24


@frozen
class Progress:
    """How far `compact_checkpoint` is: bytes `written` of `total`, in `seconds`."""

    written: int
    total: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes in a second."""
        return self.written / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float:
        """What is left takes so long at this rate."""
        return (self.total - self.written) / self.rate if self.rate else 0.0


def compact_checkpoint(
    plan: Plan,
    src: StrPath,
    dst: StrPath,
    *,
    max_shard_size: int | str = "5GB",
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Write the small model's checkpoint from the planned model's, without either in memory.

    Each tensor is what `materialize` makes of it, bit for bit. A block of 16 MB is read and written at once,
    or a row of a tensor where that is larger; rows that go are not read. Only a tensor whose rows take
    multiples of other rows (the weight of a transposed convolution behind padding) is read as a whole. The
    numbers that the plan depends on are checked first, for which those tensors are read once more.

    Nothing is written into `src`. `dst` appears when it is whole: until then the files are in a folder beside
    it whose name begins with a dot and ends in `.unfinished`, which a failure removes, and where the process
    was killed the next call.

    Args:
        plan: what `plan_speedup` or `Plan.from_json` returned, for a model whose state dict has the names
            that the checkpoint has.
        src: a folder in the form of Hugging Face: `model.safetensors`, or shards and an index.
        dst: a folder that is not there yet, or empty. It gets shards, an index, all other files of `src` that
            are no weights, as they are (`config.json` tells the sizes of the planned model), and the plan as
            `speedup_plan.json`.
        max_shard_size: of a file, in bytes or as a text such as "5GB"; a larger tensor has a file of its own.
        progress: is told after every block.

    Raises:
        CheckpointError: `src` lacks something, is damaged, packed (fp8, GPTQ, AWQ, ...) or another model's.
        ArchitectureError: a tensor is not known to the plan, or of another shape or kind.
        OtherWeightsError: the plan does not hold for these numbers.
        FileWriteError: `dst` is there already, is being written by another process, or cannot be written to.
        InputError: `max_shard_size` is no size, or `dst` lies in `src`.
    """
    most = size_in_bytes(max_shard_size)
    if Path(src).resolve() in (Path(dst).resolve(), *Path(dst).resolve().parents):
        raise InputError(f"{str(dst)!r} is in the source {str(src)!r}, which is not written to; name another")
    text = plan.to_json()
    with torch.inference_mode(mode=False), torch.no_grad():
        stored = read_checkpoint(src)
        shards = shards_of(_new_tensors(PlannedTensors(plan), stored), most)
        watch = _Watch(sum(tensor.size for part in shards.values() for tensor in part), progress)
        with new_folder(dst) as folder:
            for other in stored.others:
                shutil.copyfile(other, folder / other.name)
            for name, tensors in shards.items():
                write_shard(folder / name, tensors, watch.add)
            (folder / PLAN_FILE).write_text(text, encoding="utf-8")
            index = index_of(shards)
            if index is not None:
                (folder / index[0]).write_text(index[1], encoding="utf-8")


class _Watch:
    """Counts bytes and tells of them."""

    def __init__(self, total: int, progress: Callable[[Progress], None] | None) -> None:
        self._total, self._progress = total, progress
        self._written, self._began = 0, time.monotonic()

    def add(self, count: int) -> None:
        self._written += count
        if self._progress is not None:
            self._progress(Progress(self._written, self._total, time.monotonic() - self._began))


def _new_tensors(planned: PlannedTensors, stored: StoredCheckpoint) -> list[NewTensor]:
    """All that is to be written; what is not as planned is found before anything is."""
    found: list[NewTensor] = []
    met: set[str] = set()
    for name, change in stored_changes(planned, stored).items():
        tensor = stored.tensors[name]
        blocks = partial(changed_blocks, change, tensor, _BLOCK)
        found.append(NewTensor(name, change.shape(tensor.shape), tensor.dtype, blocks))
        canonical = planned.canonical(name)
        if canonical not in met:
            found.extend(_new_bias(edit, tensor) for edit in planned.new_biases(canonical))
        met.add(canonical)
    return found


def _new_bias(edit: NewBias, like: StoredTensor) -> NewTensor:
    value = edit.value.tensor

    def blocks() -> Iterator[Tensor]:
        yield value.to(like.dtype)

    return NewTensor(edit.name, tuple(value.shape), like.dtype, blocks)
