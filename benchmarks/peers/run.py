"""Peers side by side: the same models and masks for every tool, one process per row. Section `peers`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.architectures import NAMES
from benchmarks.peers.child import call, macs
from benchmarks.peers.environments import ENVIRONMENTS
from benchmarks.settings import Settings
from benchmarks.store import Row
from benchmarks.subjects import subject
from speedup import apply_masks

_ROOT = Path(__file__).parents[2]
_TIMEOUT = 420
OURS = "speedup"
TOOLS = (OURS, *ENVIRONMENTS)
RECIPES = ("each", "agreeing")
_CALLS = 3


def run(settings: Settings, tools: tuple[str, ...] = TOOLS) -> None:
    """Measure all models with both kinds of masks by all tools; rows are under `model/recipe/tool`."""
    for tool in tools:
        if tool != OURS:
            ENVIRONMENTS[tool].make()
    for name in settings.chosen((*NAMES,), ["fpgm_mnist"]):
        for recipe in RECIPES:
            with tempfile.TemporaryDirectory() as folder:
                job = Path(folder) / "job.pt"
                dense = _write(job, name, recipe, settings)
                for tool in tools:
                    key = f"{name}/{recipe}/{tool}"
                    settings.measure("peers", key, partial(_row, tool, job, dense))


def _write(job: Path, name: str, recipe: str, settings: Settings) -> Row:
    """Write what a tool is given, and the masked model's outputs; the row's part that all tools share."""
    one = subject(name, recipe)
    state = {n: t.detach().clone() for n, t in one.model.state_dict().items()}
    dense = {
        "parameters_before": sum(p.numel() for p in one.model.parameters()),
        "macs_before": macs(one.model, one.inputs(1, 0)),
    }
    wide = one.double()
    masked = apply_masks(wide.model, wide.masks).eval()
    inputs = [wide.inputs(1, n) for n in range(_CALLS)]
    with torch.no_grad():
        outputs = [call(masked, x).clone() for x in inputs]
    given = {
        "name": name,
        "state": state,
        "masks": {
            p: {n: m.expand_as(one.model.get_parameter(f"{p}.{n}")).clone() for n, m in own.items()}
            for p, own in one.masks.items()
        },
        "inputs": inputs,
        "outputs": outputs,
        "threads": settings.threads,
        "seconds": 0.1 if settings.smoke else 4.0,
    }
    torch.save(given, job)
    return dense


def _row(tool: str, job: Path, dense: Row) -> Row:
    python = sys.executable if tool == OURS else str(ENVIRONMENTS[tool].python)
    command = [python, "-W", "ignore", "-m", "benchmarks.peers.child", tool, str(job)]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    try:
        done = subprocess.run(
            command, cwd=_ROOT, capture_output=True, text=True, timeout=_TIMEOUT, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return {**dense, "works": False, "failure": f"not done after {_TIMEOUT} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        words = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {**dense, "works": False, "failure": words[:300]}
    found: dict[str, Any] = json.loads(lines[-1])
    return {**dense, **found}
