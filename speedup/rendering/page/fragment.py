"""A report as an HTML table, as notebooks show it below the cell that ends in a plan."""

from __future__ import annotations

from speedup.ir.report import Report
from speedup.rendering.choices import lowering_lines
from speedup.rendering.counts import change, exact_count
from speedup.rendering.page.elements import element, html_text, table
from speedup.rendering.rows import Row, amount, blocked_rows, layer_rows, row_label, totals

_MOST_ROWS = 200
_HEADINGS = ("module", "before -> after", "parameters (left)", "MACs (left)", "notes")


def html_table(report: Report) -> str:
    """What the terminal's table tells: what shrinks, what could go but stays, what is relied on, totals."""
    parts = [table(_HEADINGS, map(_cells, layer_rows(report, _MOST_ROWS)))]
    if rest := sum(not layer.is_changed for layer in report.layers):
        parts.append(element("p", f"{rest} other layers stay as they are"))
    if staying := blocked_rows(report):
        reasons = ((row_label(e.path, e.count), amount(e), e.texts[0]) for e in staying)
        listed = table(("module", "channels", "because"), reasons)
        parts.append(element("details", element("summary", "What could go but stays"), listed))
    parts += [element("p", line) for line in lowering_lines(report.choices)]
    if report.assumptions:
        parts.append(element("p", "The plan relies on:"))
        parts.append(element("ul", *(element("li", line) for line in report.assumptions)))
    parts += [element("p", line) for line in totals(report, exact_count)]
    return html_text(element("div", *parts))


def _cells(row: Row) -> tuple[str, ...]:
    sizes = row.before + (f" -> {row.after}" if row.after else "")
    counts = (change(*row.parameters, exact_count), change(*row.macs, exact_count))
    return row_label(row.path, row.alike), sizes, *counts, row.notes
