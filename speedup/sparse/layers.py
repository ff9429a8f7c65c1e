"""Layers with sparse weights: `SparseLinear` and `SparseConv2d`, and `SparseConv1D` of transformers."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speedup._stable import stable
from speedup.sparse.weight import SparseModule, plain_layer


class SparseLinear(SparseModule, nn.Linear):
    """`nn.Linear` with a sparse weight (out_features, in_features); see `SparseModule`. Made by `made_from`.

    Maps (..., in_features) to (..., out_features). `weight` is the strided weight, put together anew each
    time.
    """

    # torch.fx takes it for a layer of torch's own, which it does not look into.
    __module__ = nn.Linear.__module__

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(out_features, in_features), strided, without gradient."""
        return self.matrix()

    @property
    def shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    def dense(self) -> nn.Linear:
        return cast(nn.Linear, plain_layer(self, nn.Linear))

    def multiplied(self, x: Tensor) -> Tensor:
        """The forward by the kernel."""
        found = self._product(x.reshape(-1, self.in_features))
        return found.view(*x.shape[:-1], self.out_features)

    def _fits(self, x: Tensor) -> bool:
        return super()._fits(x) and x.ndim > 0 and x.shape[-1] == self.in_features

    def _by_traced(self, x: Tensor) -> Tensor:
        found = self._traced_product(x.reshape(-1, self.in_features))
        found = found if self.bias is None else found + self.bias
        return found.view(*x.shape[:-1], self.out_features)

    def _by_dense(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """By a function, whose address never changes."""
        return restore_sparse_linear, (), self.__getstate__()


class SparseConv2d(SparseModule, nn.Conv2d):
    """A 1 x 1 `nn.Conv2d` without groups or padding, with a sparse weight; see `SparseModule`.

    Maps (..., in_channels, height, width) to (..., out_channels, height, width), smaller by the strides.
    `weight` is the strided weight (out_channels, in_channels, 1, 1), put together anew each time.
    """

    __module__ = nn.Conv2d.__module__

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(out_channels, in_channels, 1, 1), strided, without gradient."""
        return self.matrix()[:, :, None, None]

    @property
    def shape(self) -> tuple[int, int]:
        return self.out_channels, self.in_channels

    @staticmethod
    def can_hold(layer: nn.Module) -> bool:
        """Whether `layer` is of the kind that this class takes over."""
        if type(layer) is not nn.Conv2d or layer.groups != 1 or layer.padding_mode != "zeros":
            return False
        return layer.kernel_size == (1, 1) and layer.padding in ((0, 0), "valid", "same")

    def dense(self) -> nn.Conv2d:
        return cast(nn.Conv2d, plain_layer(self, nn.Conv2d))

    def multiplied(self, x: Tensor) -> Tensor:
        """The forward by the kernel."""
        images = self._taken(x)
        return self._of_images(images) if x.ndim == 4 else self._of_images(images[None])[0]

    def _taken(self, x: Tensor) -> Tensor:
        """The positions that the strides take."""
        down, across = self.stride
        return x[..., ::down, ::across] if (down, across) != (1, 1) else x

    def _by_traced(self, x: Tensor) -> Tensor:
        taken = self._taken(x).movedim(-3, -1)
        found = self._traced_product(taken.reshape(-1, self.in_channels))
        found = found if self.bias is None else found + self.bias
        return found.view(*taken.shape[:-1], self.out_channels).movedim(-1, -3).contiguous()

    def _by_dense(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)

    def _fits(self, x: Tensor) -> bool:
        return super()._fits(x) and x.ndim in (3, 4) and x.shape[-3] == self.in_channels

    def _of_images(self, images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        is_last = not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)
        if is_last:
            found = self._product(images.permute(0, 2, 3, 1).reshape(-1, channels))
            return found.view(count, height, width, self.out_channels).permute(0, 3, 1, 2)
        made = images.new_empty(count, self.out_channels, height * width)
        for image, place in zip(images, made, strict=True):
            self._fill_product(image.reshape(channels, -1), place)
        return made.view(count, self.out_channels, height, width)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """By a function, whose address never changes."""
        return restore_sparse_conv2d, (), self.__getstate__()


class SparseConv1D(SparseModule):
    """The `Conv1D` of transformers, a linear layer whose weight is (inputs, outputs); see `SparseModule`.

    Maps (..., nx) to (..., nf), as in the blocks of GPT-2. `weight` is the strided weight (nx, nf), put
    together anew each time.
    """

    nf: int
    nx: int

    @property
    def weight(self) -> Tensor:
        """(nx, nf), strided, without gradient."""
        return self.matrix().t().contiguous()

    @property
    def shape(self) -> tuple[int, int]:
        return self.nf, self.nx

    @staticmethod
    def as_matrix(weight: Tensor) -> Tensor:
        return weight.t()

    @staticmethod
    def can_hold(layer: nn.Module) -> bool:
        """Whether `layer` is of the kind that this class takes over."""
        kind = type(layer)
        return (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D")

    def dense(self) -> nn.Module:
        from transformers.pytorch_utils import Conv1D

        return plain_layer(self, Conv1D)

    def extra_repr(self) -> str:
        """As of the layer, with what is sparse."""
        return f"nf={self.nf}, nx={self.nx}{super().extra_repr()}"

    def multiplied(self, x: Tensor) -> Tensor:
        """The forward by the kernel."""
        found = self._product(x.view(-1, self.nx))
        return found.view(*x.shape[:-1], self.nf)

    def _fits(self, x: Tensor) -> bool:
        return super()._fits(x) and x.ndim > 0 and x.shape[-1] == self.nx

    def _by_traced(self, x: Tensor) -> Tensor:
        found: Tensor = self._traced_product(x.view(-1, self.nx)) + self.bias
        return found.view(*x.shape[:-1], self.nf)

    def _by_dense(self, x: Tensor) -> Tensor:
        found: Tensor = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return found.view(*x.shape[:-1], self.nf)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """By a function, whose address never changes."""
        return restore_sparse_conv1d, (), self.__getstate__()


@stable
def restore_sparse_linear() -> SparseLinear:
    """An empty layer, which a pickle fills."""
    return SparseLinear.__new__(SparseLinear)


@stable
def restore_sparse_conv2d() -> SparseConv2d:
    """An empty layer, which a pickle fills."""
    return SparseConv2d.__new__(SparseConv2d)


@stable
def restore_sparse_conv1d() -> SparseConv1D:
    """An empty layer, which a pickle fills."""
    return SparseConv1D.__new__(SparseConv1D)


def sparse_class_of(layer: nn.Module) -> type[SparseModule] | None:
    """The class that takes over `layer`, None where there is none."""
    if type(layer) in (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return SparseLinear
    kinds: tuple[type[SparseConv2d | SparseConv1D], ...] = (SparseConv2d, SparseConv1D)
    return next((kind for kind in kinds if kind.can_hold(layer)), None)
