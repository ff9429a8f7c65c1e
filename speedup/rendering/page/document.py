"""The HTML report of a plan, put together from what its `Report` tells."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any
from xml.etree.ElementTree import Element

from speedup.ir.report import Layer, Report
from speedup.rendering.counts import change, megabytes, part_of_whole, share_removed, short_count
from speedup.rendering.latency import LatencyEstimate, milliseconds
from speedup.rendering.page.elements import element, html_text
from speedup.rendering.page.sections import (
    what_holds_back,
    what_is_aligned,
    what_is_apart,
    what_is_assumed,
    what_is_lowered,
    what_stays,
)
from speedup.rendering.tree import Branch, Counts, Leaf, branches_to_open, leaves, tree_of
from speedup.rendering.verdict import advice, verdict

# What is open at first: about what a screen of the graph, and two of the list, can show.
_MOST_BOXES = 36
_MOST_ENTRIES = 90
# Whatever a name in the report holds, a browser loads nothing for it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def html_report(
    report: Report,
    explain: Callable[[str], str],
    title: str,
    facts: Sequence[str] = (),
    latency: LatencyEstimate | None = None,
) -> str:
    """A whole HTML document without references to anything outside of it.

    `explain` tells in plain text about the layer of a path; `facts` are lines below the title.
    """
    tree = tree_of(report)
    numbers = {leaf.name: number for number, leaf in enumerate(leaves(tree))}
    main = element(
        "main",
        element("h1", title),
        *(element("p", fact, class_="hint") for fact in facts),
        element("p", verdict(report), class_="verdict"),
        *(element("p", line) for line in [advice(report)] if line),
        _summary(report, latency),
        *what_holds_back(report),
        *_search(),
        *_graph(report, tree, numbers),
        *_layers(report, tree, numbers, explain),
        *what_stays(report),
        *what_is_lowered(report),
        *what_is_assumed(report),
        *what_is_aligned(report),
        *what_is_apart(report),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", _file("report.css")),
    )
    body = element("body", main, element("script", _file("report.js")))
    return f"<!DOCTYPE html>\n{html_text(element('html', head, body, lang='en'))}\n"


def _file(name: str) -> str:
    return files("speedup.rendering.page").joinpath(name).read_text(encoding="utf-8")


def _summary(report: Report, latency: LatencyEstimate | None) -> Element:
    changed = sum(layer.is_changed for layer in report.layers)
    staying = sum(blocked.count for blocked in report.blocked)
    asked = report.asked
    sizes = [] if report.size is None else [_card("MB on disk", report.size, None, megabytes)]
    if latency is not None:
        sizes.append(_card("ms per forward, estimated", latency.microseconds, None, milliseconds))
        sizes[-1].append(element("p", latency.conditions, class_="hint"))
    return element(
        "section",
        _card("Parameters", report.parameters, None if asked is None else asked.parameters, short_count),
        _card("MACs for the example input", report.macs, None if asked is None else asked.macs, short_count),
        *sizes,
        _fact("Layers that change", f"{changed:,} of {len(report.layers):,}"),
        _fact("Channels that could go but stay", f"{staying:,}"),
        class_="cards",
    )


def _card(title: str, counts: Counts, held: int | None, write: Callable[[int], str]) -> Element:
    before, after = counts
    card = element(
        "div",
        element("h2", title),
        element("p", f"−{share_removed(before, after)}", class_="figure"),
        element("p", f"{write(before)} → {write(after)}", title=f"{before:,} → {after:,}"),
        _bar(counts, before),
        class_="card",
    )
    if held is not None:
        asked = part_of_whole(before - after + held, before)
        card.append(
            element("p", f"asked for {asked}, held back {part_of_whole(held, before)}", class_="hint")
        )
    return card


def _fact(title: str, text: str) -> Element:
    return element("div", element("h2", title), element("p", text, class_="figure"), class_="card")


def _bar(counts: Counts, largest: int) -> Element:
    """How much there was, against `largest`, and how much of that is left."""
    before, after = counts
    whole = element("span", class_="before", style=f"width:{_percent(before, largest)}")
    # Bias that is added may make a layer larger than it was.
    whole.append(element("span", class_="after", style=f"width:{_percent(min(after, before), before)}"))
    return element("span", whole, class_="bar")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.4g}%" if whole else "0%"


def _search() -> tuple[Element, ...]:
    box = element("input", type="search", id="search", placeholder="part of a path, such as layer1.0")
    found = element("output", id="found")
    label = element("label", "Find layers ", box, for_="search")
    return (element("p", label, " ", found, class_="search scripted"),)


def _graph(report: Report, tree: Branch, numbers: dict[str, int]) -> tuple[Element, ...]:
    data = {
        "root": _boxes(tree, branches_to_open(tree, _MOST_BOXES), numbers),
        "links": [[numbers[a], numbers[b]] for a, b in report.links if a in numbers and b in numbers],
    }
    # Nothing in a script is escaped, and "</script" would end it.
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    buttons = (("in", "+"), ("out", "−"), ("fit", "fit"), ("open", "open all"), ("close", "close all"))
    bar = element("div", *(element("button", t, type="button", id=f"graph-{n}") for n, t in buttons))
    bar.set("class", "tools")
    return (
        element("h2", "Graph"),
        element("noscript", element("p", "The graph is drawn by a script, which this browser does not run.")),
        element(
            "p",
            "Boxes are layers and modules; the bar in each is the share of its parameters that is left. "
            "A click opens or closes a module, or shows a layer in the list below. "
            "Drag to move, Ctrl and wheel to zoom; two fingers do both.",
            class_="hint scripted",
        ),
        element("div", bar, Element("svg", {"id": "graph", "role": "img"}), class_="graph scripted"),
        element("script", text, type="application/json", id="graph-data"),
    )


def _boxes(branch: Branch, open_: frozenset[int], numbers: dict[str, int]) -> dict[str, Any]:
    """What the script draws of a branch."""
    return {
        "label": branch.label,
        "text": f"{branch.layers:,} layers, {branch.changed:,} change",
        "counts": branch.parameters,
        "open": id(branch) in open_,
        "children": [
            _boxes(child, open_, numbers) if isinstance(child, Branch) else _box(child, numbers)
            for child in branch.children
        ],
    }


def _box(leaf: Leaf, numbers: dict[str, int]) -> dict[str, Any]:
    drawn: dict[str, Any] = {"label": leaf.label, "id": numbers[leaf.name], "path": leaf.name}
    if isinstance(leaf.of, Layer):
        drawn |= {
            "text": _sizes(leaf.of),
            "counts": (leaf.of.parameters_before, leaf.of.parameters_after),
        }
    return drawn


def _sizes(layer: Layer) -> str:
    if layer.after == layer.before:
        return layer.before
    return f"{layer.before} → {layer.after.removeprefix(layer.kind)}"


def _layers(
    report: Report, tree: Branch, numbers: dict[str, int], explain: Callable[[str], str]
) -> tuple[Element, ...]:
    largest = (
        max((layer.parameters_before for layer in report.layers), default=0),
        max((layer.macs_before for layer in report.layers), default=0),
    )
    open_ = branches_to_open(tree, _MOST_ENTRIES)

    def entries(branch: Branch, depth: int) -> Iterable[Element]:
        for child in branch.children:
            if isinstance(child, Branch):
                entry = _module(child, id(child) in open_, entries(child, depth + 1))
            elif isinstance(child.of, Layer):
                entry = _layer(child.label, child.of, numbers[child.name], largest, explain)
            else:
                continue
            entry[0].set("style", f"--depth:{depth}")
            yield entry

    return (
        element("h2", "Layers"),
        element(
            "p",
            "Bars are as long as the layer was large, against the largest layer; the dark part is left. "
            "Open a layer to read why.",
            class_="hint",
        ),
        element("div", _headings(), *entries(tree, 0), class_="layers", id="layers"),
    )


def _headings() -> Element:
    cells = ("module", "before → after", "parameters", "MACs")
    return element("div", *(element("span", cell) for cell in cells), class_="row headings")


def _module(branch: Branch, is_open: bool, entries: Iterable[Element]) -> Element:
    summary = element(
        "summary",
        element("span", branch.label, class_="name"),
        element("span", f"{branch.layers:,} layers, {branch.changed:,} change", class_="change"),
        element("span", _shares(branch.parameters), class_="count"),
        element("span", _shares(branch.macs), class_="count"),
        class_="row",
    )
    made = element("details", summary, *entries, class_="module")
    if is_open:
        made.set("open", "open")
    return made


def _layer(label: str, layer: Layer, number: int, largest: Counts, explain: Callable[[str], str]) -> Element:
    parameters = (layer.parameters_before, layer.parameters_after)
    macs = (layer.macs_before, layer.macs_after)
    summary = element(
        "summary",
        element("span", label or "(model)", class_="name", title=layer.path),
        element("span", _sizes(layer), class_="change"),
        _count(parameters, largest[0]),
        _count(macs, largest[1]),
        class_="row",
    )
    why = element("pre", explain(layer.path))
    kind = "layer changed" if layer.is_changed else "layer"
    return element("details", summary, why, class_=kind, id=f"layer-{number}", data_path=layer.path)


def _count(counts: Counts, largest: int) -> Element:
    bars = [_bar(counts, largest)] if counts[0] else []
    return element("span", _shares(counts), *bars, class_="count")


def _shares(counts: Counts) -> str:
    return change(*counts, short_count, arrow="→")
