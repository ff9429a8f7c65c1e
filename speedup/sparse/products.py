"""Products with a sparse matrix: as the modules compute them, and as one op that compiled graphs call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from speedup.errors import SparseTrainingError
from speedup.sparse.compressed import Compressed
from speedup.sparse.kernels import KERNELS
from speedup.sparse.ordering import Order

# Vectors that a product takes at once on processors; 32 to 128 are about as fast.
_TILE = 64

UNTRAINABLE = (
    "a {} has no gradients. For inference call model.eval(); to train, call its dense(), or "
    "speedup.sparse.applying.dense_model(model) for all of them."
)


def product(matrix: Tensor, column_order: Tensor | None, row_places: Tensor | None, x: Tensor) -> Tensor:
    """(n, columns) -> (n, rows), contiguous; `matrix` is a kernel's form of the ordered matrix.

    A sparse matrix is fast as the left factor; as the right one torch transposes it every time.
    """
    if matrix.layout is torch.strided:
        # Of two of four: a class of torch's own.
        return F.linear(x, matrix)
    if column_order is None and len(x) == 1 and matrix.layout is torch.sparse_csr:
        # One vector is the same in both orders of dimensions, and is taken as it lies.
        single = x.new_empty(1, matrix.shape[0])
        torch.mm(matrix, x.t(), out=single.t())
        return single
    found = x.new_empty(len(x), matrix.shape[0])
    for some, place in zip(_tiles(x, 0), _tiles(found, 0), strict=True):
        place.copy_(_of_tile(matrix, column_order, row_places, some.t()).t())
    return found


def fill_product(
    matrix: Tensor, column_order: Tensor | None, row_places: Tensor | None, x: Tensor, out: Tensor
) -> None:
    """Write into `out` (rows, n) the product with `x` (columns, n)."""
    if matrix.layout is torch.strided:
        out.copy_(F.linear(x.t(), matrix).t())
        return
    for some, place in zip(_tiles(x, 1), _tiles(out, 1), strict=True):
        place.copy_(_of_tile(matrix, column_order, row_places, some))


def _tiles(x: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Parts of so few vectors that a processor's cache holds them: two to three times as fast."""
    return (x,) if x.is_cuda else torch.split(x, _TILE, dim)


def _of_tile(matrix: Tensor, column_order: Tensor | None, row_places: Tensor | None, x: Tensor) -> Tensor:
    """(columns, n) -> (rows, n)."""
    if column_order is not None:
        x = x.index_select(0, column_order)
    found = matrix @ x
    return found if row_places is None else found.index_select(0, row_places)


@torch.library.custom_op("speedup::sparse_product", mutates_args=())
def traced_product(
    x: Tensor,
    values: Tensor,
    columns: Tensor,
    pointers: Tensor,
    row_order: Tensor | None,
    column_order: Tensor | None,
    kernel: str,
    rows: int,
    width: int,
) -> Tensor:
    """(n, width) -> (n, rows): the product with what is stored in these pieces."""
    order = None if row_order is None or column_order is None else Order(row_order, column_order)
    matrix = KERNELS[kernel].form(Compressed(values, columns, pointers, order), (rows, width))
    return product(matrix, column_order, None if order is None else order.row_places, x)


@traced_product.register_fake
def _(x: Tensor, *pieces: Any) -> Tensor:
    return x.new_empty(x.shape[0], pieces[-2])


@torch.library.custom_op("speedup::sparse_untrainable", mutates_args=())
def _untrainable(gradient: Tensor, x: Tensor) -> Tensor:
    raise SparseTrainingError(UNTRAINABLE.format("layer with a sparse weight"))


@_untrainable.register_fake
def _(gradient: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


def _refuse(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    # In a graph of both directions, which is made before anybody asks for gradients, it is an op as well.
    (x,) = ctx.saved_tensors
    return (_untrainable(gradient, x), *(None,) * 8)


traced_product.register_autograd(_refuse, setup_context=_keep)
