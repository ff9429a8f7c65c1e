"""Blocks that look at sizes, and blocks that read numbers from tensors."""

from __future__ import annotations

import attrs
from hypothesis import strategies as st
from torch import nn

from speedup.testing.grammar.compositions import Chain, adapter
from speedup.testing.grammar.convolutions import CONVOLUTION
from speedup.testing.grammar.site import BlockSite, Production, Shape, channel_counts, pick
from speedup.testing.modules import (
    BatchShortcut,
    CutTable,
    Either,
    ElasticPad,
    EvenPool,
    ItemNumber,
    LastToken,
    PeakScale,
    Rounds,
    Scan,
    SizeScale,
    StretchedTable,
    Windows,
)
from speedup.testing.modules.sized import ARITHMETIC
from speedup.testing.spec import Spec, sequential

LONGEST = 32
"""The length of tables of positions that are cut: more than any network is given."""


def looks_at_sizes(module: Spec) -> bool:
    """Whether any block of a network does something else at other sizes."""
    return any(spec.make in _SIZED for spec in module.walk())


def sized_blocks(chain: Chain) -> tuple[Production, ...]:
    """The productions of blocks that look at sizes; the blocks inside them are drawn by `chain`."""

    def same(draw: st.DrawFn, site: BlockSite, longest: int = 2) -> Spec:
        """Blocks that give back the shape that they were given."""
        inner = attrs.evolve(site, depth=site.depth - 1, keep_space=True, writable=False)
        body, shape = chain(draw, inner, longest)
        if shape == site.shape and draw(st.booleans()):
            return body
        return sequential(body, adapter(shape, site.shape.channels))

    def either(draw: st.DrawFn, site: BlockSite) -> Spec:
        question = pick(draw, "above", "odd", "one of", "batch of one")
        other = Spec.of(nn.Identity) if draw(st.booleans()) else same(draw, site)
        return Spec.of(Either, same(draw, site), other, question, _dim(site), draw(st.integers(2, 6)))

    def shortcut(draw: st.DrawFn, site: BlockSite) -> Spec:
        return Spec.of(BatchShortcut, same(draw, site))

    def rounds(draw: st.DrawFn, site: BlockSite) -> Spec:
        return Spec.of(Rounds, same(draw, site), pick(draw, 2, 3, 4), _dim(site))

    def scan(draw: st.DrawFn, site: BlockSite) -> Spec:
        vector = Shape("vector", (site.shape.channels,))
        last: dict[str, object] = {"last": True} if not site.keep_space and draw(st.booleans()) else {}
        body = same(draw, attrs.evolve(site, shape=vector), 1)
        return sequential(Spec.of(Scan, body, **last), *_token(site, last))

    return (
        Production(_size_scale),
        Production(_size_scale),
        Production(either, _may_nest),
        Production(either, _may_nest),
        Production(shortcut, _may_nest),
        Production(rounds, _may_nest),
        Production(scan, _may_nest_tokens),
        Production(scan, _may_nest_tokens),
        Production(_windows),
        Production(_even_pool, _may_shrink),
        Production(_elastic, _has_pixels),
        Production(_cut_table, _has_tokens),
        Production(_stretched_table, _has_tokens),
        Production(_item_number),
        Production(_peak_scale),
    )


def last_token(draw: st.DrawFn, shape: Shape) -> Spec:
    """The last of the tokens as a vector."""
    return Spec.of(LastToken, counted=True) if draw(st.booleans()) else Spec.of(LastToken)


def _token(site: BlockSite, last: dict[str, object]) -> tuple[Spec, ...]:
    """What makes a sequence of one token of a vector."""
    return (Spec.of(nn.Unflatten, 1, (1, site.shape.channels)),) if last else ()


def _size_scale(draw: st.DrawFn, site: BlockSite) -> Spec:
    added: dict[str, object] = pick(draw, {}, {"added": True})
    return Spec.of(SizeScale, draw(st.sampled_from(sorted(ARITHMETIC))), _dim(site), **added)


def _windows(draw: st.DrawFn, site: BlockSite) -> Spec:
    asked: dict[str, object] = {"asked": True} if draw(st.booleans()) else {}
    return Spec.of(Windows, pick(draw, 2, 3, 4), _dim(site), **asked)


def _even_pool(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(EvenPool, _dim(site))


def _elastic(draw: st.DrawFn, site: BlockSite) -> Spec:
    stride = 1 if site.keep_space or max(site.shape.space) < 2 else pick(draw, 2, 1)
    arguments = site.shape.channels, draw(channel_counts()), 3, stride
    bias: dict[str, object] = {} if draw(st.booleans()) else {"bias": False}
    return Spec.of(ElasticPad, Spec.of(CONVOLUTION[site.rank], *arguments, **bias))


def _cut_table(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(CutTable, LONGEST, site.shape.channels)


def _stretched_table(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(StretchedTable, *site.shape.sizes)


def _item_number(draw: st.DrawFn, site: BlockSite) -> Spec:
    trained: dict[str, object] = pick(draw, {}, {}, {"trained": True})
    return Spec.of(ItemNumber, pick(draw, "scale", "bound", "shift"), pick(draw, 0.75, -0.25, 2.0), **trained)


def _peak_scale(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(PeakScale)


def _dim(site: BlockSite) -> int:
    return 1 if site.shape.layout == "tokens" else -1


def _may_nest(site: BlockSite) -> bool:
    return site.depth > 0


def _may_nest_tokens(site: BlockSite) -> bool:
    return _has_tokens(site) and _may_nest(site)


def _has_tokens(site: BlockSite) -> bool:
    return site.shape.layout == "tokens"


def _has_pixels(site: BlockSite) -> bool:
    return site.shape.layout in ("image", "signal")


def _may_shrink(site: BlockSite) -> bool:
    return not site.keep_space and max(site.shape.space) > 1


_SIZED = frozenset(
    (
        BatchShortcut,
        CutTable,
        Either,
        ElasticPad,
        EvenPool,
        LastToken,
        Rounds,
        Scan,
        SizeScale,
        StretchedTable,
    )
) | {Windows}
