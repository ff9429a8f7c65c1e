"""The sections of the HTML report behind its layers; each is empty where there is nothing to tell."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element

from speedup.ir.report import Blocker, Choice, Report
from speedup.rendering.causes import Cause, causes_of
from speedup.rendering.counts import exact_count, part_of_whole, short_count
from speedup.rendering.page.elements import Content, element, table
from speedup.rendering.rows import amount, blocked_rows, outside_rows, row_label

_MOST_CONSTRAINTS, _MOST_CAUSES = 20, 5


def what_holds_back(report: Report) -> Iterable[Element]:
    """The reasons summed over the model, the largest first, with what would help."""
    if causes := causes_of(report):
        yield element("h2", "What holds back most")
        headings = ("because", "at", "MACs held back", "parameters held back", "what would help")
        yield table(headings, (_cause(cause, report) for cause in causes[:_MOST_CAUSES]), class_="causes")


def _cause(cause: Cause, report: Report) -> tuple[Content, ...]:
    return (
        cause.told,
        cause.at,
        part_of_whole(cause.macs, report.macs[0]),
        part_of_whole(cause.parameters, report.parameters[0]),
        cause.help,
    )


def what_stays(report: Report) -> Iterable[Element]:
    """What could go but stays: the constraints that hold back most first, and the reasons by layer."""
    if not report.blocked and not report.blockers:
        return
    yield element("h2", "What could go but stays")
    if report.blockers:
        yield _blockers(report.blockers[:_MOST_CONSTRAINTS])
    if more := report.blockers[_MOST_CONSTRAINTS:]:
        yield element("details", element("summary", f"{len(more):,} more constraints"), _blockers(more))
    rows = [(row_label(row.path, row.count), amount(row), row.texts[0]) for row in blocked_rows(report)]
    if rows:
        listed = element(
            "details",
            element("summary", f"By layer ({len(rows):,})"),
            table(("module", "channels", "because"), rows),
        )
        if not report.blockers:
            listed.set("open", "open")
        yield listed


def _blockers(blockers: Iterable[Blocker]) -> Element:
    headings = ("because", "layers", "channels", "MACs held back", "parameters held back")
    return table(headings, map(_blocker, blockers), class_="blockers")


def _blocker(blocker: Blocker) -> tuple[Content, ...]:
    place = " in ".join(part for part in (blocker.operator, blocker.path) if part)
    because = element("span", blocker.reason, element("br"), element("small", place))
    listed = element(
        "details", element("summary", f"{len(blocker.layers):,}"), element("p", ", ".join(blocker.layers))
    )
    return (
        because,
        listed,
        f"{blocker.channels:,}",
        short_count(blocker.macs),
        short_count(blocker.parameters),
    )


def what_is_lowered(report: Report) -> Iterable[Element]:
    """What is done so that more goes, and what would not pay."""
    if report.choices:
        yield element("h2", "So that more goes")
        headings = ("lowering", "module", "operator", "channels", "MACs", "not done since")
        yield table(headings, map(_choice, report.choices))


def _choice(choice: Choice) -> tuple[Content, ...]:
    counts = (f"{choice.channels:,}", short_count(choice.macs))
    return choice.lowering, choice.path, choice.operator, *counts, choice.why_not


def what_is_assumed(report: Report) -> Iterable[Element]:
    """What the plan relies on about sizes."""
    if report.assumptions:
        yield element("h2", "What the plan relies on")
        yield element("ul", *(element("li", line) for line in report.assumptions))


def what_is_aligned(report: Report) -> Iterable[Element]:
    """What growing widths costs, and which were not reached."""
    if report.alignment is None:
        return
    yield element("h2", "Alignment")
    yield element("p", str(report.alignment))
    if report.alignment.missed:
        rows = (
            (one.path, f"{one.kept:,} of {one.of:,} {one.side}", exact_count(one.wanted))
            for one in report.alignment.missed
        )
        yield table(("layer", "channels", "asked for"), rows)


def what_is_apart(report: Report) -> Iterable[Element]:
    """Operators without a rule, islands, and what is in none."""
    if report.unknown_operators:
        yield element("h2", "Operators without a rule")
        yield element("p", "All that they touch is kept.")
        yield element("ul", *(element("li", element("code", name)) for name in report.unknown_operators))
    if report.islands:
        yield element("h2", "Planned each on its own")
        rows = ((one.path, f"{one.calls:,}", one.kind) for one in report.islands)
        yield table(("module", "kinds of calls", "class"), rows)
        yield element("h2", "What is not planned itself")
        yield table(
            ("module", "because"), ((row_label(e.path, e.count), e.texts[0]) for e in outside_rows(report))
        )
