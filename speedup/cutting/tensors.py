"""What edits make of tensors, as pure functions: of whole ones and of some of their rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from types import MappingProxyType

import torch
from attrs import frozen
from torch import Tensor

from speedup.engine.lattice import to_double
from speedup.ir.edits import (
    AddToParameter,
    CombineColumns,
    Edit,
    MergeColumns,
    ModuleEdit,
    NewBias,
    Slice,
    SliceGroups,
    TensorEdit,
)
from speedup.ir.graph import Shape
from speedup.modules.layouts import laid_out_like


@frozen(eq=False)
class TensorChange:
    """What becomes of one tensor: what its mask drops is zeroed, values change, and then it is sliced.

    Unless multiples of rows are added to other rows, each new row follows from one old row, and from
    nothing else: rows that are changed a few at a time are those of the whole, bit for bit.
    """

    mask: Tensor | None = None
    edits: tuple[TensorEdit, ...] = ()

    @property
    def needs_all_rows(self) -> bool:
        """Whether a new row may follow from several old ones."""
        return any(isinstance(edit, MergeColumns | CombineColumns) and edit.dim == 0 for edit in self.edits)

    @property
    def slices(self) -> TensorChange:
        """The same without what changes values, but with the mask."""
        return TensorChange(self.mask, tuple(e for e in self.edits if isinstance(e, Slice | SliceGroups)))

    def shape(self, shape: Shape) -> Shape:
        """The new shape of a tensor of this one."""
        return reduce(_sliced_shape, self.edits, shape)

    def kept_rows(self, extent: int) -> Tensor:
        """Of `extent` rows those that stay, in their new order."""
        return self.kept(0, extent)

    def kept(self, dim: int, extent: int) -> Tensor:
        """Of `extent` indices of a dimension those that stay, in their new order."""
        found = torch.arange(extent)
        for edit in self.edits:
            match edit:
                case Slice(_, along, indices) if along == dim:
                    found = found[torch.tensor(indices)]
                case SliceGroups(_, indices, _) if dim == 0:
                    found = found[torch.tensor(indices)]
                case _:
                    pass
        return found

    def whole(self, tensor: Tensor) -> Tensor:
        """The new tensor, which lies in memory as `tensor` does; it shares nothing with it."""
        if not tensor.ndim:
            return self._with_values(tensor, torch.arange(1)).clone()
        every = torch.arange(tensor.shape[0])
        kept = self.kept_rows(len(every))
        if self.needs_all_rows:
            block = _rows(self._with_values(tensor, every), kept)
        else:
            block = self._with_values(_rows(tensor, kept), kept)
        result = laid_out_like(self._with_columns(block, 0), tensor)
        return result.clone() if result is tensor else result

    def some_rows(self, block: Tensor, rows: Tensor, first: int) -> Tensor:
        """New rows, from number `first` on, made of `block`, which holds the old `rows`.

        These are a piece of `kept_rows`, and the change does not need all rows.
        """
        return self._with_columns(self._with_values(block, rows), first).contiguous()

    def _with_values(self, block: Tensor, rows: Tensor) -> Tensor:
        kept = None if self.mask is None else _rows_of(self.mask, rows)
        if kept is not None and not kept.all():
            zero = torch.zeros((), dtype=block.dtype, device=block.device)
            block = torch.where(kept.to(block.device), block, zero)
        for edit in self.edits:
            match edit:
                case AddToParameter(_, delta, _):
                    added = _rows_of(delta.tensor, rows).to(block.device)
                    block = (to_double(block) + added).to(block.dtype)
                case MergeColumns() | CombineColumns():
                    block = _combine(edit, block, rows)
                case Slice() | SliceGroups():
                    pass
        return block

    def _with_columns(self, block: Tensor, first: int) -> Tensor:
        for edit in self.edits:
            match edit:
                case Slice(_, dim, indices) if dim:
                    block = block.index_select(dim, torch.tensor(indices, device=block.device))
                case SliceGroups(_, _, columns):
                    chosen = torch.tensor(columns[first : first + len(block)], device=block.device)
                    block = block[torch.arange(len(block), device=block.device)[:, None], chosen]
                case _:
                    pass
        return block


NO_CHANGE = TensorChange()


def changes_of(masks: Mapping[str, Tensor], edits: Iterable[Edit]) -> Mapping[str, TensorChange]:
    """By canonical name what becomes of each tensor that a mask or an edit is for."""
    by_name: dict[str, list[TensorEdit]] = {name: [] for name in masks}
    for edit in edits:
        if not isinstance(edit, ModuleEdit):
            by_name.setdefault(edit.name, []).append(edit)
    return MappingProxyType(
        {name: TensorChange(masks.get(name), tuple(own)) for name, own in by_name.items()}
    )


def apply_edits(
    tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor], edits: Iterable[Edit]
) -> dict[str, Tensor]:
    """The new tensors, by name, of all that masks or edits touch. A pure function of tensors.

    `tensors` maps canonical names to the planned model's parameters and buffers; `masks` are
    keep-masks by name. Untouched names are absent from the result.
    """
    # One tensor at a time: what is made on the way lives no longer than that.
    changes = changes_of(masks, edits)
    return {name: change.whole(tensors[name].detach()) for name, change in changes.items()}


def planned_shapes(shapes: Mapping[str, Shape], edits: Iterable[Edit]) -> Mapping[str, Shape]:
    """The shapes by name of the small model's tensors, those of new biases included.

    `shapes` are those of the planned model's, by the names that the edits use.
    """
    edits = tuple(edits)
    changes = changes_of({}, edits)
    found = {name: changes.get(name, NO_CHANGE).shape(shape) for name, shape in shapes.items()}
    found.update({edit.name: tuple(edit.value.tensor.shape) for edit in edits if isinstance(edit, NewBias)})
    return MappingProxyType(found)


def _sliced_shape(shape: Shape, edit: TensorEdit) -> Shape:
    match edit:
        case Slice(_, dim, indices):
            return *shape[:dim], len(indices), *shape[dim + 1 :]
        case SliceGroups(_, rows, columns):
            return len(rows), len(columns[0]), *shape[2:]
        case _:
            return shape


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """`rows` of a tensor, or the tensor itself where these are all in their order."""
    if torch.equal(rows, torch.arange(tensor.shape[0])):
        return tensor
    return tensor.index_select(0, rows.to(tensor.device))


def _rows_of(tensor: Tensor, rows: Tensor) -> Tensor:
    """`rows` of a tensor that may have one row for all of them."""
    return tensor if not tensor.ndim or tensor.shape[0] == 1 else _rows(tensor, rows)


def _combine(edit: MergeColumns | CombineColumns, block: Tensor, rows: Tensor) -> Tensor:
    """`block`, which holds `rows` of a tensor, with multiples of its columns added to others.

    The sums are taken in the order of the columns, each element for itself, so that no other rows and no
    library for products of matrices has a say in their last digits.
    """
    match edit:
        case MergeColumns():
            into: tuple[int, ...] = (edit.into,)
            factors = torch.tensor(edit.factors, dtype=torch.float64)[:, None]
        case CombineColumns():
            into, factors = edit.into, edit.factors.tensor
    result, factors = block.clone(), factors.to(block.device)
    inside = _inside(edit.rows, rows).to(block.device)
    part = result.index_select(0, inside)
    columns, targets = (torch.tensor(found, device=block.device) for found in (edit.columns, into))
    carriers = part.index_select(edit.dim, targets)
    carried = torch.zeros_like(carriers, dtype=torch.float64)
    along = (-1, *[1] * (block.ndim - edit.dim - 1))
    taken = part.index_select(edit.dim, columns).double()
    for number in range(len(factors)):
        carried += taken.narrow(edit.dim, number, 1) * factors[number].reshape(along)
    part.index_copy_(edit.dim, targets, (carriers.double() + carried).to(block.dtype))
    return result.index_copy_(0, inside, part)


def _inside(limits: tuple[int, int] | None, rows: Tensor) -> Tensor:
    """The positions in `rows` of those between the limits."""
    if limits is None:
        return torch.arange(len(rows))
    return ((rows >= limits[0]) & (rows < limits[1])).nonzero().reshape(-1)
