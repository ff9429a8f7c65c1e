"""Checkpoints of the planned model, loaded by many processes into a sharded small model.

torch.distributed.checkpoint (DCP) reads and FSDP2 shards; what is here says which part of what each process
needs, and applies the plan to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from attrs import define, frozen
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, create_default_local_load_plan
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, ReadItem

from speedup.cutting.boxes import Box, BoxChange
from speedup.cutting.optimizers import require_entrywise
from speedup.cutting.planned import PlannedTensors
from speedup.cutting.states import require_planned_numbers
from speedup.cutting.tensors import NO_CHANGE, TensorChange
from speedup.errors import CheckpointError
from speedup.ir.edits import NewBias
from speedup.modules.fingerprints import checksum
from speedup.plan import Plan

__all__ = ["CompactingLoadPlanner"]

_GROUPS, _PARAMETERS = "param_groups", "params"


@frozen(eq=False)
class _Entry:
    """What an entry of the small state is made of: a saved tensor by its name there, or a new bias.

    `checked` is the name of the tensor whose numbers have to be those that were planned.
    """

    saved: str
    change: TensorChange = NO_CHANGE
    bias: NewBias | None = None
    checked: str | None = None


@define(eq=False)
class _Part:
    """A box of a saved tensor that is being read, and where what is made of it goes."""

    entry: _Entry
    box: BoxChange
    item: ReadItem
    dtype: torch.dtype
    missing: int
    block: Tensor | None = None


class CompactingLoadPlanner(DefaultLoadPlanner):
    """For `torch.distributed.checkpoint.load`: the planned model's checkpoint into the small model's state.

    The state is that of a small model, sharded or not, on any number of processes: `model.state_dict()`, what
    `get_model_state_dict` or `get_state_dict` return, or these in a dictionary. Any storage reader will do:
    `FileSystemReader` and `HuggingFaceStorageReader`. Each process asks for the least box of each tensor that
    its own shard follows from, and holds one at a time. Of tensors whose columns take multiples of others, of
    grouped weights of which each group keeps other columns, and of those whose numbers the plan depends on,
    which are checked, it reads all.

    The state of an optimizer has to be by parameters' names, as `get_optimizer_state_dict` gives it, and of
    those that `Plan.apply_optimizer` takes. New biases begin without moments. Which parameters a group has is
    what the small model's state says.

    Errors reach the caller of `load` inside DCP's `CheckpointException`: `ArchitectureError` where a tensor
    is of another shape or kind than planned, `CheckpointError` where one is missing, `OtherWeightsError`
    where the plan does not hold for the numbers, `OptimizerStateError`.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._planned = PlannedTensors(plan)
        biases = (edit for edit in plan.edits if isinstance(edit, NewBias))
        self._biases = {edit.name: edit for edit in biases}
        self._entries: dict[str, _Entry] = {}
        self._parts: list[_Part] = []

    def create_local_plan(self) -> LoadPlan:
        """What this process reads."""
        assert self.metadata is not None
        self._entries = dict(self._find_entries(self.metadata))
        self._parts = []
        wanted = {name: self.state_dict[name] for name in self._entries}
        small = Metadata({name: self._small(entry, name) for name, entry in self._entries.items()})
        items: list[ReadItem] = []
        for item in create_default_local_load_plan(wanted, small).items:
            items += self._reads(item)
        return LoadPlan(items)

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        """Where the reader puts what it reads: in place, or what is to be cut beside it."""
        part = self._part_of(read_item)
        if part is None:
            return super().resolve_tensor(read_item)  # type: ignore[no-any-return]
        if part.block is None:
            extents = [span.stop - span.start for span in part.box.source]
            part.block = torch.empty(extents, dtype=part.dtype)
        return part.block[_box(read_item.dest_offsets, read_item.lengths)]

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """Cut what has been read as soon as it is complete."""
        part = self._part_of(read_item)
        if part is None:
            super().commit_tensor(read_item, tensor)
            return
        part.missing -= 1
        if part.missing or part.block is None:
            return
        if part.entry.checked is not None:
            require_planned_numbers(self._planned, part.entry.checked, checksum(part.block))
        with torch.no_grad():
            super().resolve_tensor(part.item).copy_(part.box.made_of(part.block))
        part.block = None

    def _part_of(self, item: ReadItem) -> _Part | None:
        entry = self._entries.get(item.dest_index.fqn)
        if entry is None or not self._is_cut(entry, item.dest_index.fqn) or item.dest_index.index is None:
            return None
        return self._parts[item.dest_index.index]

    @staticmethod
    def _is_cut(entry: _Entry, name: str) -> bool:
        return entry.change is not NO_CHANGE or entry.saved != name or entry.checked is not None

    def _find_entries(self, saved: Metadata) -> Iterator[tuple[str, _Entry]]:
        for name, value in self.state_dict.items():
            path = tuple(map(str, self.mappings.get(name, (name,))))
            if _GROUPS in path:
                if path[-1] != _PARAMETERS and f".{_PARAMETERS}." not in f".{name}.":
                    yield name, _Entry(name)
                continue
            place = next((n for n, key in enumerate(path) if self._knows(key)), None)
            if place is None:
                yield name, _Entry(name)
                continue
            known, is_moment = path[place], place + 1 < len(path)
            if known not in self._biases:
                yield name, self._saved_entry(name, known, path[-1] if is_moment else None, saved)
            elif not is_moment:
                yield name, _Entry(name, bias=self._biases[known])
            elif isinstance(value, Tensor):
                # As before the first step, which `get_optimizer_state_dict` has counted.
                value.zero_()

    def _knows(self, name: str) -> bool:
        return name in self._planned.fingerprints or name in self._biases

    def _saved_entry(self, name: str, known: str, moment: str | None, saved: Metadata) -> _Entry:
        """Of a tensor of the model, or of a `moment` that an optimizer has of one."""
        canonical = self._planned.canonical(known)
        same = (one for one, f in self._planned.fingerprints.items() if (f.same_as or one) == canonical)
        before, _, after = name.rpartition(known)
        found = next(
            (f"{before}{one}{after}" for one in (known, *same) if _is_in(before, one, after, saved)), None
        )
        if found is None:
            raise CheckpointError(
                f"the checkpoint has no tensor {name!r}, which the small model's state has. Name the "
                "checkpoint of the model that was planned, and ask for no more than it holds."
            )
        held = saved.state_dict_metadata[found]
        if not isinstance(held, TensorStorageMetadata):
            return _Entry(found)
        if moment is None:
            change = self._planned.change(known, held.size, held.properties.dtype)
            checked = known if self._planned.depends_on(known) else None
            return _Entry(found, change, checked=checked)
        require_entrywise({moment})
        is_moment = tuple(held.size) == self._planned.fingerprints[canonical].shape
        return _Entry(found, self._planned.slices(known) if is_moment and held.size else NO_CHANGE)

    def _small(self, entry: _Entry, name: str) -> Any:
        """What a checkpoint of the small model would say of it."""
        assert self.metadata is not None
        if entry.bias is not None:
            return _whole(tuple(entry.bias.value.tensor.shape), entry.bias.value.tensor.dtype)
        held = self.metadata.state_dict_metadata.get(entry.saved)
        if held is None:
            raise CheckpointError(f"the checkpoint has no entry {name!r}, which the small model's state has.")
        if not isinstance(held, TensorStorageMetadata) or not self._is_cut(entry, name):
            return held
        return _whole(entry.change.shape(tuple(held.size)), held.properties.dtype)

    def _reads(self, item: ReadItem) -> Iterator[ReadItem]:
        """What is read for a box of the small state; a new bias is put there."""
        name = item.dest_index.fqn
        entry = self._entries[name]
        box = _box(item.storage_offsets, item.lengths)
        if entry.bias is not None:
            with torch.no_grad():
                super().resolve_tensor(item).copy_(entry.bias.value.tensor[box])
        elif item.type is not LoadItemType.TENSOR or not self._is_cut(entry, name):
            yield item
        elif all(item.lengths):
            yield from self._parts_of(item, entry, box)

    def _parts_of(self, item: ReadItem, entry: _Entry, box: Box) -> Iterator[ReadItem]:
        assert self.metadata is not None
        held = self.metadata.state_dict_metadata[entry.saved]
        assert isinstance(held, TensorStorageMetadata)
        change = BoxChange(entry.change, tuple(held.size), box, needs_whole=entry.checked is not None)
        number, source = len(self._parts), change.source
        index = MetadataIndex(item.dest_index.fqn, torch.Size(s.start for s in source), number)
        reads = []
        for place, chunk in enumerate(held.chunks):
            spans = [
                (max(span.start, start), min(span.stop, start + extent))
                for span, start, extent in zip(source, chunk.offsets, chunk.sizes, strict=True)
            ]
            if all(start < stop for start, stop in spans):
                reads.append(
                    ReadItem(
                        type=LoadItemType.TENSOR,
                        dest_index=index,
                        dest_offsets=torch.Size(
                            a - span.start for (a, _), span in zip(spans, source, strict=True)
                        ),
                        storage_index=MetadataIndex(entry.saved, chunk.offsets, place),
                        storage_offsets=torch.Size(
                            a - start for (a, _), start in zip(spans, chunk.offsets, strict=True)
                        ),
                        lengths=torch.Size(b - a for a, b in spans),
                    )
                )
        missing = math.prod(s.stop - s.start for s in source) - sum(math.prod(r.lengths) for r in reads)
        if missing:
            raise CheckpointError(f"the checkpoint lacks {missing} numbers of tensor {entry.saved!r}")
        self._parts.append(_Part(entry, change, item, held.properties.dtype, len(reads)))
        yield from reads


def _is_in(before: str, name: str, after: str, saved: Metadata) -> bool:
    return f"{before}{name}{after}" in saved.state_dict_metadata


def _whole(shape: tuple[int, ...], dtype: torch.dtype) -> TensorStorageMetadata:
    """A tensor that is saved in one piece."""
    size = torch.Size(shape)
    chunk = ChunkStorageMetadata(torch.Size(0 for _ in shape), size)
    return TensorStorageMetadata(TensorProperties(dtype=dtype), size, [chunk])


def _box(offsets: Sequence[int], lengths: Sequence[int]) -> Box:
    return tuple(slice(o, o + n) for o, n in zip(offsets, lengths, strict=True))
