"""A report as an HTML table, as notebooks show it below the cell that ends in a plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from xml.etree.ElementTree import Element

from speedup.ir.report import Report
from speedup.rendering.causes import Cause, causes_of
from speedup.rendering.choices import lowering_lines
from speedup.rendering.counts import change, exact_count, part_of_whole, short_count
from speedup.rendering.folding import Folded, folded_rows
from speedup.rendering.page.elements import element, html_text, table
from speedup.rendering.rows import Row, amount, blocked_rows, layer_rows, row_label, sizes_line
from speedup.rendering.verdict import advice, verdict

_MOST_ROWS, _MOST_CAUSES, _DEEPEST = 200, 5, 99
_INDENT = "margin-left: 1em"
_HEADINGS = ("module", "before -> after", "parameters (left)", "MACs (left)", "notes")


def html_table(report: Report) -> str:
    """What goes, the modules as a tree that opens, why what stays does, and all layers as a folded table."""
    parts = [element("p", element("b", verdict(report)), f": {sizes_line(report)}")]
    parts += [element("p", line) for line in [advice(report)] if line]
    parts += _tree(folded_rows(report, depth=_DEEPEST))
    if causes := causes_of(report):
        parts.append(element("p", "What could go but stays:"))
        parts.append(
            element("ul", *(element("li", _cause(cause, report)) for cause in causes[:_MOST_CAUSES]))
        )
    rows = table(_HEADINGS, map(_cells, layer_rows(report, _MOST_ROWS)))
    rest = sum(not layer.is_changed for layer in report.layers)
    others = [element("p", f"{rest} other layers stay as they are")] if rest else []
    parts.append(element("details", element("summary", "All layers that change"), rows, *others))
    if staying := blocked_rows(report):
        reasons = ((row_label(e.path, e.count), amount(e), e.texts[0]) for e in staying)
        listed = table(("module", "channels", "because"), reasons)
        parts.append(element("details", element("summary", "What could go but stays"), listed))
    parts += [element("p", line) for line in lowering_lines(report.choices)]
    if report.assumptions:
        parts.append(element("p", "The plan relies on:"))
        parts.append(element("ul", *(element("li", line) for line in report.assumptions)))
    return html_text(element("div", *parts))


def _tree(rows: Sequence[Folded]) -> list[Element]:
    """Rows that follow one and are deeper are folded into it."""
    made: list[Element] = []
    for number, row in enumerate(rows):
        if row.depth > rows[0].depth:
            continue
        inner = list(takewhile(lambda one: one.depth > rows[0].depth, rows[number + 1 :]))
        shares = [change(*counts, short_count) for counts in (row.parameters, row.macs)]
        told = f" {row.text}: parameters {shares[0]}, MACs {shares[1]}"
        summary = (element("code", row.label), told)
        if inner:
            made.append(element("details", element("summary", *summary), *_tree(inner), style=_INDENT))
        else:
            made.append(element("div", *summary, style=_INDENT))
    return made


def _cause(cause: Cause, report: Report) -> str:
    shares = (
        part_of_whole(cause.macs, report.macs[0]),
        part_of_whole(cause.parameters, report.parameters[0]),
    )
    words = f"{shares[0]} of the MACs, {shares[1]} of the parameters: {cause.told}"
    return f"{words}; would help: {cause.help}" if cause.help else words


def _cells(row: Row) -> tuple[str, ...]:
    sizes = row.before + (f" -> {row.after}" if row.after else "")
    counts = (change(*row.parameters, exact_count), change(*row.macs, exact_count))
    return row_label(row.path, row.alike), sizes, *counts, row.notes
