"""Choices as a table in plain text."""

from __future__ import annotations

import io
import shutil

from rich.console import Console
from rich.table import Table

from speedup.sparse.measured import Candidate, LayerChoice, Measured, Measurements

_NARROWEST, _WIDEST = 80, 160


def choices_table(choices: Measurements, width: int | None = None) -> str:
    """What came out in one line, a row per layer, the whole model, and under which conditions."""
    if width is None:
        width = min(_WIDEST, max(_NARROWEST, shutil.get_terminal_size((120, 40)).columns))
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None, highlight=False)
    console.print(choices.verdict)
    if choices.layers:
        table = Table()
        for heading in ("module", "layer"):
            table.add_column(heading, overflow="fold")
        for heading in ("zeros", "dense", "best sparse", "gain", "chosen"):
            table.add_column(heading, justify="right", overflow="fold")
        for layer in choices.layers:
            table.add_row(*_row(layer))
        console.print(table)
    for line in _further(choices):
        console.print(line)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _row(layer: LayerChoice) -> tuple[str, ...]:
    best, dense = layer.chosen or layer.best, layer.dense
    measured = "-" if dense is None else _time(dense)
    if best is None or dense is None:
        return (
            layer.path or "(the model)",
            layer.layer,
            f"{layer.zeros:.1%}",
            measured,
            "-",
            "-",
            _chosen(layer),
        )
    return (
        layer.path or "(the model)",
        layer.layer,
        f"{layer.zeros:.1%}",
        measured,
        f"{_time(best.seconds)} ({best})",
        f"{gain_of(dense, best):.2f}x",
        _chosen(layer),
    )


def gain_of(dense: Measured, candidate: Candidate) -> float:
    """How many times as fast a candidate is."""
    return dense.median / candidate.seconds.median


def _chosen(layer: LayerChoice) -> str:
    return layer.kernel if layer.chosen is not None else f"dense: {layer.why}"


def _further(choices: Measurements) -> list[str]:
    lines = []
    if choices.whole is not None:
        before, after = choices.whole
        lines.append(f"one forward of the small model: dense {_time(before)}, as chosen {_time(after)}")
    if choices.errors is not None:
        chosen, dense = choices.errors.chosen, choices.errors.dense
        lines.append(f"largest error against float64: as chosen {chosen:.1e}, dense {dense:.1e}")
    shapes = ", ".join(str(shape) for shape in choices.inputs)
    machine = choices.machine
    lines.append(
        f"{machine.device}, {machine.processor}, {choices.dtype}, {choices.threads} thread(s), "
        f"torch {machine.torch}, inputs {shapes}, medians of {choices.rounds} interleaved rounds"
    )
    return [*lines, *choices.notes]


def _time(seconds: Measured) -> str:
    return f"{1e3 * seconds.median:.3f} ms"
