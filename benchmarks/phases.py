"""Where the time of `plan_speedup` goes: processor seconds by phase. Section `phases`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.architectures import BERT, VISION
from benchmarks.settings import Settings
from benchmarks.store import Row
from benchmarks.subjects import subject
from speedup import plan_speedup

_LIKE_OTHERS = ("efficientnet_b0", "resnext50_32x4d", "convnext_tiny")
MODELS = ("fpgm_mnist", *(name for name in VISION if name not in _LIKE_OTHERS), BERT)
# Phase -> the functions that make it up, as the planner calls them; the innermost running phase is charged.
PHASES = {
    # The traced forward, by whichever of the two writes it down.
    "export": ("speedup.tracing.trace.capture_program", "speedup.tracing.trace.export_program"),
    "trace": ("speedup.planning.planner.survey",),
    "constants": ("speedup.analyses.constants.find_constants",),
    "liveness": ("speedup.analyses.liveness.find_liveness",),
    "coupling": ("speedup.planning.planner.solve_coupling",),
    "fixpoint": ("speedup.planning.problem.solve_keep_sets",),
    "fitting": ("speedup.planning.problem.make_feasible",),
    "edits": ("speedup.planning.planner.edits_of",),
    "expected": ("speedup.planning.planner.expected_trace",),
    "rehearsal": ("speedup.planning.planner.rehearse",),
    "report": ("speedup.planning.planner.report_of",),
    "checks": (
        "speedup.planning.planner.resolve_masks",
        "speedup.planning.planner.fingerprints_of",
        "speedup.planning.planner._check_finite",
    ),
}
REST = "rest"


def run(settings: Settings) -> None:
    """Profile planning on every model, half of each layer masked."""
    torch.set_num_threads(settings.threads)
    for name in settings.chosen(MODELS, ["fpgm_mnist"]):
        settings.measure("phases", name, partial(_row, name, settings))


def _row(name: str, settings: Settings) -> Row:
    one = subject(name)
    x = one.inputs(1, 0)
    plan_speedup(one.model, x, one.masks)
    runs = [profile(lambda: plan_speedup(one.model, x, one.masks)) for _ in range(1 if settings.smoke else 3)]
    best = min(runs, key=lambda seconds: sum(seconds.values()))
    return {"seconds": best, "total": sum(best.values())}


def profile(call: Callable[[], object]) -> dict[str, float]:
    """Processor seconds of `call` by phase, each without the phases inside of it; `rest` is outside of all.

    An export is charged to `rehearsal` when it runs within that.
    """
    seconds = dict.fromkeys((*PHASES, REST), 0.0)
    running = [REST]
    since = [time.process_time()]

    def charge() -> None:
        now = time.process_time()
        seconds[running[-1]] += now - since[0]
        since[0] = now

    def within(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with _entered("rehearsal" if "rehearsal" in running else phase, running, charge):
                found = function(*args, **kwargs)
                return list(found) if isinstance(found, Iterator) else found

        return wrapped

    with ExitStack() as patches:
        for phase, names in PHASES.items():
            for name in names:
                patches.enter_context(patch(name, within(phase, _resolved(name))))
        since[0] = time.process_time()
        call()
        charge()
    return seconds


@contextmanager
def _entered(phase: str, running: list[str], charge: Callable[[], None]) -> Iterator[None]:
    charge()
    running.append(phase)
    try:
        yield
    finally:
        charge()
        running.pop()


def _resolved(name: str) -> Callable[..., Any]:
    from pkgutil import resolve_name

    module, _, function = name.rpartition(".")
    found = getattr(resolve_name(module), function)
    assert callable(found)
    return found
