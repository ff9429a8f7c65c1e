"""The README's first figure, in letters so that it shows wherever text does, and its three numbers."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.store import Row, Store

_SHOWN = {"resnet18": "ResNet-18", "vgg16_bn": "VGG-16", "bert_12_layers": "BERT"}
_IN_WORDS = "resnet18"
_BAR = 30


def bars(store: Store) -> str:
    """Parameters, MACs and seconds of small models as shares of the masked ones'; one in a sentence."""
    rows = {name: row for name, row in store.rows("limit").items() if name in _SHOWN and "failure" not in row}
    if _IN_WORDS not in rows:
        return ""
    lines = (line for name, row in rows.items() for line in _lines_of(_SHOWN[name], row))
    return "\n".join(["```text", *lines, "```", "", *_in_numbers(rows[_IN_WORDS])])


def _lines_of(title: str, row: Row) -> Iterable[str]:
    whole, left = row["parameters"]
    yield _line(title, "parameters", left / whole, f"{whole / 1e6:.1f} M -> {left / 1e6:.1f} M")
    whole, left, _ = row["macs"]
    yield _line("", "MACs", left / whole, f"{whole / 1e9:.2f} G -> {left / 1e9:.2f} G")
    whole, left = (row["latency"][kind]["median"] for kind in ("masked", "small"))
    yield _line("", "time", left / whole, f"{1e3 * whole:.1f} ms -> {1e3 * left:.1f} ms")


def _line(title: str, what: str, share: float, numbers: str) -> str:
    full = round(share * _BAR)
    return f"{title:9}  {what:10}  {chr(0x2588) * full}{chr(0x2591) * (_BAR - full)}  {share:4.0%}  {numbers}"


def _in_numbers(row: Row) -> Iterable[str]:
    (whole, left), latency, seconds = row["parameters"], row["latency"], row["seconds"]
    time = latency["small"]["median"] / latency["masked"]["median"]
    whole_path = seconds["plan"]["wall"] + seconds["verified"]["wall"]
    yield "Half the filters of each convolution are masked, each layer on its own, in BERT a quarter of heads"
    yield "and half the hidden units; batch 1."
    yield f"ResNet-18 loses **{1 - left / whole:.0%}** of its parameters, takes **{time:.2f}** of the time;"
    yield f"its outputs differ by **{row['error']:.0e}** standard deviations in float64."
    yield f"To plan, make and check it takes {whole_path:.1f} s."
