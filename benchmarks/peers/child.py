"""Runs one tool on one model and prints what came of it as a line of JSON: `python child.py TOOL JOB`.

JOB is a file of tensors and plain values written by `benchmarks.peers.run`. Runs in the tool's own
environment, so it needs nothing but torch and that tool.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from typing import Any

import torch
from torch import nn

from benchmarks import architectures
from benchmarks.clock import forget_peak, interleaved, peak, repeats_within

_SECONDS = 6.0


def main() -> None:
    """Measure, whatever happens; the last line of the output is the result."""
    _limit_memory()
    tool, job = sys.argv[1], torch.load(sys.argv[2], weights_only=True)
    torch.set_num_threads(job["threads"])
    try:
        result = measured(tool, job)
    except Exception as error:
        result = {"works": False, "failure": f"{type(error).__name__}: {str(error).strip()[:300]}"}
    print("\n" + json.dumps(result))


def _limit_memory() -> None:
    """A tool that takes more than three quarters of the memory fails, and not the machine."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def measured(tool: str, job: dict[str, Any]) -> dict[str, Any]:
    """Convert in float32, time and count; then compare in float64.

    A tool that only removes rows gives the same in either type, so its result is widened; one that computes
    new weights converts a second time, in float64.
    """
    module = importlib.import_module(f"benchmarks.peers.{tool}")
    model, example = _model(job), _narrow(job["inputs"][0])
    before = forget_peak()
    start = time.perf_counter()
    small = module.convert(model, example, _masks(job, torch.float32))
    result: dict[str, Any] = {"works": True, "seconds": time.perf_counter() - start}
    result["peak_bytes"] = peak() - before
    result["parameters"] = sum(p.numel() for p in small.parameters())
    result["macs"] = macs(small, example)
    result["latency"] = _latency(small, job)
    if module.COMPUTES_WEIGHTS:
        wide = module.convert(_model(job).double(), job["inputs"][0], _masks(job, torch.float64))
    else:
        wide = small.double()
    return {**result, **_deviation(wide, job)}


def macs(model: nn.Module, x: Any) -> int:
    """Multiply-accumulates of one forward pass, as torch counts floating point operations, halved."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(model, x)
    return int(counter.get_total_flops()) // 2


def call(model: nn.Module, x: Any) -> Any:
    """The forward pass; its first output."""
    output = model(**x) if isinstance(x, dict) else model(x)
    return (
        output
        if isinstance(output, torch.Tensor)
        else next(iter(output.values() if isinstance(output, dict) else output))
    )


def _model(job: dict[str, Any]) -> nn.Module:
    model = architectures.build(job["name"])
    model.load_state_dict(job["state"])
    return model.eval()


def _masks(job: dict[str, Any], dtype: torch.dtype) -> dict[str, dict[str, torch.Tensor]]:
    return {path: {name: mask.to(dtype) for name, mask in own.items()} for path, own in job["masks"].items()}


def _narrow(x: Any) -> Any:
    return x.float() if isinstance(x, torch.Tensor) else x


def _deviation(converted: nn.Module, job: dict[str, Any]) -> dict[str, Any]:
    """The largest difference to the masked model, in units of how its outputs vary between inputs."""
    with torch.no_grad():
        found = [call(converted.eval(), x) for x in job["inputs"]]
    expected = job["outputs"]
    if found[0].shape != expected[0].shape:
        return {
            "error": None,
            "cause": f"the output has shape {tuple(found[0].shape)}, not {tuple(expected[0].shape)}",
        }
    stacked = torch.stack(expected)
    spread = stacked.std(0)
    varying = spread[spread > 1e-6 * spread.max()]
    unit = float(varying.median()) if len(varying) else float(stacked.abs().max()) or 1.0
    error = float((torch.stack(found) - stacked).abs().max()) / unit
    # JSON has no infinity and no NaN.
    return {"error": error if error < float("inf") else None}


def _latency(small: nn.Module, job: dict[str, Any]) -> dict[str, float]:
    x = _narrow(job["inputs"][0])
    run = {"small": lambda: call(small, x)}
    repeats = repeats_within(job.get("seconds", _SECONDS), run["small"])
    return interleaved(run, repeats, threads=job["threads"])["small"]


if __name__ == "__main__":
    main()
