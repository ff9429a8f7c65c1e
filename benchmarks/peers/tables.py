"""The peers' tables from stored results."""

from __future__ import annotations

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


def peers_table(store: Store) -> str:
    """Every tool on every model: exact or off by how much, what is kept, seconds, memory, latency."""
    rows = store.rows("peers")
    if not rows:
        return ""
    models = dict.fromkeys(tuple(key.split("/")[:2]) for key in rows)
    tools = [tool for tool in _TOOLS if any(key.endswith(f"/{tool}") for key in rows)]
    body = (
        (name, recipe, *(_peer_cell(rows.get(f"{name}/{recipe}/{tool}")) for tool in tools))
        for name, recipe in models
    )
    legend = (
        "Cell: exact, or the largest error in standard deviations of an output; parameters / MACs kept in %; "
        "seconds to convert; GiB of peak memory; ms of a forward pass at batch 1."
    )
    return f"{table(['model', 'masks', *(_TOOLS[tool] for tool in tools)], body)}\n\n{legend}"


def _peer_cell(row: Row | None) -> str:
    if row is None:
        return "-"
    if not row.get("works"):
        return "fails"
    error = row["error"]
    off = "broken" if error is None else f"off by {error:.2g}"
    verdict = "exact" if is_exact(row) else f"**{off}**"
    parameters = row["parameters"] / row["parameters_before"]
    kept = f"{100 * parameters:.0f}/{100 * row['macs'] / row['macs_before']:.0f}"
    memory = f"{row['peak_bytes'] / _MEMORY:.2f} GiB"
    return f"{verdict}; {kept}; {row['seconds']:.2g} s; {memory}; {1e3 * row['latency']['median']:.1f} ms"


def deviations_table(store: Store) -> str:
    """Where a tool fails or its result is not the masked model, and why."""
    rows = store.rows("peers")
    found = [(key.split("/"), row) for key, row in rows.items() if not row.get("works") or row.get("cause")]
    if not found:
        return ""
    body = (
        (
            name,
            recipe,
            _TOOLS[tool],
            (row.get("cause") or row.get("failure", "")).replace("|", "/").splitlines()[0],
        )
        for (name, recipe, tool), row in found
    )
    return table(["model", "masks", "tool", "cause"], body)
