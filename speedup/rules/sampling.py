"""Operators that read each channel of an image at positions of their own: sampling, unpooling, bags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import evolve

from speedup.engine.constraints import Constraint
from speedup.engine.keepsets import KeepSets
from speedup.ir.expressions import Root, SizeOf, recompute
from speedup.rules.kept import keeping
from speedup.rules.ready import channelwise
from speedup.rules.rule import Rule, Sizes
from speedup.rules.site import Site

_SAMPLED = channelwise({"input": 1}, 1, keeps_zero=True)
_COLUMNS = channelwise({"weight": 1}, 1, keeps_zero=True)
_MAXIMA = keeping("tells the position of each maximum")


def _unpooled(rank: int) -> Rule:
    channels = -1 - rank
    return channelwise({"self": channels, "indices": channels}, channels, keeps_zero=True)


def bag_couple(site: Site) -> Iterable[Constraint]:
    """A maximum over a bag is returned with its position per column."""
    return (_MAXIMA if site.op["mode"] == 2 else _COLUMNS).couple(site)


def grid_needs(site: Site, sizes: Sizes, kept: KeepSets) -> Mapping[str, Any]:
    """Of the size of what will be sampled all but the channels counts: of these there may be any number."""
    graph, stated = site.graph, site.op.arguments["size"]

    def lookup(root: Root) -> Any:
        return sizes(graph.values[root.value])[root.dim] if isinstance(root, SizeOf) else root.number

    before = site.op["size"]
    return {"size": (before[0], recompute(stated, lookup)[1], *before[2:])}


RULES: dict[str, Rule] = {
    "affine_grid_generator": evolve(
        keeping("computes coordinates from the size of its result"), needs=grid_needs
    ),
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), _SAMPLED),
    "torchvision::roi_align": _SAMPLED,
    # The second result tells where in its channel each maximum was.
    "torchvision::roi_pool": channelwise({"input": 1}, 1, others={1: 1}, keeps_zero=True),
    "max_unpool2d": _unpooled(2),
    "max_unpool3d": _unpooled(3),
    **dict.fromkeys(("embedding_bag", "_embedding_bag"), evolve(_COLUMNS, couple=bag_couple)),
}
