"""Operators that read each channel of an image at positions of their own: sampling, unpooling, bags."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve

from speedup.engine.constraints import Constraint
from speedup.rules.kept import keeping
from speedup.rules.ready import channelwise
from speedup.rules.rule import Rule
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


RULES: dict[str, Rule] = {
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), _SAMPLED),
    **dict.fromkeys(("torchvision::roi_align", "torchvision::roi_pool"), _SAMPLED),
    "max_unpool2d": _unpooled(2),
    "max_unpool3d": _unpooled(3),
    **dict.fromkeys(("embedding_bag", "_embedding_bag"), evolve(_COLUMNS, couple=bag_couple)),
}
