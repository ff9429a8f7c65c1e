"""Masks as a value: which elements of which parameters to keep, compared by content."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import attrs
import torch

from speedup import errors
from speedup._stable import stable


def compact_mask(mask: torch.Tensor) -> torch.Tensor:
    """`mask` with one entry per row where its rows are uniform, as filter masks are."""
    if (
        mask.ndim < 2
        or mask.numel() == mask.shape[0]
        or not mask.numel()
        or mask.is_complex()
        or mask.is_meta
    ):
        return mask
    rows = mask.flatten(1)
    lowest = rows.amin(1)
    if not torch.equal(lowest, rows.amax(1)):
        return mask
    return lowest.reshape(-1, *[1] * (mask.ndim - 1))


def _own(keep: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Private copies of the masks that mask anything."""
    for name, mask in keep.items():
        if mask.dtype is not torch.bool:
            raise errors.MaskError(f"mask for {name!r} is {mask.dtype}, not bool; use resolve_masks.")
    contiguous = {
        name: compact_mask(mask).contiguous() for name, mask in keep.items() if not bool(mask.all())
    }
    return MappingProxyType({name: mask.clone() for name, mask in contiguous.items()})


@attrs.frozen(eq=False, repr=False)
class Masks(Mapping[str, torch.Tensor]):
    """An immutable mapping from canonical parameter names to keep-masks, compared and hashed by content.

    A canonical name is one that `model.named_parameters()` gives, the first for a tied parameter. A mask is
    a bool tensor, True where the parameter is kept, with the parameter's number of dimensions, each full or
    of size 1, as where all entries of a row are alike. Masks without a False are dropped. Do not write to
    the tensors.

    Args:
        keep: parameter name -> bool mask, copied; another dtype raises `MaskError`.

    Attributes:
        digest: SHA-256, in hex, of names, shapes and contents; the same in every process.
    """

    _keep: Mapping[str, torch.Tensor] = attrs.field(factory=dict, converter=_own)
    digest: str = attrs.field(init=False)

    @digest.default
    def _digest_of_content(self) -> str:
        content = hashlib.sha256()
        for name in sorted(self._keep):
            mask = self._keep[name].cpu()
            content.update(f"{len(name)} {name} {tuple(mask.shape)} ".encode())
            # Reads the tensor's memory in place; it is contiguous, and alive as long as `mask`.
            content.update((ctypes.c_char * mask.numel()).from_address(mask.data_ptr()))
        return content.hexdigest()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._keep[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keep)

    def __len__(self) -> int:
        return len(self._keep)

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Masks) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Callable[..., Masks], tuple[dict[str, torch.Tensor]]]:
        return restore_masks, (dict(self._keep),)  # a mapping proxy can be neither pickled nor deep-copied

    def __repr__(self) -> str:
        return f"Masks({len(self)} masked parameters, digest={self.digest[:12]}...)"


@stable
def restore_masks(keep: dict[str, torch.Tensor]) -> Masks:
    """The masks of a mapping, as a pickle holds them."""
    return Masks(keep)
