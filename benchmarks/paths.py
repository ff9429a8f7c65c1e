"""A user's path for each recipe of `speedup.recipes`: seconds from the model to the end, sizes, errors.

Section `recipes`. Recipes whose packages are not installed are left out, with a word on what they need.
"""

from __future__ import annotations

import resource
import time
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch

from benchmarks.settings import Settings
from benchmarks.store import Row
from speedup.recipes import RECIPES, load_recipe
from tests.support.vision import available


def run(settings: Settings) -> None:
    """Run every recipe once, in this process, with its packages imported beforehand."""
    for name in settings.chosen(RECIPES, ["quantised"]):
        missing = [package for package in RECIPES[name][1] if find_spec(package) is None]
        if missing:
            print(f"recipes: {name}: needs {', '.join(missing)}")
            continue
        settings.measure("recipes", name, partial(_row, name, settings))


def _processor_time() -> float:
    """Seconds of all processors, in this process and in those it has waited for, such as a compiler."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _row(name: str, settings: Settings) -> Row:
    torch.set_num_threads(settings.threads)
    available()
    recipe = load_recipe(name)
    torch.manual_seed(0)
    for package in RECIPES[name][1]:
        import_module(package)
    start, before = time.perf_counter(), _processor_time()
    made = recipe()
    seconds, on_processor = time.perf_counter() - start, _processor_time() - before
    plan = made.plan
    return {
        "seconds": seconds,
        "processor_seconds": on_processor,
        "parameters": [plan.parameters_before, plan.parameters_after],
        "macs": [plan.macs_before, plan.macs_after],
        "megabytes": list(made.megabytes or (4e-6 * plan.parameters_before, 4e-6 * plan.parameters_after)),
        "error": made.error,
    }
