"""Products with a sparse matrix: as the modules compute them, and as one op that compiled graphs call."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from speedup.errors import SparseTrainingError
from speedup.sparse.compressed import Compressed
from speedup.sparse.kernels import KERNELS, Kernel
from speedup.sparse.ordering import Order

# Vectors that a product takes at once on processors; 32 to 128 are about as fast.
_TILE = 64

UNTRAINABLE = (
    "a {} has no gradients. For inference call model.eval(); to train, call its dense(), or "
    "speedup.sparse.applying.dense_model(model) for all of them."
)


class Factor(NamedTuple):
    """What vectors are multiplied by: a kernel, its form of the ordered matrix, and the orders if any."""

    kernel: Kernel
    matrix: Tensor
    column_order: Tensor | None
    row_places: Tensor | None


def factor_of(kernel: str, stored: Compressed, shape: tuple[int, int]) -> Factor:
    """The factor for a stored matrix of this shape."""
    order, found = stored.order, KERNELS[kernel]
    columns, rows = (None, None) if order is None else (order.columns, order.row_places)
    return Factor(found, found.form(stored, shape), columns, rows)


def product(factor: Factor, x: Tensor, bias: Tensor | None) -> Tensor:
    """(n, columns) -> (n, rows), contiguous, plus `bias` (rows,).

    A sparse matrix is fast as the left factor; as the right one torch transposes it every time.
    """
    if factor.matrix.layout is torch.strided:
        # Of two of four: a class of torch's own.
        return F.linear(x, factor.matrix, bias)
    found = x.new_empty(len(x), factor.matrix.shape[0])
    for some, place in zip(_tiles(x, 0), _tiles(found, 0), strict=True):
        _put(_turned(_of_tile(factor, _turned(some))), bias, place)
    return found


def fill_product(factor: Factor, x: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Write into `out` (rows, n) the product with `x` (columns, n), plus `bias` (rows,)."""
    if factor.matrix.layout is torch.strided:
        out.copy_(F.linear(x.t(), factor.matrix, bias).t())
        return
    column = None if bias is None else bias[:, None]
    for some, place in zip(_tiles(x, 1), _tiles(out, 1), strict=True):
        _put(_of_tile(factor, some), column, place)


def _tiles(x: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Parts of so few vectors that a processor's cache holds them: two to three times as fast."""
    return (x,) if x.is_cuda else torch.split(x, _TILE, dim)


def _of_tile(factor: Factor, x: Tensor) -> Tensor:
    """(columns, n) -> (rows, n)."""
    if factor.column_order is not None:
        x = x.index_select(0, factor.column_order)
    found = factor.kernel.multiply(factor.matrix, x)
    return found if factor.row_places is None else found.index_select(0, factor.row_places)


def _turned(x: Tensor) -> Tensor:
    """(a, b) -> (b, a), on processors contiguous."""
    if x.is_cuda:
        return x.t()
    rows, columns = x.shape
    if x.dtype is not torch.float32 or min(rows, columns) <= 1:
        return x.t().reshape(-1).view(columns, rows)
    # The channels of one pixel, shuffled, are the matrix transposed: three times as fast as a copy.
    pixel = x.contiguous().as_strided((1, x.numel(), 1, 1), (x.numel(), 1, x.numel(), x.numel()))
    return torch.channel_shuffle(pixel, rows).view(columns, rows)


def _put(found: Tensor, bias: Tensor | None, place: Tensor) -> None:
    if bias is None:
        place.copy_(found)
    else:
        torch.add(found, bias, out=place)


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
    return product(factor_of(kernel, Compressed(values, columns, pointers, order), (rows, width)), x, None)


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
