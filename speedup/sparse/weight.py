"""What the layers with a sparse weight have in common: how it is held, its kernel, and the way back."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.autograd import Function

from speedup.errors import SparseTrainingError
from speedup.sparse.compressed import Compressed, compress, decompress
from speedup.sparse.kernels import KERNELS
from speedup.sparse.ordering import Order, block_order

VALUES, COLUMNS, POINTERS = "weight_values", "weight_columns", "weight_pointers"
ROW_ORDER, COLUMN_ORDER = "weight_row_order", "weight_column_order"
PIECES = (VALUES, COLUMNS, POINTERS, ROW_ORDER, COLUMN_ORDER)
"""By these names a module and its state dict hold a sparse weight; orders only where there is one."""


class _Made(NamedTuple):
    """A kernel's form of a weight, and what tells whether it is still that of the weight."""

    key: tuple[object, ...]
    matrix: Tensor
    row_places: Tensor | None


class SparseModule(nn.Module):
    """A layer whose weight is a sparse matrix, multiplied by a sparse kernel.

    `kernel` names it, see `speedup.sparse.kernels`; `zeros` is the share of the weight that is zero. Its state
    dict holds plain tensors: `weight_values`, `weight_columns` and `weight_pointers` as of CSR or BSR. It is
    for inference: gradients are refused by a `SparseTrainingError`. `dense()` is the layer as it was.

    Where the kernel does not run (another type or device, autocast, while torch.compile or torch.export
    trace), the weight is put together each time and multiplied as ever, and a warning says so once.
    """

    weight_values: nn.Parameter
    weight_columns: Tensor
    weight_pointers: Tensor
    weight_row_order: Tensor | None
    weight_column_order: Tensor | None
    bias: nn.Parameter | None
    kernel: str
    trainable: bool

    @classmethod
    def made_from(cls, layer: nn.Module, kernel: str, side: int = 1, is_ordered: bool = False) -> Self:
        """`layer` with a sparse weight, its hooks and flags: a new module which shares the bias with it.

        `is_ordered` puts rows and columns in an order that makes blocks, where there is one.
        """
        weight: Tensor = layer.weight.detach()  # type: ignore[union-attr, operator, assignment]
        matrix = weight.reshape(weight.shape[0], -1)
        order = block_order(matrix, side) if is_ordered else None
        return cls.holding(layer, kernel, compress(matrix, side, order))

    @classmethod
    def holding(cls, layer: nn.Module, kernel: str, stored: Compressed) -> Self:
        """`layer` with the weight `stored` in place of its own."""
        made = cls.__new__(cls)
        vars(made).update(_own_containers(layer))
        made.trainable = bool(layer.weight.requires_grad)  # type: ignore[union-attr]
        del made.weight
        made.kernel = kernel
        # A parameter, as others ask for a model's type and device by its parameters.
        made.register_parameter(VALUES, nn.Parameter(stored.values.detach(), requires_grad=False))
        made.register_buffer(COLUMNS, stored.columns)
        made.register_buffer(POINTERS, stored.pointers)
        order = stored.order
        made.register_buffer(ROW_ORDER, None if order is None else order.rows)
        made.register_buffer(COLUMN_ORDER, None if order is None else order.columns)
        return made

    def dense(self) -> nn.Module:
        """The layer of torch with the same weight as a strided parameter, and the same hooks and flags."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight as a matrix."""
        raise NotImplementedError

    @property
    def zeros(self) -> float:
        """The share of the weight that is zero."""
        rows, columns = self.shape
        return 1.0 - int((self.weight_values != 0).sum()) / max(1, rows * columns)

    @property
    def stored(self) -> Compressed:
        """The weight as it is held."""
        rows, columns = self.weight_row_order, self.weight_column_order
        order = None if rows is None or columns is None else Order(rows, columns)
        return Compressed(self.weight_values, self.weight_columns, self.weight_pointers, order)

    def matrix(self) -> Tensor:
        """The weight as a strided matrix, put together anew."""
        return decompress(self.stored, self.shape)

    def extra_repr(self) -> str:
        """As of the layer, with what is sparse."""
        side = self.stored.side
        blocks = f" in blocks of {side} x {side}" if side > 1 else ""
        return f"{super().extra_repr()}, kernel={self.kernel}{blocks}, zeros={self.zeros:.1%}"

    def _runs_kernel(self, x: Tensor) -> bool:
        """Whether the kernel can be used for an input; warns where it should be and cannot."""
        if torch.compiler.is_compiling() or type(x) not in (Tensor, nn.Parameter):
            _warn("the model is being traced")
            return False
        values = self.weight_values
        if not KERNELS[self.kernel].takes(values.device.type, values.dtype):
            _warn(f"the kernel {self.kernel!r} does not run in {values.dtype} on {values.device.type}")
            return False
        return not torch.is_autocast_enabled(x.device.type)

    def _refuse_training(self) -> None:
        if self.training and torch.is_grad_enabled():
            raise SparseTrainingError(_UNTRAINABLE.format(type(self).__name__))

    def _needs_gradient(self, x: Tensor) -> bool:
        bias = self.bias
        return torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))

    def _product(self, x: Tensor) -> Tensor:
        """(n, columns) -> (n, rows), contiguous, without the bias."""
        made = self._made()
        if self.kernel == "2:4":
            return nn.functional.linear(x, made.matrix)
        if self.weight_column_order is not None:
            x = x.index_select(1, self.weight_column_order)
        if len(x) == 1 and made.row_places is None:
            # One vector is the same in both orders, and a product of columns takes it without a copy.
            single = x.new_empty(1, self.shape[0])
            torch.mm(made.matrix, x.t(), out=single.t())
            return single
        found = made.matrix @ x.t()
        if made.row_places is not None:
            found = found.index_select(0, made.row_places)
        return found.t().contiguous()

    def _product_of_columns(self, x: Tensor) -> Tensor:
        """(columns, n) -> (rows, n), without the bias."""
        made = self._made()
        if self.kernel == "2:4":
            return nn.functional.linear(x.t(), made.matrix).t()
        if self.weight_column_order is not None:
            x = x.index_select(0, self.weight_column_order)
        found = made.matrix @ x
        return found if made.row_places is None else found.index_select(0, made.row_places)

    def _made(self) -> _Made:
        """The kernel's form of the weight, made again when the weight was moved or loaded otherwise."""
        stored = self.stored
        key = (self.kernel, stored.values.dtype, *map(Tensor.data_ptr, _tensors(stored)))
        made: _Made | None = vars(self).get(_CACHE)
        if made is None or made.key != key:
            places = None if stored.order is None else stored.order.row_places
            made = _Made(key, KERNELS[self.kernel].form(stored, self.shape), places)
            vars(self)[_CACHE] = made
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Without the kernel's form of the weight, which is made anew."""
        return {name: value for name, value in vars(self).items() if name != _CACHE}


class Untrainable(Function):
    """A forward whose backward raises a `SparseTrainingError`."""

    @staticmethod
    def forward(ctx: Any, module: Any, x: Tensor, bias: Tensor | None) -> Tensor:
        ctx.name = type(module).__name__
        found: Tensor = module.multiplied(x)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise SparseTrainingError(_UNTRAINABLE.format(ctx.name))


_CACHE = "_made_for_kernel"
_UNTRAINABLE = (
    "a {} has no gradients. For inference call model.eval(); to train, call its dense(), or "
    "speedup.sparse.applying.dense_model(model) for all of them."
)


def _own_containers(layer: nn.Module) -> dict[str, Any]:
    """What a module holds, with dictionaries of parameters, buffers, hooks of its own."""
    return {name: value.copy() if isinstance(value, dict) else value for name, value in vars(layer).items()}


def plain_layer(module: SparseModule, kind: type[nn.Module]) -> nn.Module:
    """A layer of torch, of class `kind`, with what `module` holds but a strided weight."""
    made = kind.__new__(kind)
    held = _own_containers(module)
    for name in ("kernel", "trainable", _CACHE):
        held.pop(name, None)
    vars(made).update(held)
    bias, weight = module.bias, module.weight
    assert isinstance(weight, Tensor)
    for name in (*PIECES, "bias"):
        delattr(made, name)
    made.register_parameter("weight", nn.Parameter(weight.detach(), requires_grad=module.trainable))
    # In the order of the constructor, in which optimizers number them.
    made.register_parameter("bias", bias)
    return made


def _tensors(stored: Compressed) -> tuple[Tensor, ...]:
    return stored.values, stored.columns, stored.pointers


def _warn(why: str) -> None:
    warnings.warn(
        f"sparse layers compute with dense weights, as {why}; call dense() on them, which is faster then",
        stacklevel=2,
    )
