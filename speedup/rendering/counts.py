"""Counts and shares as people read them."""

from __future__ import annotations

from collections.abc import Callable

_PREFIXES = ("", "k", "M", "G", "T", "P")


def exact_count(count: int) -> str:
    """All digits of `count`, in threes."""
    return f"{count:,}"


def short_count(count: int) -> str:
    """`count` in three digits and a prefix of the SI.

    >>> short_count(999), short_count(1234), short_count(36_864), short_count(11_689_512)
    ('999', '1.23k', '36.9k', '11.7M')
    """
    value, step = float(count), 0
    while value >= 999.5 and step + 1 < len(_PREFIXES):
        value, step = value / 1000, step + 1
    if not step:
        return str(count)
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}{_PREFIXES[step]}"


def megabytes(count: int) -> str:
    """`count` bytes in millions of them, with a digit behind the point where there are not many."""
    value = count / 1e6
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 0.95 else f"{value:.3f}"


def share_left(before: int, after: int) -> str:
    """The share of `before` that `after` is, in whole per cent that never hide a change."""
    share = f"{after / before:.0%}" if before else "100%"
    return "<100%" if share == "100%" and after < before else share


def part_of_whole(part: int, whole: int) -> str:
    """The share of `whole` that `part` is, in per cent that never hide that there is one."""
    share = f"{part / whole:.1%}" if whole else "0.0%"
    return "<0.1%" if share == "0.0%" and part else share


def share_removed(before: int, after: int) -> str:
    """The share of `before` that is gone, in per cent."""
    return f"{1 - after / before:.1%}" if before else "0.0%"


def change(before: int, after: int, write: Callable[[int], str], arrow: str = "->") -> str:
    """`before` and `after` with the share that is left, one number if nothing changes, a dash if it is 0."""
    if not before and not after:
        return "-"
    if before == after:
        return write(before)
    return f"{write(before)} {arrow} {write(after)} ({share_left(before, after)})"
