"""What is known of a tensor's elements, in broadcast-compressed form.

Each element is in the flat lattice of constant propagation::

      Unknown          differs from input to input
     /   |   \\
   Known(c) ...        the same for every input

A `Fact` holds one such element state per tensor element as two tensors, `known` and
`value`, of the tensor's rank, in which a dimension has extent 1 where the state is uniform
along it. A convolution's activation is then (1, C, 1, 1): cost follows channels, not pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

import torch
from attrs import evolve, field, frozen
from torch import Tensor

from speedup.engine.bounds import OPEN, Bounds, spanned

Shape = tuple[int, ...]

# Elements of a tensor that are looked at in one go. They stay in the cache, and torch does not yet share them
# out to threads, which on a busy machine would wait for one another at every piece.
_PIECE = 2**15


@frozen(eq=False)
class Fact:
    """State of every element: Known(`value`) where `known`, else Unknown (and `value` 0).

    A large masked weight is held as its `raw` tensor and a compressed `mask` (False: 0), so
    that it need not be copied to be reasoned about. Of a tensor that `varies` in shape from call to call, an
    extent of 1 does not say that there is one element.

    All elements lie within `bounds`, also those that nothing reads, which a smaller model may compute from
    other numbers. `stated` are these bounds; None: those of the numbers that the fact holds.
    """

    known: Tensor
    raw: Tensor
    mask: Tensor | None = None
    varies: bool = False
    stated: Bounds | None = OPEN
    _cache: dict[str, Tensor] = field(factory=dict, repr=False, alias="cache")

    @property
    def ndim(self) -> int:
        return self.known.ndim

    @property
    def value(self) -> Tensor:
        """The constants, compressed; 0 where Unknown."""
        if self.mask is None:
            return self.raw
        return self.memo(
            "value", lambda: torch.where(self._mask, self.raw, torch.zeros((), dtype=self.raw.dtype))
        )

    def pick(self, shape: Shape, picks: Mapping[int, Tensor]) -> Tensor:
        """The constants of a tensor of `shape` at the indices that `picks` has for some dimensions.

        Of a large masked weight no more is copied than that.
        """
        raw, mask = self.raw.expand(shape), self._mask
        for dim, indices in picks.items():
            raw = raw.index_select(dim, indices)
            mask = mask if mask.shape[dim] == 1 else mask.index_select(dim, indices)
        return raw if self.mask is None else torch.where(mask, raw, torch.zeros((), dtype=raw.dtype))

    @property
    def bounds(self) -> Bounds:
        """Between what numbers all elements lie."""
        if self.stated is not None:
            return self.stated
        return spanned(self.memo("ends", self._ends).tolist())

    def _ends(self) -> Tensor:
        if not self.raw.numel() or not self.raw.is_floating_point():
            return torch.zeros(0)
        zero = [] if self.mask is None else [torch.zeros((), dtype=self.raw.dtype)]
        return torch.stack([*torch.aminmax(self.raw), *zero]).double()

    @property
    def _mask(self) -> Tensor:
        return indicator(True, self.ndim) if self.mask is None else self.mask

    def memo(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor `compute` gives, computed once per fact."""
        if key not in self._cache:
            self._cache[key] = compute()
        return self._cache[key]

    @property
    def is_unknown(self) -> bool:
        """Whether nothing at all is known; a cheap test that may miss a spread-out False."""
        return self.known.numel() == 1 and not bool(self.known)

    def is_all_known(self) -> bool:
        return bool(self.known) if self.known.numel() == 1 else bool(self.known.all())

    def is_given(self, shape: Shape) -> bool:
        """Whether every element of a tensor of `shape` is Known one by one, none by uniformity."""
        return not self.varies and self.raw.shape == shape and self.is_all_known()

    @property
    def maybe_nonzero(self) -> Tensor:
        """Bool, compressed: True where the element is not Known(0)."""
        return self.memo("maybe_nonzero", self._maybe_nonzero)

    def _maybe_nonzero(self) -> Tensor:
        nonzero = _nonzero(self.raw) if self.mask is None else _nonzero(self.raw) & self.mask
        return nonzero if self.is_all_known() else nonzero | ~self.known

    @property
    def known_nonzero(self) -> Tensor:
        """Bool, compressed: True where the element is Known(c) with c other than 0."""
        return self.known & (self.value != 0)


def pieces(length: int, elements: int) -> list[slice]:
    """Slices along a dimension of `length` in which a tensor of so many elements fits into a cache.

    Of an empty dimension there is one slice, which is empty.
    """
    step = max(1, _PIECE * length // max(elements, 1))
    return [slice(start, min(start + step, length)) for start in range(0, max(length, 1), step)]


def _nonzero(tensor: Tensor) -> Tensor:
    """Bool, compressed: where `tensor` is not 0.

    Large dense weights seldom hold a zero, so pieces that fit into a cache are first searched for one.
    """
    if not tensor.is_floating_point() or not tensor.numel() or not tensor.ndim:
        return tensor != 0
    found = [p for p in pieces(len(tensor), tensor.numel()) if not bool(tensor[p].abs().amin() > 0)]
    if not found:
        return indicator(True, tensor.ndim)
    nonzero = torch.ones(tensor.shape, dtype=torch.bool)
    for piece in found:
        torch.ne(tensor[piece], 0, out=nonzero[piece])
    return nonzero


@lru_cache(maxsize=64)
def _false(ndim: int) -> Tensor:
    return torch.zeros((1,) * ndim, dtype=torch.bool)


@lru_cache(maxsize=64)
def _true(ndim: int) -> Tensor:
    return torch.ones((1,) * ndim, dtype=torch.bool)


def unknown(ndim: int, dtype: torch.dtype) -> Fact:
    """The top of the lattice, everywhere."""
    return Fact(_false(ndim), torch.zeros((1,) * ndim, dtype=dtype))


def constant(tensor: Tensor, mask: Tensor | None = None) -> Fact:
    """Every element Known: `tensor`, which may be compressed, and 0 where `mask` is False."""
    return Fact(_true(tensor.ndim), tensor, mask)


def fact(known: Tensor, value: Tensor) -> Fact:
    """A fact from raw results: values at Unknown elements are cleared."""
    if known.numel() == 1 and not bool(known):
        return unknown(value.ndim, value.dtype)
    if bool(known.all()):
        return Fact(_true(known.ndim), value)
    return Fact(known, torch.where(known, value, torch.zeros((), dtype=value.dtype)))


def join(a: Fact, b: Fact) -> Fact:
    """Least upper bound: Known only where both are Known and agree."""
    return fact(a.known & b.known & (a.value == b.value), a.value)


def indicator(flag: bool, ndim: int) -> Tensor:
    """A compressed bool that is `flag` everywhere. Shared: never write to it."""
    return _true(ndim) if flag else _false(ndim)


def to_double(tensor: Tensor) -> Tensor:
    """`tensor` in double precision, complex numbers as such."""
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def spread(tensor: Tensor, shape: Shape, dims: Iterable[int]) -> Tensor:
    """Expand the compressed `tensor` to its full extent along `dims` (a view)."""
    wanted = list(tensor.shape)
    for dim in dims:
        wanted[dim] = shape[dim]
    return tensor if tuple(wanted) == tuple(tensor.shape) else tensor.expand(wanted)


def any_over(tensor: Tensor, dims: Iterable[int]) -> Tensor:
    """Logical or along `dims`, which keep extent 1. `tensor` is bool and compressed."""
    chosen = [d for d in dims if tensor.shape[d] != 1]
    if tensor.numel() > _PIECE and chosen:
        # The same in a tenth of the time.
        return tensor.view(torch.uint8).amax(dim=chosen, keepdim=True).view(torch.bool)
    return tensor.any(dim=chosen, keepdim=True) if chosen else tensor


def any_both(one: Tensor, other: Tensor, dim: int) -> Tensor:
    """Logical or of `one & other` along `dim`, which keeps extent 1. Both are bool and compressed.

    Where one of them is the same all along `dim`, nothing larger than they are is made.
    """
    if 1 in (one.shape[dim], other.shape[dim]):
        return any_over(one, [dim]) & any_over(other, [dim])
    return any_over(one & other, [dim])


def all_over(tensor: Tensor, dims: Iterable[int]) -> Tensor:
    """Logical and along `dims`, which keep extent 1."""
    chosen = [d for d in dims if tensor.shape[d] != 1]
    return tensor.all(dim=chosen, keepdim=True) if chosen else tensor


def any_along(tensor: Tensor, dim: int, extent: int) -> Tensor:
    """Bool vector of length `extent`: whether anything is True at each index of `dim`."""
    kept = any_over(tensor, (d for d in range(tensor.ndim) if d != dim % tensor.ndim))
    return kept.reshape(-1).expand(extent)


def state_along(one: Fact, dim: int, extent: int) -> tuple[Tensor, Tensor, Tensor]:
    """Per index of `dim`: known at every place; the same at every place; the value if so."""
    known = ~any_along(~one.known, dim, extent)
    first = _first_of(one.value, (other for other in range(one.ndim) if other != dim))
    varies = any_along(one.value != first, dim, extent)
    return known, ~varies, first.reshape(-1).expand(extent)


def _first_of(tensor: Tensor, dims: Iterable[int]) -> Tensor:
    """The first along `dims`, which keep extent 1; zero where there is none, as all of none are."""
    for dim in dims:
        if tensor.shape[dim]:
            tensor = tensor.narrow(dim, 0, 1)
        else:
            tensor = tensor.new_zeros(*tensor.shape[:dim], 1, *tensor.shape[dim + 1 :])
    return tensor


def vector(values: Tensor, dim: int, ndim: int) -> Tensor:
    """A compressed tensor of rank `ndim` that varies along `dim` only."""
    shape = [1] * ndim
    shape[dim] = values.numel()
    return values.reshape(shape)


def fold_to(tensor: Tensor, shape: Shape) -> Tensor:
    """Adjoint of broadcasting on indicators: or-reduce `tensor` to the rank and unit extents of `shape`."""
    extra = tensor.ndim - len(shape)
    if extra:
        tensor = any_over(tensor, range(extra)).reshape(tensor.shape[extra:])
    return any_over(tensor, (d for d, n in enumerate(shape) if n == 1))


def split_runs(tensor: Tensor, dim: int, count: int) -> Tensor:
    """Split dimension `dim` into `count` equal runs: (..., n, ...) becomes (..., count, n / count, ...)."""
    return tensor.reshape(*tensor.shape[:dim], count, -1, *tensor.shape[dim + 1 :])


def broadcast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both compressed tensors at their common compressed shape (views)."""
    first, second = torch.broadcast_tensors(a, b)  # type: ignore[no-untyped-call]
    return first, second


def uniform_along(tensor: Tensor, dims: Iterable[int]) -> bool:
    """Whether the compressed `tensor` has the same content at every index of `dims`."""
    chosen = [d for d in dims if tensor.shape[d] != 1]
    if not chosen:
        return True
    return bool((tensor == _first_of(tensor, chosen)).all())


def uniform_fact(one: Fact, dims: Iterable[int]) -> Fact:
    """What is known all along `dims`: Known where one constant stands at every index of them."""
    chosen = [d for d in dims if max(one.known.shape[d], one.value.shape[d]) != 1]
    if one.is_unknown or not chosen:
        return one
    first = _first_of(one.value, chosen)
    found = fact(*broadcast(all_over(one.known & (one.value == first), chosen), first))
    return evolve(found, varies=one.varies, stated=one.bounds)
