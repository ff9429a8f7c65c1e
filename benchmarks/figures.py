"""Figures, as small SVG files, from stored results alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.growth import exponent, series
from benchmarks.store import Row, Store

_SIZE = (6.4, 3.6)


def draw_all(store: Store) -> list[Path]:
    """Draw every figure whose results are there; the paths written."""
    return [path for name, draw in FIGURES.items() if (path := _drawn(name, draw, store)) is not None]


def _drawn(name: str, draw: Callable[[Any, Mapping[str, Row]], None], store: Store) -> Path | None:
    rows = {key: row for key, row in store.rows(name).items() if "failure" not in row}
    if not rows:
        return None
    import matplotlib as mpl

    mpl.use("svg")
    # The same results give the same bytes.
    mpl.rcParams.update({"svg.hashsalt": "speedup", "font.size": 9, "axes.spines.top": False})
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=_SIZE, layout="constrained")
    draw(figure, rows)
    path = store.folder / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def _growth(figure: Any, rows: Mapping[str, Row]) -> None:
    time, memory = figure.subplots(1, 2)
    for kind in dict.fromkeys(row["kind"] for row in rows.values()):
        plans, peaks = series(rows, kind, "plan"), series(rows, kind, "peak")
        power = f" (exponent {exponent(plans):.2f})" if len(plans) > 1 else ""
        time.loglog(*zip(*plans, strict=True), "o-", label=kind.replace("_", " of ") + power, markersize=3)
        memory.loglog(*zip(*[(x, y / 2**30) for x, y in peaks], strict=True), "o-", markersize=3)
    _labelled(time, "layers, channels, pixels or million parameters", "seconds of planning")
    _labelled(memory, "the same", "peak memory, GiB")
    figure.legend(fontsize=6, loc="outside upper center", ncols=3)


def _digits(figure: Any, rows: Mapping[str, Row]) -> None:
    latency, accuracy = figure.subplots(1, 2)
    ordered = sorted(rows.values(), key=lambda row: row["sparsity"])
    sparsities = [row["sparsity"] for row in ordered]
    for kind in ("masked", "small"):
        medians = [1e3 * row["latency"][kind]["median"] for row in ordered]
        low = [1e3 * row["latency"][kind]["low"] for row in ordered]
        high = [1e3 * row["latency"][kind]["high"] for row in ordered]
        latency.plot(sparsities, medians, "o-", label=kind, markersize=3)
        latency.fill_between(sparsities, low, high, alpha=0.2)
        style = "o-" if kind == "masked" else "x--"
        accuracy.plot(
            sparsities, [row[f"accuracy_{kind}"] for row in ordered], style, label=kind, markersize=4
        )
    _labelled(latency, "sparsity", "ms for 128 x 3 x 32 x 32")
    _labelled(accuracy, "sparsity", "accuracy")
    latency.set_ylim(bottom=0)
    accuracy.legend()


def _limit(figure: Any, rows: Mapping[str, Row]) -> None:
    axes = figure.subplots()
    places = range(len(rows))
    kept = [[row["macs"][n] / row["macs"][0] for row in rows.values()] for n in (1, 2)]
    ratio = [row["latency"]["small"]["median"] / row["latency"]["masked"]["median"] for row in rows.values()]
    for offset, (label, values) in enumerate(
        (("MACs kept", kept[0]), ("layers need", kept[1]), ("latency small / masked", ratio))
    ):
        axes.bar([p + 0.27 * (offset - 1) for p in places], values, 0.25, label=label)
    axes.set_xticks(list(places), list(rows), rotation=40, ha="right")
    axes.legend()


def _phases(figure: Any, rows: Mapping[str, Row]) -> None:
    axes = figure.subplots()
    left = [0.0] * len(rows)
    for phase in next(iter(rows.values()))["seconds"]:
        shares = [row["seconds"][phase] / row["total"] for row in rows.values()]
        axes.barh(list(rows), shares, left=left, label=phase)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    _labelled(axes, "share of planning", "")
    figure.legend(fontsize=6, loc="outside right upper")


def _latency(figure: Any, rows: Mapping[str, Row]) -> None:
    axes = figure.subplots()
    points = list(_ratios(rows))
    for way in dict.fromkeys(way for way, *_ in points):
        chosen = [(macs, ratio) for name, macs, ratio in points if name == way]
        axes.plot(*zip(*chosen, strict=True), "o", label=way, markersize=4)
    axes.plot([0, 1], [0, 1], "k:", linewidth=0.8)
    _labelled(axes, "MACs kept", "latency small / masked")
    axes.legend(fontsize=6)


def _ratios(rows: Mapping[str, Row]) -> Iterator[tuple[str, float, float]]:
    """(way of running, MACs kept, latency small over masked); batches of other sizes count as one way."""
    for row in rows.values():
        for way, found in row["ways"].items():
            name = way if way.startswith("batch 1,") else "large " + way
            ratio = found["small"]["median"] / found["masked"]["median"]
            yield _without_size(name), row["macs_kept"]["small"], ratio


def _without_size(way: str) -> str:
    return " ".join(
        word for word in way.split() if not word.rstrip(",").isdigit() or way.startswith("batch 1,")
    )


def _consecutive(figure: Any, rows: Mapping[str, Row]) -> None:
    for axes, (name, row) in zip(_panels(figure, len(rows)), rows.items(), strict=False):
        for kind in ("masked", "small"):
            found = [(one["times"], one[kind]["median"]) for one in row["latency"]]
            axes.loglog(*zip(*found, strict=True), "o-", label=kind, markersize=3)
        axes.set_title(name, fontsize=8)
    axes.legend(fontsize=6)


def _peers(figure: Any, rows: Mapping[str, Row]) -> None:
    axes = figure.subplots()
    ours = {key.rpartition("/")[0]: row for key, row in rows.items() if key.endswith("/speedup")}
    for tool in dict.fromkeys(key.rpartition("/")[2] for key in rows):
        found = {key.rpartition("/")[0]: row for key, row in rows.items() if key.endswith(f"/{tool}")}
        points = [
            (n, found[case]["seconds"]) for n, case in enumerate(ours) if found.get(case, {}).get("works")
        ]
        if points:
            axes.semilogy(*zip(*points, strict=True), "o", label=tool, markersize=4)
    axes.set_xticks(range(len(ours)), list(ours), rotation=60, ha="right", fontsize=5)
    _labelled(axes, "", "seconds to convert")
    axes.legend(fontsize=6)


def _panels(figure: Any, count: int) -> Iterable[Any]:
    return list(figure.subplots(1, count, squeeze=False)[0])


def _labelled(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)


# Section -> what is drawn of it.
FIGURES: Mapping[str, Callable[[Any, Mapping[str, Row]], None]] = {
    "limit": _limit,
    "growth": _growth,
    "phases": _phases,
    "digits": _digits,
    "consecutive": _consecutive,
    "latency": _latency,
    "peers": _peers,
}
