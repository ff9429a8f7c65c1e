"""The grammar's root: blocks one after another, each drawn for the shape that the last one made."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from hypothesis import strategies as st
from torch import nn

from speedup.testing.grammar.compositions import GATES, compositions
from speedup.testing.grammar.convolutions import CONVOLUTION, CONVOLUTIONS, TRANSPOSED
from speedup.testing.grammar.layouts import LAYOUTS
from speedup.testing.grammar.linears import LINEARS, TOKEN_MIXERS
from speedup.testing.grammar.norms import BATCH_NORM, SPATIAL_NORMS, TOKEN_NORMS, VECTOR_NORMS
from speedup.testing.grammar.pointwise import POINTWISES
from speedup.testing.grammar.pools import POOLS
from speedup.testing.grammar.recurrent import RECURRENTS
from speedup.testing.grammar.resampling import IMAGE_RESAMPLINGS
from speedup.testing.grammar.site import (
    BlockSite,
    Layout,
    Production,
    Shape,
    draw_production,
    pick,
    result_sizes,
)
from speedup.testing.grammar.sized import sized_blocks
from speedup.testing.grammar.transitions import TRANSITIONS
from speedup.testing.spec import Spec, sequential

# Beyond this many values an example becomes slow without becoming more interesting.
MOST_VALUES = 1500

Families = tuple[tuple[Production, ...], ...]


def draw_blocks(draw: st.DrawFn, site: BlockSite, longest: int) -> tuple[tuple[Spec, ...], Shape]:
    """Draw at least one and at most `longest` blocks for `site`, and the shape that they make."""
    blocks: list[Spec] = []
    while len(blocks) < longest and (not blocks or draw(st.integers(0, 15)) > 0):
        block, shape = _draw_block(draw, site)
        blocks.append(block)
        site = attrs.evolve(site, shape=shape, writable=site.writable or _makes_new(block))
    return tuple(blocks), site.shape


def draw_opening(draw: st.DrawFn, shape: Shape) -> tuple[Spec, Shape]:
    """Draw a block with weights for a network's input, which no block may write to."""
    site = BlockSite(shape, keep_space=True, writable=False)
    weighted = LINEARS if shape.layout in ("tokens", "vector") else CONVOLUTIONS
    block = draw_production(draw, weighted, site)
    assert block is not None
    return block, attrs.evolve(shape, sizes=result_sizes(block, shape.sizes))


def draw_sized(draw: st.DrawFn, site: BlockSite) -> tuple[Spec, Shape]:
    """Draw a block that looks at sizes, and the shape that it makes."""
    block = draw_production(draw, SIZED, site)
    assert block is not None
    return block, attrs.evolve(site.shape, sizes=result_sizes(block, site.shape.sizes))


def _draw_block(draw: st.DrawFn, site: BlockSite) -> tuple[Spec, Shape]:
    shape = site.shape
    if shape.space and draw(st.integers(0, 15)) == 15:
        return draw_sized(draw, site)
    if not site.keep_space and draw(st.integers(0, 9)) == 9:
        transitions = [transition for transition in TRANSITIONS[shape.layout] if transition.fits(shape)]
        if transitions:
            chosen = transitions[draw(st.integers(0, len(transitions) - 1))]
            crossing = chosen.draw(draw, shape)
            return crossing, Shape(chosen.target, result_sizes(crossing, shape.sizes))
    if shape.channels * shape.positions > MOST_VALUES:
        site = attrs.evolve(site, keep_space=True, depth=0)
    family = pick(draw, *FAMILIES[shape.layout])
    block = draw_production(draw, family, site) or draw_production(draw, POINTWISES, site)
    assert block is not None
    return block, attrs.evolve(shape, sizes=result_sizes(block, shape.sizes))


def _makes_new(block: Spec) -> bool:
    """Whether the block's result is surely not a view of what it was given."""
    return block.make in _WEIGHTED


def _chain(draw: st.DrawFn, site: BlockSite, longest: int) -> tuple[Spec, Shape]:
    blocks, shape = draw_blocks(draw, site, longest)
    return sequential(*blocks), shape


_COMPOSITIONS = compositions(_chain)
SIZED = sized_blocks(_chain)
_SPATIAL: Families = (
    POINTWISES,
    CONVOLUTIONS,
    CONVOLUTIONS,
    CONVOLUTIONS,
    SPATIAL_NORMS,
    SPATIAL_NORMS,
    POOLS,
    LAYOUTS,
    _COMPOSITIONS,
    _COMPOSITIONS,
)

_WEIGHTED = frozenset((*CONVOLUTION.values(), *TRANSPOSED.values(), *BATCH_NORM.values(), nn.Linear))

# A family is chosen before one of its productions, so that a long list of activations does not
# crowd the rest out; a family that is named twice is chosen twice as often.
FAMILIES: Mapping[Layout, Families] = {
    "image": (*_SPATIAL, GATES, IMAGE_RESAMPLINGS),
    "signal": _SPATIAL,
    "volume": _SPATIAL,
    "tokens": (
        POINTWISES,
        LINEARS,
        LINEARS,
        TOKEN_NORMS,
        TOKEN_MIXERS,
        TOKEN_MIXERS,
        RECURRENTS,
        LAYOUTS,
        _COMPOSITIONS,
        _COMPOSITIONS,
    ),
    "vector": (POINTWISES, LINEARS, LINEARS, LINEARS, VECTOR_NORMS, LAYOUTS, _COMPOSITIONS, _COMPOSITIONS),
}
