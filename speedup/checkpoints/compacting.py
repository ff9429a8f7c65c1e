"""`compact_checkpoint`: a plan applied to a checkpoint on disk, which becomes a smaller one beside it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from attrs import frozen
from torch import Tensor

from speedup.checkpoints.shards import NewTensor, index_of, shards_of, size_in_bytes, write_shard
from speedup.checkpoints.stock import OwnForm, StockForm, find_form
from speedup.cutting.blocks import changed_blocks
from speedup.cutting.planned import PlannedTensors
from speedup.cutting.tensors import TensorChange
from speedup.errors import InputError
from speedup.ir.edits import NewBias
from speedup.plan import Plan
from speedup.stored.changes import stored_changes
from speedup.stored.packed import CONFIG
from speedup.stored.reading import StoredCheckpoint, StoredTensor, read_checkpoint
from speedup.writing import StrPath, new_folder

PLAN_FILE: Final = "speedup_plan.json"
"""The plan's file in a folder that `compact_checkpoint` wrote; `Plan.from_json` reads it."""

SPEEDUP_KEY: Final = "speedup"
"""In the `config.json` of a model that no sizes make: where its `plan` is, and the planned one's `config`."""

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
    as_stock: bool = True,
) -> StockForm | OwnForm:
    """Write the small model's checkpoint from the planned model's, without either in memory.

    Each tensor is what `materialize` makes of it, bit for bit, but for the weights of RMSNorms of a
    `StockForm` that has lost hidden channels: these are scaled, in their type. A block of 16 MB is read and
    written at once, or a row of a tensor where that is larger; rows that go are not read. Only a tensor whose
    rows take multiples of other rows (the weight of a transposed convolution behind padding) is read as a
    whole. The numbers that the plan depends on are checked first, for which those tensors are read once more.

    Nothing is written into `src`. `dst` appears when it is whole: until then the files are in a folder beside
    it whose name begins with a dot and ends in `.unfinished`, which a failure removes, and where the process
    was killed the next call.

    Where `config.json` names a class of transformers, and that is installed, it is written anew. If some
    sizes make the small model (see `speedup.plan_uniform`), it has these, and the class's own
    `from_pretrained` loads the folder. If widths differ between layers, `speedup.hf.from_pretrained` does;
    entries that no longer are one number say so, and nothing else takes the folder for what it is not.

    Args:
        plan: what `plan_speedup` or `Plan.from_json` returned, for a model whose state dict has the names
            that the checkpoint has.
        src: a folder in the form of Hugging Face: `model.safetensors`, or shards and an index.
        dst: a folder that is not there yet, or empty. It gets shards, an index, all other files of `src` that
            are no weights, as they are but for `config.json`, and the plan as `speedup_plan.json`.
        max_shard_size: of a file, in bytes or as a text such as "5GB"; a larger tensor has a file of its own.
        progress: is told after every block.
        as_stock: False: whatever the widths are, no weights are scaled, and the folder is for
            `speedup.hf.from_pretrained`.

    Returns:
        The sizes that make the small model; or why there are none.

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
        config = _read_config(stored)
        form = _form(plan, config, as_stock)
        factors = form.factors if isinstance(form, StockForm) else {}
        shards = shards_of(_new_tensors(PlannedTensors(plan), stored, factors), most)
        watch = _Watch(sum(tensor.size for part in shards.values() for tensor in part), progress)
        with new_folder(dst) as folder:
            for other in stored.others:
                shutil.copyfile(other, folder / other.name)
            for name, tensors in shards.items():
                write_shard(folder / name, tensors, watch.add)
            (folder / PLAN_FILE).write_text(text, encoding="utf-8")
            if _architectures(config):
                (folder / CONFIG).write_text(json.dumps(new_config(config, form), indent=2) + "\n", "utf-8")
            index = index_of(shards)
            if index is not None:
                (folder / index[0]).write_text(index[1], encoding="utf-8")
    return form


def new_config(config: Mapping[str, Any], form: StockForm | OwnForm) -> dict[str, Any]:
    """What `config.json` says of the small model."""
    if isinstance(form, StockForm):
        return {**config, **form.sizes}
    text = f"not one number: see {PLAN_FILE}, load with speedup.hf.from_pretrained"
    notice = dict.fromkeys(form.sizes, text)
    return {**config, **notice, SPEEDUP_KEY: {"plan": PLAN_FILE, "config": config}}


def _read_config(stored: StoredCheckpoint) -> dict[str, Any]:
    """What `config.json` says; nothing where there is none that can be read."""
    if stored.path.is_file():
        return {}
    try:
        found = json.loads((stored.path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _architectures(config: Mapping[str, Any]) -> bool:
    """Whether it is a config of transformers."""
    return isinstance(config.get("architectures"), list)


def _form(plan: Plan, config: Mapping[str, Any], as_stock: bool) -> StockForm | OwnForm:
    if not _architectures(config):
        return OwnForm(f"{CONFIG} names no class of transformers")
    form = find_form(plan, config)
    if as_stock or isinstance(form, OwnForm):
        return form
    return form.unscaled


class _Watch:
    """Counts bytes and tells of them."""

    def __init__(self, total: int, progress: Callable[[Progress], None] | None) -> None:
        self._total, self._progress = total, progress
        self._written, self._began = 0, time.monotonic()

    def add(self, count: int) -> None:
        self._written += count
        if self._progress is not None:
            self._progress(Progress(self._written, self._total, time.monotonic() - self._began))


def _new_tensors(
    planned: PlannedTensors, stored: StoredCheckpoint, factors: Mapping[str, float]
) -> list[NewTensor]:
    """All that is to be written; what is not as planned is found before anything is."""
    found: list[NewTensor] = []
    met: set[str] = set()
    for name, change in stored_changes(planned, stored).items():
        tensor = stored.tensors[name]
        canonical = planned.canonical(name)
        blocks = partial(_blocks, change, tensor, factors.get(canonical))
        found.append(NewTensor(name, change.shape(tensor.shape), tensor.dtype, blocks))
        if canonical not in met:
            found.extend(_new_bias(edit, tensor) for edit in planned.new_biases(canonical))
        met.add(canonical)
    return found


def _blocks(change: TensorChange, tensor: StoredTensor, factor: float | None) -> Iterator[Tensor]:
    for block in changed_blocks(change, tensor, _BLOCK):
        yield block if factor is None else (block.double() * factor).to(block.dtype)


def _new_bias(edit: NewBias, like: StoredTensor) -> NewTensor:
    value = edit.value.tensor

    def blocks() -> Iterator[Tensor]:
        yield value.to(like.dtype)

    return NewTensor(edit.name, tuple(value.shape), like.dtype, blocks)
