"""A box of a new tensor, made of the box of the old one that it follows from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import frozen
from torch import Tensor

from speedup.cutting.tensors import TensorChange
from speedup.engine.lattice import to_double
from speedup.ir.edits import AddToParameter, Slice
from speedup.ir.graph import Shape

# From where to where, along each dimension.
Box = tuple[slice, ...]


@frozen(eq=False)
class BoxChange:
    """What becomes of a tensor of `shape`, within `box` of the new tensor: bit for bit the whole's.

    `source` is the least box of the old tensor that holds all it follows from. Where each entry follows from
    one entry this is no larger than what lies between the first and the last of them. Columns that take
    multiples of others, and groups that keep other columns each, need the whole.
    """

    change: TensorChange
    shape: Shape
    box: Box
    needs_whole: bool = False

    @property
    def source(self) -> Box:
        """The box of the old tensor that `made_of` takes."""
        if not self._is_entrywise:
            return tuple(slice(0, extent) for extent in self.shape)
        return tuple(
            slice(int(kept.min()), int(kept.max()) + 1) if len(kept) else slice(0, 0) for kept in self._kept
        )

    def made_of(self, block: Tensor) -> Tensor:
        """The box of the new tensor; `block` is `source` of the old one."""
        if not self._is_entrywise:
            return self.change.whole(block)[self.box]
        for dim, (kept, span) in enumerate(zip(self._kept, self.source, strict=True)):
            block = block.index_select(dim, (kept - span.start).to(block.device))
        if self.change.mask is not None:
            zero = torch.zeros((), dtype=block.dtype, device=block.device)
            block = torch.where(self._of_box(self.change.mask).to(block.device), block, zero)
        for edit in self.change.edits:
            if isinstance(edit, AddToParameter):
                added = self._of_box(edit.delta.tensor).to(block.device)
                block = (to_double(block) + added).to(block.dtype)
        return block

    @property
    def _is_entrywise(self) -> bool:
        return not self.needs_whole and all(isinstance(e, Slice | AddToParameter) for e in self.change.edits)

    @property
    def _kept(self) -> tuple[Tensor, ...]:
        """The old indices within the box, along each dimension."""
        return tuple(self.change.kept(dim, self.shape[dim])[span] for dim, span in enumerate(self.box))

    def _of_box(self, tensor: Tensor) -> Tensor:
        """What is for the box of a tensor that is broadcast to the old one."""
        first = len(self.shape) - tensor.ndim
        for dim in range(tensor.ndim):
            if tensor.shape[dim] != 1:
                tensor = tensor.index_select(dim, self._kept[first + dim])
        return tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of which each process holds a part."""
    if type(tensor) in (Tensor, torch.nn.Parameter):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole_of(tensor: Tensor) -> Tensor:
    """The tensor; of a sharded one the whole, to which all processes of its mesh give their parts."""
    whole: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if whole is None or not is_sharded(tensor) else whole()


def placed_like(tensor: Tensor, new: Tensor) -> Tensor:
    """`new`, which all processes have; sharded in the same way as `tensor` where that is sharded."""
    if not is_sharded(tensor):
        return new
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    assert isinstance(tensor, DTensor)
    # A bias has fewer dimensions than the weight that it is to lie beside.
    placements = [Replicate() if isinstance(p, Shard) and p.dim >= new.ndim else p for p in tensor.placements]
    return distribute_tensor(new, tensor.device_mesh, placements, src_data_rank=None)


def changed_where_it_lies(tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`change` of a tensor; of a sharded one, of the whole, and then sharded in the same way."""
    return placed_like(tensor, change(whole_of(tensor)))
