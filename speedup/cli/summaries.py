"""What `--json` prints: a few figures of each command, under names that stay.

`parameters`, `macs` and `bytes` are each `{"before", "after"}`, the first two also with `asked` and
`held_back`: how many of them masks ask to go, and how many of these stay. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import asdict

from speedup.building.verifying import Verification
from speedup.demo import Outcome
from speedup.measuring.latency import LatencyTable, ModelLatency
from speedup.plan import Plan
from speedup.rendering.causes import causes_of
from speedup.rendering.latency import LatencyEstimate
from speedup.rendering.verdict import advice, verdict
from speedup.rendering.versions import package_version
from speedup.sparse.choices import Choices


def plan_summary(
    plan: Plan, warnings: Sequence[str] = (), latency: LatencyEstimate | None = None
) -> dict[str, Any]:
    """What a plan comes to, and why what stays does, the largest reason first."""
    report = plan.report
    asked, size = report.asked, report.size
    reasons = [
        {"reason": c.told, "help": c.help, "macs": c.macs, "parameters": c.parameters}
        for c in causes_of(report)
    ]
    return {
        **_versions(warnings),
        "model": plan.model_name,
        "verdict": verdict(report),
        "advice": advice(report),
        "parameters": _counts(report.parameters, None if asked is None else asked.parameters),
        "macs": _counts(report.macs, None if asked is None else asked.macs),
        "bytes": None if size is None else dict(zip(("before", "after"), size, strict=True)),
        "layers": {"all": len(report.layers), "changed": sum(layer.is_changed for layer in report.layers)},
        "reasons": reasons,
        "assumptions": list(report.assumptions),
        "unknown_operators": list(report.unknown_operators),
        **({} if latency is None else {"seconds": {"before": latency.before, "after": latency.after}}),
    }


def file_summary(plan: Plan, path: Path, warnings: Sequence[str], **further: str) -> dict[str, Any]:
    """What a plan comes to, and the file that was written of it."""
    return plan_summary(plan, warnings) | {"file": str(path), **further}


def choices_summary(choices: Choices) -> dict[str, Any]:
    """What was measured of layers with single zeros; `kernel` is "dense" where none gains, `why` says why."""
    layers = [
        {
            "path": layer.path,
            "zeros": layer.zeros,
            "kernel": layer.kernel,
            "why": layer.why,
            "seconds": {
                "dense": None if layer.dense is None else layer.dense.median,
                "sparse": None if layer.best is None else (layer.chosen or layer.best).seconds.median,
            },
        }
        for layer in choices.layers
    ]
    whole = choices.whole and dict(zip(("dense", "chosen"), map(asdict, choices.whole), strict=True))
    return {"sparse": {"verdict": choices.verdict, "layers": layers, "forward": whole}}


def verification_summary(found: Verification, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """What was compared, and the largest relative error; None where no inputs were run."""
    sizes = [size for size in found.batch_sizes if size is not None]
    return {**_versions(warnings), "equivalent": True, "error": found.error, "batch_sizes": sizes}


def latency_summary(table: LatencyTable, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """Each measured model with quartiles, the best alignment, whether the machine was too busy to tell."""
    return {
        **_versions(warnings),
        "masked": _measured(table.masked),
        "small": [_measured(row) for row in table.rows],
        "best_align": table.best,
        "spread": table.spread,
        "noisy": table.is_noisy,
        "conditions": asdict(table.conditions),
    }


def demo_summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Each network of the demo: sizes, medians of one forward, largest error in standard deviations."""
    cases = [
        {
            "name": outcome.name,
            "parameters": _counts(outcome.plan.report.parameters, None),
            "macs": _counts(outcome.plan.report.macs, None),
            "seconds": asdict(outcome.latency),
            "error": outcome.error,
        }
        for outcome in outcomes
    ]
    return {**_versions(()), "cases": cases}


def _versions(warnings: Sequence[str]) -> dict[str, Any]:
    return {"speedup": package_version(), "torch": torch.__version__, "warnings": list(warnings)}


def _counts(counts: tuple[int, int], held: int | None) -> dict[str, int]:
    before, after = counts
    more = {} if held is None else {"asked": before - after + held, "held_back": held}
    return {"before": before, "after": after, **more}


def _measured(row: ModelLatency) -> dict[str, Any]:
    return {"align": row.align, "parameters": row.parameters, "macs": row.macs, **asdict(row.timing)}
