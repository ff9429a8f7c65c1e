"""Repeated blocks as one: entries whose paths differ in numbers only and that tell the same."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence

from attrs import evolve, frozen

# Two entries are read as fast as the range that stands for both.
_FEWEST = 3
_NUMBER = re.compile(r"\d+")
_INDEX = re.compile(r"0|[1-9]\d*")

# A part of a path: a name, or the numbers that stand in its place.
_Part = str | tuple[int, ...]


@frozen
class Entry:
    """What is told about the module `path`.

    Entries are alike if their `facts` are equal and their `texts` are but for numbers. `count` says how many
    an entry stands for; of a merged entry, a path and texts name numbers as `0…5`.
    """

    path: str
    facts: Hashable
    texts: tuple[str, ...] = ()
    count: int = 1


@frozen
class _Group:
    place: int
    parts: tuple[_Part, ...]
    members: tuple[Entry, ...]


def merge_alike(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """`entries` with each three or more that are alike as one, in the place of the first."""
    groups = [_Group(place, _parts(entry.path), (entry,)) for place, entry in enumerate(entries)]
    for position in range(max((len(group.parts) for group in groups), default=0)):
        groups = _merge_at(position, groups)
    return tuple(_entry(group) for group in groups)


def _parts(path: str) -> tuple[_Part, ...]:
    return tuple((int(part),) if _INDEX.fullmatch(part) else part for part in path.split("."))


def _merge_at(position: int, groups: Sequence[_Group]) -> list[_Group]:
    buckets: dict[Hashable, list[_Group]] = {}
    for group in groups:
        here = group.parts[position] if position < len(group.parts) else ""
        # A name in this position has nothing to be merged with.
        key = _key(group, position) if isinstance(here, tuple) else group.place
        buckets.setdefault(key, []).append(group)
    out: list[_Group] = []
    for bucket in buckets.values():
        out.extend([_union(position, bucket)] if len(bucket) >= _FEWEST else bucket)
    return sorted(out, key=lambda group: group.place)


def _key(group: _Group, position: int) -> Hashable:
    first = group.members[0]
    elsewhere = (*group.parts[:position], None, *group.parts[position + 1 :])
    return elsewhere, first.facts, tuple(_NUMBER.sub("#", text) for text in first.texts)


def _union(position: int, groups: Sequence[_Group]) -> _Group:
    numbers = sorted(int(n) for group in groups for n in group.parts[position])
    parts = groups[0].parts
    return _Group(
        groups[0].place,
        (*parts[:position], tuple(numbers), *parts[position + 1 :]),
        tuple(member for group in groups for member in group.members),
    )


def _entry(group: _Group) -> Entry:
    first = group.members[0]
    if len(group.members) == 1:
        return first
    path = ".".join(part if isinstance(part, str) else _span(part) for part in group.parts)
    texts = tuple(common_text(column) for column in zip(*(m.texts for m in group.members), strict=True))
    return evolve(first, path=path, texts=texts, count=len(group.members))


def common_text(texts: Sequence[str]) -> str:
    """The text that all share, with the span of its numbers where these differ."""
    columns = zip(*(map(int, _NUMBER.findall(text)) for text in texts), strict=True)
    spans = (_span(column) for column in columns)
    return _NUMBER.sub(lambda _: next(spans), texts[0])


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low}…{high}"
