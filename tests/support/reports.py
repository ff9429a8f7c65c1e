"""Reports of networks that no test has to build: one small, and one of a thousand layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from speedup import Plan
from speedup.ir.report import Blocked, Blocker, Inside, Junction, Layer, Outside, Report

HOSTILE = '<script>alert(1)</script>&"quoted"\''
"""A module may be called anything without a dot in it."""


def linear(path: str, before: int = 64, after: int = 48, *notes: str) -> Layer:
    counts = (before * 576, after * 576, before * 1_806_336, after * 1_806_336)
    return Layer(path, "Linear", f"Linear(64, {before})", f"Linear(64, {after})", *counts, notes)


def reasons(plan: Plan, path: str) -> str:
    """Why the plan leaves what it leaves at a module."""
    return "; ".join(b.reason for b in plan.blocked if b.path == path)


def reported(layers: Sequence[Layer], **further: object) -> Report:
    """The report of `layers` with their totals, and `further` fields."""
    totals = {
        "parameters": (sum(x.parameters_before for x in layers), sum(x.parameters_after for x in layers)),
        "macs": (sum(x.macs_before for x in layers), sum(x.macs_after for x in layers)),
    }
    fields = {"blocked": (), "unknown_operators": (), **totals, **further}
    return Report(tuple(layers), **fields)  # type: ignore[arg-type]


def small() -> Report:
    """A residual block between two layers, with everything that a report can tell."""
    layers = [
        linear("stem"),
        linear("block.up", 256, 100),
        linear(f"block.{HOSTILE}"),
        linear("head", 10, 10),
    ]
    inner = f"block.{HOSTILE}"
    return reported(
        layers,
        links=(
            ("stem", "block.up"),
            ("block.up", inner),
            ("stem", "block (add)"),
            (inner, "block (add)"),
            ("block (add)", "head"),
        ),
        junctions=(Junction("block (add)", "block", "add"),),
        blocked=(Blocked(inner, 3, 64, f"coupled with add of {HOSTILE}"),),
        blockers=(
            Blocker(f"needs {HOSTILE}", "aten.add.Tensor", "block", ("stem", inner), 3, 1_234_567, 890),
        ),
        unknown_operators=(f"my::{HOSTILE}",),
        islands=(Inside(f"block.{HOSTILE}", "Net", 2),),
        outside=(Outside(f"top.{HOSTILE}", "Top", f"because of {HOSTILE}"),),
        assumptions=(f"x.shape[2] == 8 (at line 3 of {HOSTILE}.py); other sizes cannot be traced",),
    )


def residual(blocks: int) -> Report:
    """`blocks` blocks of three layers each, one behind the other, each with a residual addition."""
    layers: list[Layer] = []
    links: list[tuple[str, str]] = []
    junctions: list[Junction] = []
    last = None
    for number in range(blocks):
        names = [f"model.layers.{number}.{name}" for name in ("norm", "up", "down")]
        layers += [linear(names[0], 8, 8), linear(names[1], 64, 20 + number % 40), linear(names[2])]
        links += [*([(last, names[0])] if last else []), *pairwise(names)]
        if last:
            junction = Junction(f"model.layers.{number} (add)", f"model.layers.{number}", "add")
            links += [(last, junction.name), (names[2], junction.name)]
            junctions.append(junction)
        last = junctions[-1].name if junctions else names[2]
    return reported(layers, links=tuple(links), junctions=tuple(junctions))
