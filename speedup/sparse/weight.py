"""What the layers with a sparse weight have in common: how it is held, its kernel, and the way back."""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.autograd import Function

from speedup.errors import SparseTrainingError
from speedup.sparse.compressed import Compressed, compress, decompress
from speedup.sparse.kernels import KERNELS
from speedup.sparse.ordering import Order, block_order
from speedup.sparse.products import UNTRAINABLE, Factor, factor_of, fill_product, product, traced_product
from speedup.torch_api import is_transformed, version_of

VALUES, COLUMNS, POINTERS = "weight_values", "weight_columns", "weight_pointers"
ROW_ORDER, COLUMN_ORDER = "weight_row_order", "weight_column_order"
PIECES = (VALUES, COLUMNS, POINTERS, ROW_ORDER, COLUMN_ORDER)
"""By these names a module and its state dict hold a sparse weight; orders only where there is one."""


class _Made(NamedTuple):
    """What a kernel multiplies by, and what tells whether it is still that of the weight."""

    key: tuple[object, ...]
    factor: Factor


class SparseModule(nn.Module):
    """A layer whose weight is a sparse matrix, multiplied by a sparse kernel.

    `kernel` names it, see `speedup.sparse.kernels`; `zeros` is the share of the weight that is zero. The
    state dict holds plain tensors: `weight_values`, `weight_columns` and `weight_pointers` as of CSR or BSR.
    It is for inference: gradients are refused by a `SparseTrainingError`. `dense()` is the layer as it was.

    torch.compile has the product as one op. Where the kernel does not run (another type or device, autocast,
    torch.export and other tracing, whose graphs go elsewhere, torch.func) the weight is put together each
    time and multiplied as ever, and a warning says so once.
    """

    unplannable = "has a sparse weight; plan speedup.sparse.applying.dense_model(model), which has none"

    weight_values: nn.Parameter
    weight_columns: Tensor
    weight_pointers: Tensor
    weight_row_order: Tensor | None
    weight_column_order: Tensor | None
    bias: Any
    kernel: str
    trainable: bool

    @classmethod
    def made_from(cls, layer: nn.Module, kernel: str, side: int = 1, is_ordered: bool = False) -> Self:
        """`layer` with a sparse weight, its hooks and flags: a new module which shares the bias with it.

        `is_ordered` puts rows and columns in an order that makes blocks, where there is one.
        """
        matrix = cls.as_matrix(layer.weight.detach())  # type: ignore[operator]
        order = block_order(matrix, side) if is_ordered else None
        return cls.holding(layer, kernel, compress(matrix, side, order))

    @classmethod
    def holding(cls, layer: nn.Module, kernel: str, stored: Compressed) -> Self:
        """`layer` with the weight `stored` in place of its own."""
        made = cls.__new__(cls)
        vars(made).update(_own_containers(layer))
        made.trainable = bool(layer.weight.requires_grad)
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

    @staticmethod
    def as_matrix(weight: Tensor) -> Tensor:
        """A weight of the layer as (outputs, inputs)."""
        return weight.reshape(weight.shape[0], -1)

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

    def forward(self, input: Tensor) -> Tensor:
        """As of the layer of torch.

        Raises:
            SparseTrainingError: the module is in training mode, and gradients are recorded.
        """
        self._refuse_training()
        way = self._way(input)
        if way == "dense":
            return self._by_dense(input)
        if way == "traced":
            return self._by_traced(input)
        if self._needs_gradient(input):
            return without_gradient(self, input)
        return self.multiplied(input)

    def multiplied(self, x: Tensor) -> Tensor:
        """The forward by the kernel."""
        raise NotImplementedError

    def _by_traced(self, x: Tensor) -> Tensor:
        """The forward as one op of a compiled graph."""
        raise NotImplementedError

    def _by_dense(self, x: Tensor) -> Tensor:
        """The forward by the strided weight."""
        raise NotImplementedError

    def _way(self, x: Tensor) -> Literal["kernel", "traced", "dense"]:
        """How an input is multiplied: by the kernel, by an op of a compiled graph, or by a dense weight."""
        values = self.weight_values
        if not self._fits(x):
            return "dense"
        takes = KERNELS[self.kernel].takes(values.device.type, values.dtype)
        if not takes or torch.is_autocast_enabled(x.device.type):
            if not takes and not torch.compiler.is_compiling():
                _warn(f"the kernel {self.kernel!r} does not run in {values.dtype} on {values.device.type}")
            return "dense"
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            return "traced"
        if torch.compiler.is_dynamo_compiling():
            # A strict export, in which nothing can be warned of, nor asked of a tensor.
            return "dense"
        if type(x) in (Tensor, nn.Parameter) and not (_is_traced() or is_transformed(x)):
            return "kernel"
        _warn("what traces or transforms the forward need not know their kernels")
        return "dense"

    def _fits(self, x: Tensor) -> bool:
        """Whether a kernel can take it; what does not fit is left to torch, which says what is wrong."""
        values = self.weight_values
        is_plain = x.layout is torch.strided and not x.is_nested
        return is_plain and (x.dtype, x.device) == (values.dtype, values.device)

    def _refuse_training(self) -> None:
        if self.training and torch.is_grad_enabled():
            raise SparseTrainingError(UNTRAINABLE.format(type(self).__name__))

    def _needs_gradient(self, x: Tensor) -> bool:
        held = (x, self.weight_values, self.bias)
        return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in held)

    def _product(self, x: Tensor) -> Tensor:
        """(n, columns) -> (n, rows), contiguous, with the bias."""
        return product(self._factor(), x, self.bias)

    def _fill_product(self, x: Tensor, out: Tensor) -> None:
        """Write into `out` (rows, n) the product with `x` (columns, n), with the bias."""
        fill_product(self._factor(), x, self.bias, out)

    def _traced_product(self, x: Tensor) -> Tensor:
        """(n, columns) -> (n, rows), contiguous, without the bias, as one op of a compiled graph."""
        found: Tensor = traced_product(x, *self.stored.flat, self.kernel, *self.shape)
        return found

    def _factor(self) -> Factor:
        """What the kernel multiplies by, made again when the weight was moved or loaded otherwise."""
        stored = self.stored
        key = (self.kernel, stored.values.dtype, *(_state_of(piece) for piece in stored.flat))
        made: _Made | None = vars(self).get(_CACHE)
        if made is None or made.key != key:
            made = _Made(key, factor_of(self.kernel, stored, self.shape))
            vars(self)[_CACHE] = made
        return made.factor

    def __getstate__(self) -> dict[str, Any]:
        """Without the kernel's form of the weight, which is made anew."""
        return {name: value for name, value in vars(self).items() if name != _CACHE}


class Untrainable(Function):
    """A forward whose backward raises a `SparseTrainingError`."""

    @staticmethod
    def forward(ctx: Any, module: Any, x: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        ctx.name = type(module).__name__
        found: Tensor = module.multiplied(x)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise SparseTrainingError(UNTRAINABLE.format(ctx.name))


def without_gradient(module: SparseModule, x: Tensor) -> Tensor:
    """What `module.multiplied(x)` returns, in a graph that refuses to go backward."""
    found: Tensor = Untrainable.apply(module, x, module.weight_values, module.bias)  # type: ignore[no-untyped-call]
    return found


_CACHE = "_made_for_kernel"


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


def _state_of(piece: Tensor | None) -> tuple[int, ...]:
    """What changes where a tensor is another one, or is written to."""
    if piece is None:
        return ()
    # Tensors of inference mode do not count how often they are written to.
    return (piece.data_ptr(), -1 if piece.is_inference() else version_of(piece))


def _is_traced() -> bool:
    """Whether torch.jit.trace is under way."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _warn(why: str) -> None:
    warnings.warn(
        f"sparse layers compute with dense weights, as {why}; call dense() on them, which is faster then",
        stacklevel=2,
    )
