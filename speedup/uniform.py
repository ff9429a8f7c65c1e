"""`plan_uniform`: repeated blocks get the same widths, so that one number in a config tells each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from speedup.analyses.alignment import Width, chooser, next_multiple
from speedup.ir.report import Report
from speedup.masks import MaskSource
from speedup.plan import Plan
from speedup.planning.planner import plan_speedup

# What grows with one width may widen others; in practice the second plan is uniform.
_MOST_PLANS = 5

# A width of a module: its path, and whether it is computed or read.
_Side = tuple[str, str]


def plan_uniform(
    model: nn.Module, x: Any, masks: MaskSource | None = None, *, multiple: int = 1, **options: Any
) -> Plan:
    """A plan of `plan_speedup` in which the layers of repeated blocks keep as many channels as one another.

    Layers of one size in the same place of repeated blocks (`layers.0.up_proj`, `layers.7.up_proj`) are as
    wide as the widest of them has to be, so that the small model is one of the same class with other sizes
    in its config. `Plan.report.alignment` says what that costs. The model is planned at least twice.

    Args:
        model, x, masks: as of `plan_speedup`.
        multiple: widths are multiples of it besides, as with `align=`.
        options: further arguments of `plan_speedup`, but for `align`.

    Raises:
        InputError: `multiple` is no positive integer.
        SpeedupError: as of `plan_speedup`.
    """
    chooser(multiple)
    wanted: Mapping[_Side, int] = {}
    for _ in range(_MOST_PLANS):
        asked: dict[_Side, Width] = {}
        plan = plan_speedup(model, x, masks, align=_choose(multiple, wanted, asked), **options)
        before, wanted = wanted, _widest(asked, plan.report)
        if wanted == before or all(width.kept == wanted[side] for side, width in asked.items()):
            break
    return plan


def _choose(multiple: int, wanted: Mapping[_Side, int], asked: dict[_Side, Width]) -> Callable[[Width], int]:
    """What to align to; the widest of what it is `asked` for of each module is its width in the end."""

    def choose(width: Width) -> int:
        side = width.path, width.side
        if side not in asked or asked[side].kept < width.kept:
            asked[side] = width
        return max(next_multiple(multiple, width), wanted.get(side, 0))

    choose.__qualname__ = f"uniform({multiple})"
    return choose


def _widest(asked: Mapping[_Side, Width], report: Report) -> Mapping[_Side, int]:
    """By module and side the largest width of any that repeats it. One not asked about keeps all channels."""
    found: dict[_Side, int] = {}
    groups = _repeated(report)
    for path, side in asked:
        alike = [asked.get((other, side)) for other in groups.get(path, (path,))]
        total = asked[path, side].total
        found[path, side] = max(total if width is None else width.kept for width in alike)
    return found


def _repeated(report: Report) -> Mapping[str, Sequence[str]]:
    """By its path, the layers that are in the place of a layer in other blocks, itself among them.

    Blocks are modules of one class that are numbered in one container. Layers of other sizes repeat nothing.
    """
    kinds = {member.path: member.kind for member in report.members}
    numbered: dict[str, set[str]] = {}
    for path, kind in kinds.items():
        parent, _, own = path.rpartition(".")
        if own.isdigit():
            numbered.setdefault(parent, set()).add(kind)
    groups: dict[tuple[str, ...], list[str]] = {}
    for layer in report.layers:
        parts = layer.path.split(".")
        opened = (
            "*" if part.isdigit() and len(numbered.get(".".join(parts[:n]), ())) == 1 else part
            for n, part in enumerate(parts)
        )
        groups.setdefault((layer.before, *opened), []).append(layer.path)
    return {path: group for group in groups.values() for path in group}
