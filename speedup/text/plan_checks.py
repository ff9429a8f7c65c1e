"""Does a plan that was read back make sense? Its parts must be about the same tensors and modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from speedup.ir.edits import (
    AddToParameter,
    CombineColumns,
    MergeColumns,
    NewBias,
    Slice,
    SliceGroups,
    TensorEdit,
)
from speedup.ir.graph import Shape
from speedup.lowerings.own_parameters import is_own_name
from speedup.modules.fingerprints import ModuleFingerprint, TensorFingerprint
from speedup.parts import PlanParts


def faults(plan: PlanParts) -> Iterator[str]:
    """What a plan says that cannot be so, in words."""
    fingerprints = plan.subject.fingerprints
    shapes = {
        fingerprint.name: fingerprint.shape
        for fingerprint in fingerprints
        if isinstance(fingerprint, TensorFingerprint)
    }
    paths = {fingerprint.name for fingerprint in fingerprints if isinstance(fingerprint, ModuleFingerprint)}
    if plan.masks_digest != plan.subject.masks.digest:
        yield "the masks are not those that the plan was made for"
    for name, mask in plan.subject.masks.items():
        shape = shapes.get(name)
        if shape is None or not _is_mask_of(tuple(mask.shape), shape):
            yield f"there is a mask of shape {tuple(mask.shape)} for {name!r}, which is of shape {shape}"
    for edit in plan.edits:
        if isinstance(edit, TensorEdit):
            if edit.name not in shapes:
                yield f"a {type(edit).__name__} is for {edit.name!r}, which the model does not have"
            elif fault := _fault(edit, shapes[edit.name]):
                yield f"a {type(edit).__name__} of {edit.name!r}, of shape {shapes[edit.name]}, {fault}"
        elif edit.path not in paths:
            yield f"a {type(edit).__name__} is for module {edit.path!r}, which the model does not have"
        elif isinstance(edit, NewBias) and edit.attribute != "bias" and not is_own_name(edit.attribute):
            yield f"a NewBias of module {edit.path!r} is called {edit.attribute!r}, as no bias is"


def _is_mask_of(mask: Shape, shape: Shape) -> bool:
    return len(mask) == len(shape) and all(m in (1, n) for m, n in zip(mask, shape, strict=True))


def _fault(edit: TensorEdit, shape: Shape) -> str:
    """What is wrong with an edit of a tensor of this shape; empty when nothing is."""
    match edit:
        case Slice(_, dim, indices):
            if not 0 <= dim < len(shape):
                return f"is along dimension {dim}"
            return _wrong_indices(indices, shape[dim])
        case SliceGroups(_, rows, columns):
            if len(shape) < 2 or len(rows) != len(columns) or len({len(one) for one in columns}) != 1:
                return "does not say as many columns for each row"
            return _wrong_indices(rows, shape[0]) or next(
                filter(None, (_wrong_indices(one, shape[1]) for one in columns)), ""
            )
        case AddToParameter(_, delta, _):
            return (
                "" if delta.tensor.shape == shape else f"adds a tensor of shape {tuple(delta.tensor.shape)}"
            )
        case MergeColumns():
            return _wrong_columns(edit, (edit.into,), len(edit.factors) == len(edit.columns), shape)
        case CombineColumns():
            counts = (len(edit.columns), len(edit.into))
            return _wrong_columns(edit, edit.into, tuple(edit.factors.tensor.shape) == counts, shape)


def _wrong_columns(
    edit: MergeColumns | CombineColumns, into: tuple[int, ...], is_complete: bool, shape: Shape
) -> str:
    if not 0 <= edit.dim < len(shape) or not is_complete:
        return "does not say as many factors as columns of a dimension"
    if edit.rows is not None and not 0 <= edit.rows[0] < edit.rows[1] <= shape[0]:
        return f"is for rows {edit.rows}"
    return _wrong_indices((*edit.columns, *into), shape[edit.dim])


def _wrong_indices(indices: Iterable[int], extent: int) -> str:
    found = tuple(indices)
    if not found or len(set(found)) != len(found):
        return "lists no index, or one twice"
    return f"lists index {max(found)}" if max(found) >= extent or min(found) < 0 else ""
