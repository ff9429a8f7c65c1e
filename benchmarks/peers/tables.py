"""The peers' tables from stored results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.markdown import table
from benchmarks.peers.verdict import is_exact
from benchmarks.store import Row, Store

_MEMORY = 2**30
_TOOLS = {
    "speedup": "speedup",
    "nni": "NNI 3.0",
    "torch_pruning": "Torch-Pruning 1.6.1",
    "torch_ao": "torch.ao.pruning",
}
_CONSTANTS = "drops constants (biases, BatchNorm's shifts) of masked channels"
_TOO_MUCH = "prunes coupled channels that the masks of other layers keep"
_STATISTICS = "takes statistics or attention's scale over the narrower width"
_UNCHANGED = "leaves the model as it was, unmasked"
_WORDS = 160
# Dropping them as well saves no more than a tenth of the work.
_AT_BORDERS = 0.9

# (model, recipe) -> the row of each tool.
_Rows = Mapping[tuple[str, str], Mapping[str, Row]]


def peers_table(store: Store) -> str:
    """Every tool on every model: exact or off by how much, and what is kept."""
    rows = _by_model(store)
    if not rows:
        return ""
    body = ((*key, *(_verdict(own.get(tool)) for tool in _TOOLS)) for key, own in rows.items())
    legend = (
        "Exact, or the largest error in standard deviations of an output; then the parameters and the MACs "
        "that are kept, in %."
    )
    return f"{table(['model', 'masks', *_TOOLS.values()], body)}\n\n{legend}"


def costs_table(store: Store) -> str:
    """Seconds and memory of a conversion, and the latency of what comes out, tool by tool."""
    rows = _by_model(store)
    if not rows:
        return ""
    tools = [tool for tool in _TOOLS if tool != "torch_ao"]
    headings = ["model", "masks", *(f"{_TOOLS[tool]}: s, GiB, ms" for tool in tools), "NNI's time / ours"]
    body = (
        (*key, *(_cost(own.get(tool)) for tool in tools), _times(own.get("nni"), own.get("speedup")))
        for key, own in rows.items()
    )
    legend = (
        "Seconds to convert in a new process, GiB of memory at the peak beyond what was there before, ms of "
        "a forward pass of the result at batch 1."
    )
    return f"{table(headings, body)}\n\n{legend}"


def deviations_table(store: Store) -> str:
    """Where a tool fails or its result is not the masked model, why, and on which models."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for (name, recipe), own in _by_model(store).items():
        for tool, row in own.items():
            if not is_exact(row):
                cause = _cause(tool, recipe, row, own.get("speedup", row))
                found.setdefault((_TOOLS[tool], recipe, cause), []).append(name)
    if not found:
        return ""
    body = ((*key, ", ".join(names)) for key, names in found.items())
    return table(["tool", "masks", "cause", "models"], body)


def _by_model(store: Store) -> _Rows:
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for key, row in store.rows("peers").items():
        name, recipe, tool = key.split("/")
        found.setdefault((name, recipe), {})[tool] = row
    return found


def _verdict(row: Row | None) -> str:
    if row is None:
        return "-"
    if not row.get("works"):
        return "fails"
    error = row["error"]
    verdict = "exact" if is_exact(row) else "**broken**" if error is None else f"**off by {error:.1g}**"
    kept = (row[what] / row[f"{what}_before"] for what in ("parameters", "macs"))
    return "; ".join((verdict, "/".join(f"{100 * share:.0f}" for share in kept)))


def _cost(row: Row | None) -> str:
    if row is None or not row.get("works"):
        return "-"
    latency = 1e3 * row["latency"]["median"]
    return f"{row['seconds']:.2g}, {row['peak_bytes'] / _MEMORY:.2f}, {latency:.1f}"


def _times(theirs: Row | None, ours: Row | None) -> str:
    if theirs is None or ours is None or not (theirs.get("works") and ours.get("works")):
        return "-"
    return f"{theirs['seconds'] / ours['seconds']:.1f}x"


def _cause(tool: str, recipe: str, row: Row, ours: Row) -> str:
    """What was found by looking into each kind of case; a shape that is wrong says so itself."""
    if not row.get("works"):
        return "; ".join(_ends(row.get("failure", "")))
    if row["parameters"] == row["parameters_before"]:
        return _UNCHANGED
    if "cause" in row:
        return str(row["cause"])
    # Where constants stand at a border, the channels that carry them cannot go.
    most = _AT_BORDERS if recipe == "each" else 1.0
    if tool == "torch_pruning" and row["macs"] < most * ours["macs"]:
        return _TOO_MUCH
    return _CONSTANTS if recipe == "each" else _STATISTICS


def _ends(message: str) -> Iterator[str]:
    """The first and the last line of an error message: a module is printed between them."""
    lines = [line.strip() for line in message.replace("|", "/").splitlines() if line.strip()]
    yield from dict.fromkeys(line[:_WORDS] for line in (lines[:1] + lines[-1:]))
