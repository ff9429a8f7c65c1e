"""A plan as a figure: what each layer was and becomes, in parameters and MACs. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speedup.errors import MissingPackageError
from speedup.ir.report import Report
from speedup.rendering.counts import change, megabytes, share_left, share_removed, short_count
from speedup.rendering.latency import LatencyEstimate, milliseconds
from speedup.rendering.rows import bar_rows
from speedup.writing import StrPath, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What stays legible on a page.
_MOST_BARS = 60
# Inches.
_WIDTH, _MARGIN, _PER_BAR = 11.0, 1.5, 0.24
_BEFORE, _AFTER, _SAME = "#d5deea", "#2468c8", "#7b8794"
# Without dates and versions, equal plans give equal files.
_METADATA: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": "speedup"},
    ".pdf": {"CreationDate": None, "Creator": "speedup", "Producer": None},
    ".png": {"Software": "speedup"},
}


def report_figure(report: Report, title: str, latency: LatencyEstimate | None = None) -> Figure:
    """A figure with a bar per layer: pale what it was, dark what is left; the share of that beside it.

    In order of first use, at most 60 bars: layers of repeated blocks that change alike share one, and where
    there are still more, those of a module do.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise MissingPackageError(
            "figures need matplotlib; install the extra `figures`: pip install 'torch-speedup[figures]'"
        ) from error
    rows = bar_rows(report.layers, _MOST_BARS)
    figure = Figure(figsize=(_WIDTH, _MARGIN + _PER_BAR * max(4, len(rows))), layout="constrained")
    parameters, macs = figure.subplots(1, 2, sharey=True)
    _draw(parameters, [row.parameters for row in rows])
    _draw(macs, [row.macs for row in rows])
    parameters.set_title(_heading("Parameters", *report.parameters))
    macs.set_title(_heading("MACs", *report.macs))
    # Names are no formulas, whatever dollar signs are in them.
    parameters.set_yticks(range(len(rows)), [row.path for row in rows], parse_math=False)
    parameters.set_ylim(len(rows) - 0.4, -0.6)
    figure.suptitle("\n".join((title, *_further_line(report, latency))), parse_math=False)
    colors = ((_BEFORE, "before"), (_AFTER, "after"), (_SAME, "stays as it is"))
    handles = [Patch(color=color, label=label) for color, label in colors]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def write_figure(
    report: Report,
    path: StrPath,
    title: str,
    latency: LatencyEstimate | None = None,
    dots_per_inch: float = 150,
) -> None:
    """Write `report_figure(report, title, latency)` to the file `path`, as its suffix says."""
    figure = report_figure(report, title, latency)
    from matplotlib import rc_context

    # Text stays text, which can be searched and restyled.
    style: Any = {"svg.hashsalt": "speedup", "svg.fonttype": "none", "pdf.fonttype": 42}
    with rc_context(style), replacing(path) as written:
        figure.savefig(written, dpi=dots_per_inch, metadata=_METADATA[Path(path).suffix.lower()])


def _draw(axes: Axes, counts: Sequence[tuple[int, int]]) -> None:
    from matplotlib.ticker import EngFormatter

    places = range(len(counts))
    colors = [_SAME if before == after else _AFTER for before, after in counts]
    axes.barh(places, [before for before, _ in counts], color=_BEFORE, height=0.72)
    axes.barh(places, [after for _, after in counts], color=colors, height=0.72)
    for place, (before, after) in zip(places, counts, strict=True):
        if before != after:
            axes.annotate(
                share_left(before, after),
                (max(before, after), place),
                (4, 0),
                textcoords="offset points",
                va="center",
            )
    # Room for the shares beside the longest bars.
    axes.set_xlim(0, 1.12 * max((max(pair) for pair in counts), default=0) or 1)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _further_line(report: Report, latency: LatencyEstimate | None) -> tuple[str, ...]:
    told = []
    if report.size is not None:
        told.append(f"{change(*report.size, megabytes, arrow='→')} MB on disk")
    if latency is not None:
        told.append(f"{change(*latency.microseconds, milliseconds, arrow='→')} ms per forward, estimated")
    return (", ".join(told),) if told else ()


def _heading(what: str, before: int, after: int) -> str:
    return f"{what}: {short_count(before)} → {short_count(after)} (−{share_removed(before, after)})"
