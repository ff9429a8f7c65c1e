"""A plan on one screen: what it comes to, totals, the tree of modules, and why what stays does."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence

from speedup.ir.report import Report
from speedup.rendering.causes import Cause, causes_of
from speedup.rendering.choices import lowering_lines
from speedup.rendering.counts import change, megabytes, part_of_whole, share_left, short_count
from speedup.rendering.folding import Folded, folded_rows
from speedup.rendering.latency import LatencyEstimate, milliseconds
from speedup.rendering.rows import sizes_line
from speedup.rendering.verdict import advice, is_nothing, verdict, zeros

_NARROWEST, _WIDEST = 40, 200
_MOST_CAUSES, _MOST_LINES, _MOST_NAMES = 5, 3, 4
_MOST_ROWS = 16
_GAP = "  "

# What a row of the tree is told as, the first that fits being taken.
_Cells = Callable[[Folded], tuple[str, ...]]


def overview(
    report: Report,
    subject: str,
    depth: int | None = None,
    width: int | None = None,
    latency: LatencyEstimate | None = None,
) -> str:
    """About 40 lines of plain text; `subject` says in one what the plan was made for.

    `depth` is how many levels of modules are told apart; None: as many as fit. `width` is in characters;
    None: that of the terminal, within bounds.
    """
    if width is None:
        width = min(_WIDEST, max(_NARROWEST, shutil.get_terminal_size((120, 40)).columns))
    return "\n".join(line.rstrip() for line in _lines(report, subject, depth, width, latency))


def summary_lines(report: Report, subject: str) -> tuple[str, str, str]:
    """A plan in three lines: what it was made for, what it comes to, and what is held back."""
    return f"Plan of {subject}", f"  {verdict(report)}: {sizes_line(report)}", f"  {_held(report)}"


def _held(report: Report) -> str:
    causes = causes_of(report)
    if not causes:
        return "nothing that could go is held back; print(plan) shows more"
    return f"held back {_shares(causes, report)}; print(plan) shows by what"


def _lines(
    report: Report, subject: str, depth: int | None, width: int, latency: LatencyEstimate | None
) -> Iterator[str]:
    yield from _wrapped(verdict(report), width)
    asked = report.asked
    if asked is not None and not is_nothing(report) and asked.zero > asked.sliced:
        yield from _wrapped(zeros(asked), width)
    if said := advice(report):
        yield from _wrapped(said, width)
    yield from _wrapped(subject, width)
    yield ""
    yield from _totals(report, width, latency)
    yield ""
    yield from _tree(folded_rows(report, depth, _MOST_ROWS), width)
    yield from _causes(report, width)
    yield from _further(report, width)
    yield from _wrapped(
        "plan.table() lists all layers, plan.explain(path) says why one is as it is", width, ""
    )


def _totals(report: Report, width: int, latency: LatencyEstimate | None) -> Iterator[str]:
    asked = report.asked
    rows = [
        _total("parameters", report.parameters, None if asked is None else asked.parameters, short_count),
        _total("MACs", report.macs, None if asked is None else asked.macs, short_count),
    ]
    if report.size is not None:
        rows.append(_total("MB", report.size, None, megabytes))
    if latency is not None:
        rows.append(_total("ms, estimated", latency.microseconds, None, milliseconds))
    headings = ("", "before", "after", "gone", "asked for", "held back")
    table = [headings, *rows]
    # What is in no row, or does not fit, is left out from the right.
    columns = [n for n in range(len(headings)) if n < 2 or any(row[n] for row in rows)]
    while len(columns) > 2 and _breadth([[row[n] for n in columns] for row in table]) > width:
        columns.pop()
    yield from _laid_out([[row[n] for n in columns] for row in table], right=range(1, len(columns)))


def _total(
    what: str, counts: tuple[int, int], held: int | None, write: Callable[[int], str]
) -> tuple[str, ...]:
    before, after = counts

    def part(count: int) -> str:
        return f"{write(count)} ({part_of_whole(count, before)})" if before and count else "-"

    own = () if held is None else (part(before - after + held), part(held))
    return what, write(before), write(after), part(before - after), *(own or ("", ""))


def _tree(rows: Sequence[Folded], width: int) -> Iterator[str]:
    if not rows:
        return
    for cells, headings in _LAYOUTS:
        table = [headings, *(cells(row) for row in rows)]
        if _breadth(table) <= width:
            break
    else:
        room = width - _breadth([row[1:] for row in table]) - len(_GAP)
        table = [(_cut(row[0], room), *row[1:]) for row in table]
    yield from _laid_out(table, right=range(len(headings) - 2, len(headings)))


def _name(row: Folded) -> str:
    return "  " * row.depth + row.label


def _changed(counts: tuple[int, int]) -> str:
    return change(*counts, short_count)


def _left(counts: tuple[int, int]) -> str:
    before, after = counts
    return f"{short_count(after)} ({share_left(before, after)})" if before or after else "-"


def _share(counts: tuple[int, int]) -> str:
    return share_left(*counts) if any(counts) else "-"


def _cells_of(write: Callable[[tuple[int, int]], str], with_text: bool) -> _Cells:
    def cells(row: Folded) -> tuple[str, ...]:
        return (
            _name(row),
            *([row.text] if with_text else []),
            write(row.parameters),
            write(row.macs),
        )

    return cells


_LAYOUTS: tuple[tuple[_Cells, tuple[str, ...]], ...] = (
    (_cells_of(_changed, True), ("module", "before -> after", "parameters (left)", "MACs (left)")),
    (_cells_of(_left, True), ("module", "before -> after", "parameters left", "MACs left")),
    (_cells_of(_left, False), ("module", "parameters left", "MACs left")),
    (_cells_of(_share, False), ("module", "parameters", "MACs left")),
)


def _causes(report: Report, width: int) -> Iterator[str]:
    causes = causes_of(report)
    if not causes:
        return
    yield ""
    yield "What could go but stays:"
    for cause in causes[:_MOST_CAUSES]:
        at = f" (at {cause.at})" if cause.at else ""
        yield from _wrapped(f"{_shares([cause], report)}: {cause.told}{at}", width, "  ")
        if cause.help:
            yield from _wrapped(f"would help: {cause.help}", width, "    ")
    if more := causes[_MOST_CAUSES:]:
        yield from _wrapped(f"and {_shares(more, report)} for {len(more)} more reasons", width, "  ")


def _shares(causes: Sequence[Cause], report: Report) -> str:
    """What `causes` hold back, as a share of what the model was."""
    sums = (
        ("MACs", sum(cause.macs for cause in causes), report.macs[0]),
        ("parameters", sum(cause.parameters for cause in causes), report.parameters[0]),
    )
    told = [f"{part_of_whole(held, before)} of the {what}" for what, held, before in sums if before and held]
    return " and ".join(told) or "no work"


def _further(report: Report, width: int) -> Iterator[str]:
    yield ""
    for line in lowering_lines(report.choices):
        yield from _wrapped(line, width)
    if report.alignment is not None:
        yield from _wrapped(str(report.alignment), width)
    if report.islands:
        paths = _listed([one.path for one in report.islands], "plan.report.islands")
        apart = f"what stays apart is in plan.report.outside ({len(report.outside)})"
        yield from _wrapped(f"Planned each on its own: {paths}; {apart}", width)
    if report.unknown_operators:
        names = _listed(report.unknown_operators, "plan.unknown_operators")
        yield from _wrapped(f"No rule, kept with all they touch: {names}", width)
    if report.assumptions:
        yield "The plan relies on:"
        for line in report.assumptions[:_MOST_LINES]:
            yield from _wrapped(f"- {line}", width, "  ")
        if more := len(report.assumptions) - _MOST_LINES:
            yield from [f"  and {more} more (plan.assumptions)"] if more > 0 else []


def _listed(names: Sequence[str], where: str) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more ({where})" if more > 0 else "")


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    further = indent if text == text.lstrip("- ") else f"{indent}  "
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=further, break_on_hyphens=False
    )


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"…{text[len(text) - max(room, 2) + 1 :]}"


def _breadth(table: Sequence[Sequence[str]]) -> int:
    return sum(_widths(table)) + len(_GAP) * (len(table[0]) - 1)


def _widths(table: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*table, strict=True)]


def _laid_out(table: Sequence[Sequence[str]], right: range) -> Iterator[str]:
    """A line per row, in columns, those of numbers in `right` at their right ends."""
    widths = _widths(table)
    for row in table:
        yield _GAP.join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
