"""Sparse weights in files: their pieces are tensors like others, and a text says which layers they are of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache

import cattrs
import torch
from attrs import frozen
from torch import Tensor, nn

from speedup.ir.graph import Shape
from speedup.sparse.applying import is_packed, replaced_layer, unfused_layers, unpack_layer, weight_of
from speedup.sparse.compressed import Compressed
from speedup.sparse.kernels import KERNELS, require_sound
from speedup.sparse.layers import SparseConv1D, sparse_class_of
from speedup.sparse.ordering import Order
from speedup.sparse.weight import COLUMN_ORDER, COLUMNS, PIECES, POINTERS, ROW_ORDER, VALUES, SparseModule
from speedup.text.json_values import add_values


@frozen
class SparseRecord:
    """A layer with a sparse weight: path, kernel, shape of the weight, and whether that was trainable.

    Of a `packed` one, attention has weight and bias as parameters of its own where they are dense. A
    `transposed` weight is (inputs, outputs).
    """

    path: str
    kernel: str
    shape: Shape
    trainable: bool
    packed: bool = False
    transposed: bool = False

    def name(self, piece: str) -> str:
        """What a tensor of the layer is called in the model."""
        return f"{self.path}.{piece}".lstrip(".")

    def dense_name(self, tensor: str) -> str:
        """What `weight` or `bias` is called in the model where the weight is dense."""
        return f"{self.path}_{tensor}" if self.packed else self.name(tensor)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """The shape of the weight as a matrix."""
        rows, columns = self.shape[:2]
        return (columns, rows) if self.transposed else (rows, columns)


def sparse_records(model: nn.Module) -> tuple[SparseRecord, ...]:
    """Of a model's layers with sparse weights."""
    return tuple(
        SparseRecord(
            path,
            module.kernel,
            tuple(weight_of(module).shape),
            module.trainable,
            is_packed(model, path),
            isinstance(module, SparseConv1D),
        )
        for path, module in model.named_modules()
        if isinstance(module, SparseModule)
    )


def records_text(records: Iterable[SparseRecord]) -> str:
    """The records as JSON text."""
    return json.dumps(_converter().unstructure(tuple(records)))


def records_from_text(text: str) -> tuple[SparseRecord, ...]:
    """The records that `records_text` wrote.

    Raises:
        ValueError: it says something else.
    """
    try:
        found: tuple[SparseRecord, ...] = _converter().structure(json.loads(text), tuple[SparseRecord, ...])
    except Exception as error:  # a converter raises what the constructors do
        raise ValueError(f"its sparse layers cannot be read ({error})") from error
    for record in found:
        if record.kernel not in KERNELS or len(record.shape) not in (2, 4):
            raise ValueError(f"its sparse layer {record.path!r} is of a kind that this release does not know")
    return found


def plain_shapes(shapes: Mapping[str, Shape], records: Iterable[SparseRecord]) -> dict[str, Shape]:
    """The shapes that a model's tensors would have with dense weights in place of their pieces.

    Of a record whose pieces are not all there, all stays.
    """
    plain = dict(shapes)
    for record in records:
        if all(record.name(piece) in plain for piece in (VALUES, COLUMNS, POINTERS)):
            for piece in PIECES:
                plain.pop(record.name(piece), None)
            plain[record.dense_name("weight")] = record.shape
            if record.packed and record.name("bias") in plain:
                plain[record.dense_name("bias")] = plain.pop(record.name("bias"))
    return plain


def with_sparse_layers(
    model: nn.Module,
    records: Iterable[SparseRecord],
    names: Iterable[str],
    read: Callable[[str], Tensor],
) -> nn.Module:
    """`model`, in place, with sparse weights as recorded; `read` gives those tensors that have `names`.

    Raises:
        ValueError: the pieces of a weight contradict one another, or the layer is of another kind.
    """
    held = set(names)
    for record in records:
        unpack_layer(model, record.path)
        layer = model.get_submodule(record.path)
        kind = sparse_class_of(layer)
        if kind is None:
            raise ValueError(f"module {record.path!r} is no layer that can have a sparse weight")
        stored = _stored(record, held, read)
        made = kind.holding(layer, record.kernel, stored)
        made.trainable = record.trainable
        model = replaced_layer(model, layer, made)
    return unfused_layers(model)


def _stored(record: SparseRecord, held: set[str], read: Callable[[str], Tensor]) -> Compressed:
    values, columns, pointers = (read(record.name(piece)) for piece in (VALUES, COLUMNS, POINTERS))
    order = None
    if record.name(ROW_ORDER) in held and record.name(COLUMN_ORDER) in held:
        order = Order(read(record.name(ROW_ORDER)), read(record.name(COLUMN_ORDER)))
    stored = Compressed(values, columns, pointers, order)
    try:
        if order is not None:
            for found, extent in zip(order, record.matrix_shape, strict=True):
                if not torch.equal(found.sort().values, torch.arange(extent, device=found.device)):
                    raise ValueError("an order is none of all rows or columns")
        require_sound(stored, record.matrix_shape)
    except Exception as error:
        raise ValueError(f"the sparse weight of {record.path!r} contradicts itself ({error})") from error
    return stored


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    add_values(converter)
    return converter
