"""The kernels to multiply by a sparse weight with, as data: what each takes, and its form of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch
from attrs import frozen
from torch import Tensor

from speedup.sparse.compressed import Compressed, decompress

_WIDE = frozenset({torch.float32, torch.float64})
_HALVES = frozenset({torch.float16, torch.bfloat16})
_SEMI_STRUCTURED_ROWS, _SEMI_STRUCTURED_COLUMNS = 32, 64


@frozen(eq=False)
class Kernel:
    """One way to multiply by a sparse matrix.

    `sides` are the extents of its blocks; `types` the types that it takes, by device. `form` makes what torch
    multiplies by from what is stored and the shape of the matrix, `multiply` multiplies that by columns
    (columns, n), which need not lie in any order; `fits` says whether it takes a matrix.
    """

    name: str
    sides: tuple[int, ...]
    types: Mapping[str, frozenset[torch.dtype]]
    form: Callable[[Compressed, tuple[int, int]], Tensor]
    multiply: Callable[[Tensor, Tensor], Tensor] = torch.mm
    fits: Callable[[Tensor], bool] = lambda matrix: True

    def takes(self, device: str, dtype: torch.dtype) -> bool:
        """Whether it runs on a kind of device in this type."""
        return dtype in self.types.get(device, ())


def _csr(stored: Compressed, shape: tuple[int, int]) -> Tensor:
    with _quiet():
        return torch.sparse_csr_tensor(
            stored.pointers, stored.columns, stored.values.detach(), shape, check_invariants=True
        )


def _bsr(stored: Compressed, shape: tuple[int, int]) -> Tensor:
    with _quiet():
        return torch.sparse_bsr_tensor(
            stored.pointers, stored.columns, stored.values.detach(), shape, check_invariants=True
        )


def _semi_structured(stored: Compressed, shape: tuple[int, int]) -> Tensor:
    with _quiet():
        return torch.sparse.to_sparse_semi_structured(decompress(stored, shape).detach().contiguous())


def _bags(matrix: Tensor, x: Tensor) -> Tensor:
    """The product of a CSR matrix, each of whose rows is a bag of rows of `x` that are weighed and added.

    FBGEMM keeps a row of the result in registers meanwhile: up to twice as fast as MKL from 32 columns on.
    """
    columns, pointers = matrix.col_indices(), matrix.crow_indices()
    # No scaling by frequency, a sum, no sparse gradient; the last pointer is the end.
    return torch.embedding_bag(x, columns, pointers, False, 0, False, matrix.values(), True)[0]


def require_sound(stored: Compressed, shape: tuple[int, int]) -> None:
    """Raise where the indices of a matrix of this shape are wrong: a product would read what is not there.

    Raises:
        RuntimeError: as of torch; says what is not so.
    """
    layout = torch.sparse_csr if stored.side == 1 else torch.sparse_bsr
    pieces = stored.pointers, stored.columns, stored.values
    with _quiet():
        torch.sparse_compressed_tensor(*pieces, shape, layout=layout, check_invariants=True)


def is_two_of_four(matrix: Tensor) -> bool:
    """Whether of each four elements in a row two are zero at least, and the extents are of the kernel's."""
    rows, columns = matrix.shape
    if rows % _SEMI_STRUCTURED_ROWS or columns % _SEMI_STRUCTURED_COLUMNS:
        return False
    return bool(((matrix != 0).reshape(rows, columns // 4, 4).sum(2) <= 2).all())


@contextmanager
def _quiet() -> Iterator[None]:
    """Sparse layouts say of themselves that they are in beta, or prototypes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {
        kernel.name: kernel
        for kernel in (
            Kernel("csr", (1,), MappingProxyType({"cpu": _WIDE, "cuda": _WIDE}), _csr),
            Kernel("bags", (1,), MappingProxyType({"cpu": _WIDE}), _csr, _bags),
            Kernel(
                "bsr",
                (8, 16, 32),
                MappingProxyType(
                    {
                        "cpu": _WIDE if torch.backends.mkl.is_available() else frozenset(),  # type: ignore[no-untyped-call]
                        "cuda": _HALVES | {torch.float32},
                    }
                ),
                _bsr,
            ),
            Kernel("2:4", (1,), MappingProxyType({"cuda": _HALVES}), _semi_structured, fits=is_two_of_four),
        )
    }
)
"""By name: elements one by one, by two libraries; square blocks; two of four for the tensor cores of GPUs."""
