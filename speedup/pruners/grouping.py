"""Scored channels in groups that compete with one another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from speedup.ir.paths import is_within
from speedup.pruners.channels import Channels, ScoredLayer
from speedup.pruners.selection import Group


def groups_of(channels: Channels, scores: Mapping[str, Tensor], skip: Collection[str]) -> tuple[Group, ...]:
    """One group for the layers that share units, which are scored by the sum over these layers.

    Groups that no score speaks of are left out.
    """
    found = (_group(channels, layers, scores, skip) for layers in _sharing(channels))
    return tuple(group for group in found if group is not None)


def groups_alone(
    channels: Channels, scores: Mapping[str, Tensor], skip: Collection[str]
) -> tuple[Group, ...]:
    """One group for each layer, whose units are its own rows."""
    groups = []
    for layer in channels.layers:
        dim = channels.rows[layer.weight]
        if layer.weight in scores and not _is_skipped(layer, skip):
            runs = channels.units.runs.get(channels.units.class_of(dim), 1)
            free = ~channels.units.stays[channels.units.elements(dim)]
            groups.append(Group((layer,), torch.arange(layer.channels), scores[layer.weight], free, runs))
    return tuple(groups)


def _is_skipped(layer: ScoredLayer, skip: Collection[str]) -> bool:
    return any(is_within(layer.path, path) for path in skip)


def _units(channels: Channels, layer: ScoredLayer) -> Tensor:
    """(channels,) the unit of each row."""
    return channels.units.unit_of[channels.units.elements(channels.rows[layer.weight])]


def _sharing(channels: Channels) -> tuple[tuple[ScoredLayer, ...], ...]:
    """The layers, those that share units together, in the order of the first of each."""
    sharing: list[tuple[list[ScoredLayer], set[int]]] = []
    for layer in channels.layers:
        units = set(_units(channels, layer).tolist())
        together = [one for one in sharing if not units.isdisjoint(one[1])]
        merged = (
            [x for one in together for x in one[0]] + [layer],
            units.union(*(one[1] for one in together)),
        )
        if together:
            sharing[sharing.index(together[0])] = merged
            for other in together[1:]:
                sharing.remove(other)
        else:
            sharing.append(merged)
    return tuple(tuple(layers) for layers, _ in sharing)


def _group(
    channels: Channels, layers: Sequence[ScoredLayer], scores: Mapping[str, Tensor], skip: Collection[str]
) -> Group | None:
    rows = [_units(channels, layer) for layer in layers]
    numbers = _in_order(torch.cat(rows))
    place = torch.zeros(int(numbers.max()) + 1, dtype=torch.long)
    place[numbers] = torch.arange(len(numbers))
    total = torch.zeros(len(numbers), dtype=torch.float64)
    free = torch.zeros(len(numbers), dtype=torch.bool)
    for layer, own in zip(layers, rows, strict=True):
        if layer.weight in scores:
            total.index_add_(0, place[own], scores[layer.weight])
            free[place[own]] = True
    if not bool(free.any()):
        return None
    for layer, own in zip(layers, rows, strict=True):
        stays = channels.units.stays[channels.units.elements(channels.rows[layer.weight])]
        free[place[own[stays]]] = False
        if _is_skipped(layer, skip):
            free[place[own]] = False
    return Group(tuple(layers), numbers, total, free, _runs(channels, layers, len(numbers)))


def _in_order(numbers: Tensor) -> Tensor:
    """Each number once, in the order of its first place."""
    return torch.tensor(list(dict.fromkeys(numbers.tolist())))


def _runs(channels: Channels, layers: Sequence[ScoredLayer], count: int) -> int:
    """How many runs of equal counts the units come in, where they are the rows of a layer in their order."""
    first = channels.rows[layers[0].weight]
    runs = channels.units.runs.get(channels.units.class_of(first), 1)
    return runs if count == layers[0].channels and count % runs == 0 else 1
