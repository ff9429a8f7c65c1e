"""A report as a table for the terminal."""

from __future__ import annotations

import io
import shutil

from rich.console import Console
from rich.table import Table

from speedup.report import Layer, Report

_WIDEST = 160


def report_table(report: Report) -> str:
    """Plain text: one row per layer that changes, what stays and why, totals last."""
    stream = io.StringIO()
    width = min(_WIDEST, max(80, shutil.get_terminal_size((120, 40)).columns))
    console = Console(file=stream, width=width, color_system=None, highlight=False)
    console.print(_layers(report))
    if report.blocked:
        console.print(_blocked(report))
    if report.unknown_operators:
        console.print(f"No rule, kept with all they touch: {', '.join(report.unknown_operators)}")
    if report.islands:
        console.print(f"Planned each on its own: {', '.join(one.path for one in report.islands)}")
        console.print(_outside(report))
    if report.alignment is not None:
        console.print(str(report.alignment))
    console.print(f"Parameters {_change(*report.parameters)}, MACs {_change(*report.macs)}")
    return stream.getvalue().rstrip()


def _layers(report: Report) -> Table:
    table = Table(title="What shrinks", title_justify="left")
    for heading, justify in (
        ("module", "left"),
        ("before -> after", "left"),
        ("parameters", "right"),
        ("MACs", "right"),
        ("notes", "left"),
    ):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    changed = [layer for layer in report.layers if layer.is_changed]
    for layer in changed:
        table.add_row(
            layer.path or "(model)",
            _kinds(layer),
            _change(layer.parameters_before, layer.parameters_after),
            _change(layer.macs_before, layer.macs_after),
            "; ".join(layer.notes),
        )
    rest = len(report.layers) - len(changed)
    if rest:
        table.add_row("", f"{rest} other layers stay as they are", "", "", "")
    return table


def _kinds(layer: Layer) -> str:
    if layer.before == layer.after:
        return layer.before
    return f"{layer.before} -> {layer.after.removeprefix(layer.kind)}"


def _blocked(report: Report) -> Table:
    table = Table(title="What could go but stays", title_justify="left")
    for heading in ("module", "channels", "because"):
        table.add_column(heading, overflow="fold")
    for blocked in report.blocked:
        table.add_row(blocked.path, f"{blocked.count} of {blocked.of}", blocked.reason)
    return table


def _outside(report: Report) -> Table:
    table = Table(title="What is not planned itself", title_justify="left")
    for heading in ("module", "because"):
        table.add_column(heading, overflow="fold")
    for one in report.outside:
        table.add_row(one.path or f"(model) {one.kind}", one.reason)
    return table


def _change(before: int, after: int) -> str:
    if not before:
        return "-"
    return f"{before:,} -> {after:,} ({after / before:.0%})" if after != before else f"{before:,}"
