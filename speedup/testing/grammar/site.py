"""Where a block is to stand, and what every production of the grammar is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, TypeVar

import attrs
import torch
from hypothesis import assume
from hypothesis import strategies as st

from speedup.testing.spec import Spec

Layout = Literal["image", "signal", "volume", "tokens", "vector"]

MOST_CHANNELS = 8

T = TypeVar("T")


@attrs.frozen
class Shape:
    """A value's layout and its sizes without the batch.

    image (C, H, W), signal (C, L), volume (C, D, H, W), tokens (L, C), vector (C).
    """

    layout: Layout
    sizes: tuple[int, ...]

    @property
    def channels(self) -> int:
        """The size of the dimension that weights are applied along."""
        return self.sizes[-1] if self.layout == "tokens" else self.sizes[0]

    @property
    def space(self) -> tuple[int, ...]:
        """The sizes of all other dimensions."""
        return self.sizes[:-1] if self.layout == "tokens" else self.sizes[1:]

    @property
    def channel_dim(self) -> int:
        """The index of the channels, counted with the batch."""
        return -1 if self.layout == "tokens" else 1

    @property
    def positions(self) -> int:
        """How many values each channel has."""
        return functools.reduce(int.__mul__, self.space, 1)


@attrs.frozen
class BlockSite:
    """The shape that a block will be given and what is asked of the block.

    `depth` is how deep composite blocks may still nest; with `keep_space` only the channels may
    change; `writable` is false for a value that an in-place block must not write to, such as the
    network's input or one of several views of one tensor (autograd refuses that).
    """

    shape: Shape
    depth: int = 2
    keep_space: bool = False
    writable: bool = True

    @property
    def rank(self) -> int:
        """The number of spatial dimensions."""
        return len(self.shape.space)


@attrs.frozen
class Production:
    """One way to write a block: `draw` may be called where `fits` is true of the site."""

    draw: Callable[[st.DrawFn, BlockSite], Spec]
    fits: Callable[[BlockSite], bool] = lambda site: True


@functools.lru_cache(maxsize=1 << 14)
def result_sizes(spec: Spec, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes, without the batch, that the block makes of `sizes`: it is built and run once.

    An example in which nothing would be left, as when a transposed convolution crops all, is rejected.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        result = spec.build().eval()(torch.zeros(2, *sizes))
    assume(result.numel() > 0)
    return tuple(result.shape[1:])


def draw_production(draw: st.DrawFn, productions: tuple[Production, ...], site: BlockSite) -> Spec | None:
    """Draw one of the productions that fit the site, or None if none does."""
    fitting = [production for production in productions if production.fits(site)]
    if not fitting:
        return None
    chosen = fitting[draw(st.integers(0, len(fitting) - 1))]
    return chosen.draw(draw, site)


def channel_counts() -> st.SearchStrategy[int]:
    """How many channels a block makes: any number, but more often one that groups and heads divide."""
    return st.one_of(st.integers(2, MOST_CHANNELS), st.sampled_from((4, 8, 6)), st.integers(1, 4))


def divisors(number: int) -> list[int]:
    """The divisors of a positive number, smallest first."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def pick(draw: st.DrawFn, *choices: T) -> T:
    """Draw one of the choices; the first is the simplest."""
    return draw(st.sampled_from(choices))
