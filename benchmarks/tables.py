"""Markdown tables from stored results, by name. A table whose section was never run is empty."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.bars import bars
from benchmarks.growth import exponent, series
from benchmarks.markdown import table
from benchmarks.peers.tables import costs_table, deviations_table, peers_table
from benchmarks.published import DEVICES, PUBLISHED, SOURCE
from benchmarks.store import Row, Store

_MEMORY = 2**30


def conditions(store: Store, section: str) -> str:
    """When, on what, and with which versions a section was measured: one sentence."""
    found = store.section(section)
    if not found:
        return ""
    machine, versions = found["machine"], found["versions"]
    dates = sorted({row["date"] for row in found["rows"].values()})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    smoke = " A smoke run: the numbers mean nothing." if found["conditions"].get("smoke") else ""
    return (
        f"Measured {when} on {machine['gpu'] or machine['processor']}, {machine['cores']} cores, "
        f"{found['conditions'].get('threads', 1)} thread(s), torch {versions['torch']}.{smoke}"
    )


def limit_table(store: Store) -> str:
    """MACs against the limit, latency against the hand-built model, time against an export."""
    rows = _good(store, "limit")
    if not rows:
        return ""
    headings = [
        "model",
        "parameters kept",
        "MACs kept",
        "layers need",
        "small / masked",
        "small / by hand",
        "export s",
        "plan + make",
        "verified",
        "error",
    ]
    return table(headings, (_limit_row(name, row) for name, row in rows.items()))


def _limit_row(name: str, row: Row) -> Sequence[str]:
    before, after, alone = row["macs"]
    seconds, latency = row["seconds"], row["latency"]
    export = seconds["export"]["wall"]
    converted = seconds["plan"]["wall"] + seconds["materialize"]["wall"]
    checked = seconds["plan"]["wall"] + seconds["verified"]["wall"]
    return (
        name,
        f"{row['parameters'][1] / row['parameters'][0]:.3f}",
        f"{after / before:.3f}",
        f"{alone / before:.3f}",
        _ratio(latency, "small", "masked"),
        _ratio(latency, "small", "by_hand"),
        f"{export:.2f}",
        f"{converted / export:.1f}x",
        f"{checked / export:.1f}x",
        f"{row['error']:.0e}",
    )


def growth_table(store: Store) -> str:
    """Exponents of time and memory, and the largest point of each kind."""
    rows = _good(store, "growth")
    kinds = dict.fromkeys(row["kind"] for row in rows.values())
    if not rows:
        return ""
    return table(
        [
            "against",
            "from",
            "to",
            "exponent of plan",
            "of materialize",
            "plan s at the end",
            "peak GiB at the end",
        ],
        (_growth_row(kind, rows) for kind in kinds),
    )


def _growth_row(kind: str, rows: Mapping[str, Row]) -> Sequence[str]:
    plans, makes, peaks = (series(rows, kind, quantity) for quantity in ("plan", "materialize", "peak"))
    made = [point for point in makes if point[1] > 0]
    unit = "M" if kind == "parameters" else ""
    return (
        kind.replace("_", " of "),
        f"{plans[0][0]:g}{unit}",
        f"{plans[-1][0]:g}{unit}",
        _power(plans),
        _power(made),
        f"{plans[-1][1]:.1f}",
        f"{peaks[-1][1] / _MEMORY:.2f}",
    )


def _power(points: Sequence[tuple[float, float]]) -> str:
    return f"{exponent(points):.2f}" if len(points) > 1 else "-"


def phases_table(store: Store) -> str:
    """Shares of planning by phase."""
    rows = _good(store, "phases")
    if not rows:
        return ""
    phases = list(next(iter(rows.values()))["seconds"])
    body = (
        (name, f"{row['total']:.2f}", *(f"{row['seconds'][phase] / row['total']:.0%}" for phase in phases))
        for name, row in rows.items()
    )
    return table(["model", "plan s", *phases], body)


def digits_table(store: Store) -> str:
    """Accuracy and latency against sparsity."""
    rows = _good(store, "digits")
    if not rows:
        return ""
    headings = [
        "sparsity",
        "accuracy masked",
        "accuracy small",
        "predictions that differ",
        "MACs kept",
        "masked ms",
        "small ms",
    ]
    return table(headings, (_digits_row(row) for _, row in sorted(rows.items())))


def _digits_row(row: Row) -> Sequence[str]:
    return (
        f"{row['sparsity']:.1f}",
        f"{row['accuracy_masked']:.3f}",
        f"{row['accuracy_small']:.3f}",
        f"{row['predictions_that_differ']} of {row['predictions']}",
        f"{row['macs_kept']:.3f}",
        *(_milliseconds(row["latency"], kind) for kind in ("masked", "small")),
    )


def consecutive_table(store: Store) -> str:
    """The published tables redone, theirs beside ours."""
    rows, gpu = _good(store, "consecutive"), _good(store, "consecutive_cuda")
    if not rows:
        return ""
    headings = ["network", "runs", "masked s", "small s", "ratio"]
    headings += ["GPU masked s", "GPU small s"] if gpu else []
    headings += ["published on", "masked s", "small s", "ratio"]
    body = [line for name, row in rows.items() for line in _consecutive_rows(name, row, gpu.get(name))]
    return f"{table(headings, body)}\n\nPublished figures: {SOURCE}"


def _consecutive_rows(name: str, row: Row, gpu: Row | None) -> Iterable[Sequence[str]]:
    theirs: dict[int, list[tuple[float, float]]] = {}
    for times, masked, small in PUBLISHED[name]:
        theirs.setdefault(times, []).append((masked, small))
    for number, one in enumerate(row["latency"]):
        on_gpu = (
            [] if gpu is None else [f"{gpu['latency'][number][k]['median']:.4f}" for k in ("masked", "small")]
        )
        published = theirs.get(one["times"], [])
        yield (
            name,
            str(one["times"]),
            *(f"{one[kind]['median']:.4f}" for kind in ("masked", "small")),
            f"{one['masked']['median'] / one['small']['median']:.2f}",
            *on_gpu,
            DEVICES[name] if published else "-",
            ", ".join(f"{m:g}" for m, _ in published) or "-",
            ", ".join(f"{s:g}" for _, s in published) or "-",
            ", ".join(f"{m / s:.2f}" for m, s in published) or "-",
        )


def latency_table(store: Store) -> str:
    """Ratios of latency small over masked, in every way of running, beside the ratio of MACs."""
    rows = _good(store, "latency")
    if not rows:
        return ""
    headings = [
        "model",
        "way",
        "masked ms",
        "small ms",
        "small / masked",
        "MACs kept",
        "small / by hand",
        "aligned / masked",
        "unaligned",
        "memory-bound",
    ]
    body = [line for name, row in rows.items() for line in _latency_rows(name, row)]
    return table(headings, body)


def _latency_rows(name: str, row: Row) -> Iterable[Sequence[str]]:
    for way, found in row["ways"].items():
        yield (
            name,
            way,
            *(_milliseconds(found, kind) for kind in ("masked", "small")),
            _ratio(found, "small", "masked"),
            f"{row['macs_kept']['small']:.2f}",
            _ratio(found, "small", "by_hand"),
            _ratio(found, "aligned", "masked"),
            *(f"{row['holds_up'][why]:.0%}" for why in ("unaligned", "memory_bound")),
        )


def sparse_table(store: Store) -> str:
    """Ratios of latency over the dense masked model, with errors, by model, sparsity and batch."""
    rows = _good(store, "sparse")
    if not rows:
        return ""
    headings = ["model, sparsity, batch", "masked ms", "small ms", "small / masked", "layers that gain"]
    headings += ["torch's CSR / masked", "ONNX Runtime / masked", "error small", "error masked", "float64"]
    headings += ["chosen alike", "bytes / dense"]
    return table(headings, (_sparse_row(name, row) for name, row in rows.items()))


def _sparse_row(name: str, row: Row) -> Sequence[str]:
    latency, others, errors, sizes = row["latency"], row["others"], row["errors"], row["bytes"]
    return (
        name,
        *(_milliseconds(latency, kind) for kind in ("masked", "small")),
        _ratio(latency, "small", "masked"),
        "{} of {}".format(*row["layers"]),
        *(_ratio(others, kind, "masked") for kind in ("torch_csr", "onnxruntime")),
        *(f"{errors[kind]:.0e}" for kind in ("small", "masked", "float64")),
        f"{row['agreement']:.0%}",
        f"{sizes['small'] / sizes['dense']:.2f}",
    )


def sparse_cuda_table(store: Store) -> str:
    """Products on a GPU as chosen over dense ones."""
    rows = _good(store, "sparse_cuda")
    if not rows:
        return ""
    headings = ["product", "masked ms", "small ms", "small / masked", "chosen", "error small", "error masked"]
    return table(
        headings,
        (
            (
                name,
                *(f"{1e3 * row['latency'][kind]['median']:.3f}" for kind in ("masked", "small")),
                _ratio(row["latency"], "small", "masked"),
                ", ".join(row["chosen"]) or "-",
                *(f"{row['errors'][kind]:.0e}" for kind in ("small", "masked")),
            )
            for name, row in rows.items()
        ),
    )


def _good(store: Store, section: str) -> dict[str, Row]:
    return {key: row for key, row in store.rows(section).items() if "failure" not in row}


def _ratio(latency: Mapping[str, Any], one: str, other: str) -> str:
    if one not in latency or other not in latency:
        return "-"
    return f"{latency[one]['median'] / latency[other]['median']:.2f}"


def _milliseconds(latency: Mapping[str, Any], kind: str) -> str:
    found = latency[kind]
    return f"{1e3 * found['median']:.1f} ± {0.5e3 * (found['high'] - found['low']):.1f}"


def recipes_table(store: Store) -> str:
    """Each recipe: what is kept, sizes, seconds and the error of what it ends with."""
    rows = _good(store, "recipes")
    if not rows:
        return ""
    headings = ["recipe", "parameters kept", "MACs kept", "MB before", "after", "processor s", "error"]
    return table(headings, (_recipe_row(name, row) for name, row in rows.items()))


def _recipe_row(name: str, row: Row) -> Sequence[str]:
    return (
        f"`{name}`",
        *(f"{row[kind][1] / row[kind][0]:.0%}" for kind in ("parameters", "macs")),
        *(f"{size:.1f}" for size in row["megabytes"]),
        f"{row['processor_seconds']:.1f}",
        f"{row['error']:.0e}",
    )


def scale_table(store: Store) -> str:
    """Checkpoints made smaller on disk, and plans without weights."""
    rows = _good(store, "scale")
    if not rows:
        return ""
    headings = ["size", "parameters", "plan CPU s", "plan peak GB", "plan file MB"]
    headings += ["read GB", "written GB", "s", "CPU s", "writing s", "copy s", "peak beyond start MB"]
    headings += ["bit for bit"]
    return table(headings, (_scale_cells(size, row) for size, row in rows.items()))


def _scale_cells(size: str, row: Row) -> list[str]:
    before, after = row["parameters"]
    cells = [size, f"{before / 1e6:,.0f}M -> {after / 1e6:,.0f}M", f"{row['plan_cpu_seconds']:.1f}"]
    cells += [f"{row['plan_peak_bytes'] / 1e9:.2f}", f"{row['plan_file_bytes'] / 1e6:.2f}"]
    if "seconds" not in row:
        return [*cells, *["-"] * 8]
    cells += [f"{row[name] / 1e9:.2f}" for name in ("source_bytes", "written_bytes")]
    cells += [f"{row[name]:.1f}" for name in ("seconds", "cpu_seconds", "writing_seconds", "copy_seconds")]
    return [*cells, f"{row['extra_bytes'] / 1e6:.0f}", "yes" if row["is_equal"] else "no"]


# Name in the README -> the section it is from, and what makes it.
TABLES: Mapping[str, tuple[str, Callable[[Store], str]]] = {
    "bars": ("limit", bars),
    "recipes": ("recipes", recipes_table),
    "limit": ("limit", limit_table),
    "growth": ("growth", growth_table),
    "phases": ("phases", phases_table),
    "digits": ("digits", digits_table),
    "consecutive": ("consecutive", consecutive_table),
    "latency": ("latency", latency_table),
    "sparse": ("sparse", sparse_table),
    "sparse_cuda": ("sparse_cuda", sparse_cuda_table),
    "peers": ("peers", peers_table),
    "costs": ("peers", costs_table),
    "deviations": ("peers", deviations_table),
    "scale": ("scale", scale_table),
}
