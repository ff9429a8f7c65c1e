"""A report as a table for the terminal."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from enum import Enum, auto

from attrs import frozen
from rich.console import Console
from rich.table import Table

from speedup.ir.report import Report
from speedup.rendering.alike import Entry
from speedup.rendering.choices import lowering_lines
from speedup.rendering.counts import change, exact_count, share_left, short_count
from speedup.rendering.rows import Row, amount, blocked_rows, layer_rows, outside_rows, row_label, totals
from speedup.rendering.wrapping import widest, wrap

_NARROWEST, _WIDEST = 40, 200
# What a person scrolls through.
_MOST_ROWS = 200
# Paths are broken after dots before their column gets narrower than this, or wider than a third of the table.
_NARROWEST_PATH = 16
# Notes in a column narrower than this are better put below what they are about.
_NARROWEST_NOTES = 24
_ITEM = "  - "


def report_table(report: Report, width: int | None = None, most: int = _MOST_ROWS) -> str:
    """Plain text: one row per layer that changes, what stays and why, totals last.

    Layers of repeated blocks that change alike share a row; where still more than `most` rows are left, the
    layers of a module share one. `width` is in characters; None: that of the terminal, within bounds. Where
    it is narrow, counts are shortened, then left out in favour of the shares that are left.
    """
    stream = io.StringIO()
    if width is None:
        width = min(_WIDEST, max(_NARROWEST, shutil.get_terminal_size((120, 40)).columns))
    console = Console(file=stream, width=width, color_system=None, highlight=False, markup=False, emoji=False)
    rows = layer_rows(report, most)
    console.print(_layers(rows, width))
    if rest := sum(not layer.is_changed for layer in report.layers):
        console.print(f"{rest} other layers stay as they are")
    if any(row.alike > 1 for row in rows):
        console.print("Of layers that change alike, the row tells about each.")
    if report.blocked:
        console.print(_reasons("What could go but stays", blocked_rows(report), width, most))
    if report.unknown_operators:
        console.print(f"No rule, kept with all they touch: {', '.join(report.unknown_operators)}")
    if report.islands:
        console.print(f"Planned each on its own: {', '.join(one.path for one in report.islands)}")
        console.print(_reasons("What is not planned itself", outside_rows(report), width, most))
    for line in lowering_lines(report.choices):
        console.print(wrap(line, width))
    if report.assumptions:
        console.print(_relied_on(report.assumptions, width))
    if report.alignment is not None:
        console.print(str(report.alignment))
    lines = totals(report, exact_count)
    console.print("\n".join(lines if max(map(len, lines)) <= width else totals(report, short_count)))
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())


def _relied_on(assumptions: Sequence[str], width: int) -> str:
    """A line for each assumption, or some where one is longer than the table is wide."""
    listed = (wrap(line, width - len(_ITEM)).replace("\n", "\n" + " " * len(_ITEM)) for line in assumptions)
    return "\n".join(("The plan relies on:", *(f"{_ITEM}{line}" for line in listed)))


class _Counts(Enum):
    """How much a cell tells about a count."""

    EXACT = auto()
    SHORT = auto()
    LEFT = auto()
    SHARE = auto()


@frozen
class _Layout:
    """What the columns hold; whether notes have one of their own, and before and after a line each."""

    counts: _Counts
    own_notes: bool = False
    two_lines: bool = False


_HEADINGS = {
    _Counts.EXACT: ("parameters (left)", "MACs (left)"),
    _Counts.SHORT: ("parameters (left)", "MACs (left)"),
    _Counts.LEFT: ("params left", "MACs left"),
    _Counts.SHARE: ("params\nleft", "MACs\nleft"),
}
# The first that fits is taken.
_LAYOUTS = (
    _Layout(_Counts.EXACT, own_notes=True),
    _Layout(_Counts.SHORT, own_notes=True),
    _Layout(_Counts.EXACT),
    _Layout(_Counts.SHORT),
    _Layout(_Counts.LEFT),
    _Layout(_Counts.LEFT, two_lines=True),
    _Layout(_Counts.SHARE, two_lines=True),
)


@frozen
class _Columns:
    """The cells of a layout before what is long is broken into lines: `notes` are put where it says."""

    layout: _Layout
    modules: tuple[str, ...]
    changes: tuple[str, ...]
    counts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    width: int

    @property
    def free(self) -> int:
        """What is left for changes and notes, in characters."""
        headings = _HEADINGS[self.layout.counts]
        fixed = [widest(("module", *self.modules)), *map(widest, zip(headings, *self.counts, strict=True))]
        borders = 3 * (5 if self.layout.own_notes else 4) + 1
        return self.width - sum(fixed) - borders

    @property
    def for_changes(self) -> int:
        return widest(("before -> after", *self.changes))

    @property
    def is_fitting(self) -> bool:
        notes = min(_NARROWEST_NOTES, widest(("notes", *self.notes))) if self.layout.own_notes else 0
        return self.free >= self.for_changes + notes

    def table(self) -> Table:
        table = Table(title="What shrinks", title_justify="left")
        table.add_column("module", overflow="fold")
        table.add_column("before -> after", overflow="fold")
        for heading in _HEADINGS[self.layout.counts]:
            table.add_column(heading, justify="right", overflow="fold")
        if self.layout.own_notes:
            table.add_column("notes", overflow="fold")
        for module, sizes, counts, note in zip(
            self.modules, self.changes, self.counts, self.notes, strict=True
        ):
            if self.layout.own_notes:
                table.add_row(module, sizes, *counts, wrap(note, self.free - self.for_changes))
            else:
                lines = wrap(note, max(self.for_changes, self.free) - 2).split("\n") if note else []
                table.add_row(module, "\n  ".join([sizes, *lines]), *counts)
        return table


def _layers(rows: Sequence[Row], width: int) -> Table:
    layouts = [_columns(rows, layout, width) for layout in _LAYOUTS]
    return next((columns for columns in layouts if columns.is_fitting), layouts[-1]).table()


def _columns(rows: Sequence[Row], layout: _Layout, width: int) -> _Columns:
    arrow = "\n-> " if layout.two_lines else " -> "
    return _Columns(
        layout,
        tuple(wrap(row_label(row.path, row.alike), max(_NARROWEST_PATH, width // 3)) for row in rows),
        tuple(row.before + (arrow + row.after if row.after else "") for row in rows),
        tuple((_change(*row.parameters, layout.counts), _change(*row.macs, layout.counts)) for row in rows),
        tuple(row.notes for row in rows),
        width,
    )


def _change(before: int, after: int, counts: _Counts) -> str:
    if not before and not after:
        return "-"
    share = share_left(before, after)
    match counts:
        case _Counts.SHARE:
            return share
        case _Counts.LEFT:
            return f"{short_count(after)} ({share})"
        case _Counts.SHORT:
            return change(before, after, short_count)
        case _Counts.EXACT:
            return change(before, after, exact_count)


def _reasons(title: str, entries: Sequence[Entry], width: int, most: int) -> Table:
    """A row for each of the first `most` entries: the module, channels if told, and the reason."""
    table = Table(title=title, title_justify="left")
    counted = any(entry.facts for entry in entries)
    for heading in ("module", *(["channels"] if counted else []), "because"):
        table.add_column(heading, overflow="fold")
    modules = [wrap(row_label(e.path, e.count), max(_NARROWEST_PATH, width // 3)) for e in entries[:most]]
    channels = [amount(entry) for entry in entries[:most]] if counted else []
    fixed = widest(("module", *modules)) + (3 + widest(("channels", *channels)) if counted else 0)
    for number, (module, entry) in enumerate(zip(modules, entries, strict=False)):
        reason = wrap(entry.texts[0], width - fixed - 7)
        table.add_row(module, *channels[number : number + 1], reason)
    if len(entries) > most:
        table.add_row("…", *(["…"] if counted else []), f"and {len(entries) - most} more")
    return table
